"""Starts the ranks of this node, forwards signals to them, and ends them together.

Nothing here listens on a network, and neither does anything in the ranks that another machine could reach: they meet
through a file in a folder that only this user can open, and talk over the loopback device. torchrun's launcher instead
has them meet at a port on every interface, and unpickles what it receives there.
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
"""Seconds from a rank's failure to SIGTERM for the others, which mostly notice and log it themselves."""

GRACE_S = 3.0
"""Seconds from SIGTERM to SIGKILL, in which rank 0 logs run_stop. The others have nothing to do."""

_STOP = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_HEARD = {*_STOP, signal.SIGUSR1, signal.SIGCHLD}

_LONG_S = 3600.0
"""Seconds to wait for a signal when no rank has a deadline; the loop then waits again."""


def launch(config: RunConfig) -> int:
    """Run DGXNGPU ranks of `reference_impl.pretrain`, and return the exit status of `supervise`."""
    with scratch() as folder:
        environments = [_environment(config, folder, rank) for rank in range(config.layout.gpus_per_node)]
        return supervise([sys.executable, "-m", "reference_impl.pretrain"], environments)


def _environment(config: RunConfig, folder: Path, rank: int) -> dict[str, str]:
    """Return a rank's environment: torchrun's variables as far as they mean something here, and our own."""
    layout = config.layout
    defaults = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // layout.gpus_per_node))}
    ours = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": layout.gpus_per_node,
        "LOCAL_WORLD_SIZE": layout.gpus_per_node,
        "RENDEZVOUS_FILE": folder / "rendezvous",
        "NPY_INDEX_DIR": config.data.index_dir or folder / "index",
        # Whatever torch, Python and their compilers leave in the temporary folder is removed with this one.
        "TMPDIR": folder,
    }
    return {**defaults, **os.environ, **{name: str(value) for name, value in ours.items()}}


def supervise(command: Sequence[str], environments: Iterable[Mapping[str, str]]) -> int:
    """Run a command once in each environment until all of them, and everything they have started, have ended.

    SIGTERM, SIGINT and SIGHUP reach the ranks as SIGTERM, and end them; a second one kills them. SIGUSR1 is forwarded.
    A rank is killed when this process is.

    Returns:
        128 + n if signal n ended the ranks; otherwise the exit status of the first rank that failed, which is 1 if a
        signal ended it; otherwise 0.
    """
    # Signals are taken from a queue, below, and do not interrupt anything, so none is lost, however early it comes.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    bind = ending_with_this()

    def in_rank() -> None:
        bind()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    with adopting() as family:
        try:
            ranks = [
                # A session of its own: Ctrl-C should reach it once, through this process.
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
    """Signals to send to ranks that are still running at a given time."""
    while running:
        heard = signal.sigtimedwait(_HEARD, max(0.0, due[0][0] - time.monotonic()) if due else _LONG_S)
        now = time.monotonic()
        if heard is None and due:
            _send(running.values(), due.pop(0)[1])
        elif heard is not None and heard.si_signo == signal.SIGUSR1:
            _send(running.values(), signal.SIGUSR1)
        elif heard is not None and heard.si_signo in _STOP:
            # A closing terminal sends several SIGHUP.
            _send(running.values(), signal.SIGKILL if stopping and heard.si_signo != signal.SIGHUP else signal.SIGTERM)
            status, stopping = status or 128 + heard.si_signo, True
            due = due if stopping and due else [(now + GRACE_S, signal.SIGKILL)]
        # If several ranks end at once, SIGCHLD may come only once.
        for number in [number for number, rank in running.items() if rank.poll() is not None]:
            ended = running.pop(number).returncode
            if ended and not status:
                _say_how_it_ended(number, ended)
                status = max(ended, 1)
                due = [(now + NOTICE_S, signal.SIGTERM), (now + NOTICE_S + GRACE_S, signal.SIGKILL)]
    return status


def _say_how_it_ended(rank: int, returncode: int) -> None:
    """Report that a signal ended a rank, because the rank could not report it itself."""
    if returncode < 0:
        sys.stderr.write(error_lines([f"rank {rank} was ended by {signal.Signals(-returncode).name}"]))


def _send(ranks: Iterable[subprocess.Popen[bytes]], number: int) -> None:
    """Send a signal to the ranks that have not ended."""
    for rank in ranks:
        if rank.poll() is None:
            rank.send_signal(number)
