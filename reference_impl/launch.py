"""Start the ranks of this node, hand signals on to them, and end them together.

Nothing here listens, and of the ranks nothing that another machine could reach: they meet through a file in a folder
that only this user can open, and talk over the loopback device. torchrun's launcher has them meet at a port of every
interface, and unpickles what it finds there.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmark.config import RunConfig

NOTICE_S = 5.0
"""From the failure of a rank to SIGTERM for the others, which mostly notice by themselves and say so in the log."""

GRACE_S = 30.0
"""From SIGTERM to SIGKILL, as torchrun has it."""

_STOP = {signal.SIGTERM, signal.SIGINT}
_HEARD = {*_STOP, signal.SIGUSR1, signal.SIGCHLD}

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_LONG_S = 3600.0


def launch(config: RunConfig) -> int:
    """Run DGXNGPU ranks of `reference_impl.pretrain`; returns as `supervise` does."""
    with tempfile.TemporaryDirectory(prefix="ranks_") as folder:
        environments = [_environment(config, Path(folder), rank) for rank in range(config.layout.gpus_per_node)]
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
    }
    return {**defaults, **os.environ, **{name: str(value) for name, value in ours.items()}}


def supervise(command: Sequence[str], environments: Iterable[Mapping[str, str]]) -> int:
    """Run a command once in each environment until all have ended.

    SIGTERM and SIGINT are handed on, and end the ranks; SIGUSR1 is handed on. A rank is killed when this process is.

    Returns:
        128 + n where signal n ended them, or the exit status of the first rank that failed, 1 if a signal ended that
        one, or 0.
    """
    # Taken from a queue, below, instead of interrupting whatever is being done: none is lost, however early it comes.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    libc = ctypes.CDLL(None)

    def in_rank() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    ranks: list[subprocess.Popen[bytes]] = []
    try:
        for environment in environments:
            # A session of its own: Ctrl-C should reach it once, through here.
            rank = subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=in_rank)
            ranks.append(rank)
        return _watch(ranks)
    finally:
        _send(ranks, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch(ranks: Iterable[subprocess.Popen[bytes]]) -> int:
    running, status = list(ranks), 0
    due: list[tuple[float, int]] = []
    """Signals that ranks get if they are still there at a time."""
    while running:
        heard = signal.sigtimedwait(_HEARD, max(0.0, due[0][0] - time.monotonic()) if due else _LONG_S)
        now = time.monotonic()
        if heard is None and due:
            _send(running, due.pop(0)[1])
        elif heard is not None and heard.si_signo == signal.SIGUSR1:
            _send(running, signal.SIGUSR1)
        elif heard is not None and heard.si_signo in _STOP:
            _send(running, heard.si_signo)
            status = status or 128 + heard.si_signo
            due = [(now + GRACE_S, signal.SIGKILL)]
        # Of several that end at once, SIGCHLD may come once.
        for rank in [rank for rank in running if rank.poll() is not None]:
            running.remove(rank)
            if rank.returncode and not status:
                status = max(rank.returncode, 1)
                due = [(now + NOTICE_S, signal.SIGTERM), (now + NOTICE_S + GRACE_S, signal.SIGKILL)]
    return status


def _send(ranks: Iterable[subprocess.Popen[bytes]], number: int) -> None:
    """To those that have not ended; SIGKILL also to what they have started, which cannot be asked to end it."""
    for rank in ranks:
        if rank.poll() is None:
            (os.killpg if number == signal.SIGKILL else os.kill)(rank.pid, number)
