"""Waits for other processes without measuring the machine: a process that makes progress is never late."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import psutil

STILL_S = 180.0
"""Seconds after which processes stand still that have not used the processor for `WORK_S` of them."""
WORK_S = 0.5
POLL_S = 0.01


class Progress:
    """Of some processes and of all that they started."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._roots = [process for pid in pids for process in _found(pid)]
        self._used, self._since = 0.0, time.monotonic()

    def alive(self) -> bool:
        """Whether any of the processes that were named runs."""
        return any(map(_runs, self._roots))

    def stands_still(self) -> bool:
        """Whether they have not been seen to work for `STILL_S`; to be asked again and again."""
        used, now = sum(map(_processor_s, self._roots)), time.monotonic()
        if abs(used - self._used) >= WORK_S:
            self._used, self._since = used, now
        return now - self._since > STILL_S


def wait_until(condition: Callable[[], bool], pids: Sequence[int], what: str) -> None:
    """Wait for what processes bring about; AssertionError where they have all ended without it, or stand still."""
    progress, asked = Progress(pids), time.monotonic()
    while True:
        # In this order: a process may bring it about and end.
        alive = progress.alive()
        if condition():
            return
        assert alive, f"{what}: the processes have ended before"
        if time.monotonic() - asked > 1:
            asked = time.monotonic()
            assert not progress.stands_still(), f"{what}: no process has worked for {STILL_S:.0f} s"
        time.sleep(POLL_S)


def _found(pid: int) -> list[psutil.Process]:
    try:
        return [psutil.Process(pid)]
    except psutil.NoSuchProcess:
        return []


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _processor_s(root: psutil.Process) -> float:
    """Seconds of processor that a process and its descendants have used, the ended ones included."""
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])
    return total
