"""Start the ranks of this node, hand signals on to them, and end them together.

Nothing here listens, and of the ranks nothing that another machine could reach: they meet through a file in a folder
that only this user can open, and talk over the loopback device. torchrun's launcher has them meet at a port of every
interface, and unpickles what it finds there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmark.config import RunConfig
from benchmark.errors import error_lines
from benchmark.processes import adopting, ending_with_this, scratch

NOTICE_S = 5.0
"""From the failure of a rank to SIGTERM for the others, which mostly notice by themselves and say so in the log."""

GRACE_S = 3.0
"""Seconds from SIGTERM to SIGKILL, in which rank 0 logs run_stop. The others have nothing to do."""

_STOP = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_HEARD = {*_STOP, signal.SIGUSR1, signal.SIGCHLD}

_LONG_S = 3600.0


def launch(config: RunConfig) -> int:
    """Run DGXNGPU ranks of `reference_impl.pretrain`; returns as `supervise` does."""
    with scratch() as folder:
        environments = [_environment(config, folder, rank) for rank in range(config.layout.gpus_per_node)]
        return supervise([sys.executable, "-m", "reference_impl.pretrain"], environments)


def _environment(config: RunConfig, folder: Path, rank: int) -> dict[str, str]:
    """Of a rank: torchrun's variables as far as they have a meaning here, and our own."""
    layout = config.layout
    defaults = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // layout.gpus_per_node))}
    ours = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": layout.gpus_per_node,
        "LOCAL_WORLD_SIZE": layout.gpus_per_node,
        "RENDEZVOUS_FILE": folder / "rendezvous",
        "NPY_INDEX_DIR": config.data.index_dir or folder / "index",
        # What torch, Python and their compilers leave in the temporary folder goes with this one.
        "TMPDIR": folder,
    }
    return {**defaults, **os.environ, **{name: str(value) for name, value in ours.items()}}


def supervise(command: Sequence[str], environments: Iterable[Mapping[str, str]]) -> int:
    """Run a command once in each environment until all have ended, and whatever they have started.

    SIGTERM, SIGINT and SIGHUP reach the ranks as SIGTERM, and end them; a second one kills them. SIGUSR1 is handed on.
    A rank is killed when this process is.

    Returns:
        128 + n where signal n ended them, or the exit status of the first rank that failed, 1 if a signal ended that
        one, or 0.
    """
    # Taken from a queue, below, instead of interrupting whatever is being done: none is lost, however early it comes.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    bind = ending_with_this()

    def in_rank() -> None:
        bind()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    with adopting() as family:
        try:
            ranks = [
                # A session of its own: Ctrl-C should reach it once, through here.
                subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=in_rank)
                for environment in environments
            ]
            return _watch(ranks)
        finally:
            family.end()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch(ranks: Sequence[subprocess.Popen[bytes]]) -> int:
    running, status, stopping = dict(enumerate(ranks)), 0, False
    due: list[tuple[float, int]] = []
    """Signals that ranks get if they are still there at a time."""
    while running:
        heard = signal.sigtimedwait(_HEARD, max(0.0, due[0][0] - time.monotonic()) if due else _LONG_S)
        now = time.monotonic()
        if heard is None and due:
            _send(running.values(), due.pop(0)[1])
        elif heard is not None and heard.si_signo == signal.SIGUSR1:
            _send(running.values(), signal.SIGUSR1)
        elif heard is not None and heard.si_signo in _STOP:
            # A terminal that is closed sends several SIGHUP.
            _send(running.values(), signal.SIGKILL if stopping and heard.si_signo != signal.SIGHUP else signal.SIGTERM)
            status, stopping = status or 128 + heard.si_signo, True
            due = due if stopping and due else [(now + GRACE_S, signal.SIGKILL)]
        # Of several that end at once, SIGCHLD may come once.
        for number in [number for number, rank in running.items() if rank.poll() is not None]:
            ended = running.pop(number).returncode
            if ended and not status:
                _say_how_it_ended(number, ended)
                status = max(ended, 1)
                due = [(now + NOTICE_S, signal.SIGTERM), (now + NOTICE_S + GRACE_S, signal.SIGKILL)]
    return status


def _say_how_it_ended(rank: int, returncode: int) -> None:
    """Say that a rank was killed, because it could not say so itself."""
    if returncode < 0:
        sys.stderr.write(error_lines([f"rank {rank} was ended by {signal.Signals(-returncode).name}"]))


def _send(ranks: Iterable[subprocess.Popen[bytes]], number: int) -> None:
    """To those that have not ended."""
    for rank in ranks:
        if rank.poll() is None:
            rank.send_signal(number)
