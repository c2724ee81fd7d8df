"""The clock of a run."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """The source of all times of a run."""

    def now(self) -> float:
        """Return the seconds since the epoch; never less than before within a process."""
        ...


_RESOLUTION = 0.001
"""Seconds between two times that a log can tell apart."""


class SystemClock:
    """The wall clock when the process starts, continued by the monotonic clock.

    NTP may step a wall clock in the middle of a run. A monotonic clock cannot be stepped, but has no epoch. Together
    they give times that can be compared across hosts and never run backwards.

    Args:
        after: the last time in seconds that an earlier process of the run logged; the clock of its host may be ahead.
    """

    def __init__(self, after: float = 0.0) -> None:
        self._epoch = max(time.time(), after + _RESOLUTION) - time.monotonic()

    def now(self) -> float:
        return self._epoch + time.monotonic()
