"""The one clock of a run."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since the epoch; never runs backwards within a process."""
        ...


_RESOLUTION = 0.001
"""Of a log's times, in seconds."""


class SystemClock:
    """Wall-clock time at the start of the process, carried on by the monotonic clock.

    A wall clock may be stepped by NTP in the middle of a run; a monotonic one cannot, and has no epoch. Together they
    give times that can be compared across hosts and never run backwards.

    Args:
        after: the last time that an earlier process of the run has logged; its host's clock may be ahead of this one's.
    """

    def __init__(self, after: float = 0.0) -> None:
        self._epoch = max(time.time(), after + _RESOLUTION) - time.monotonic()

    def now(self) -> float:
        return self._epoch + time.monotonic()
