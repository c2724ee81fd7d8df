"""The one clock of a run, and the one place where its timed region begins."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from benchmark.events import EventLog


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


def start_run(log: EventLog, barrier: Callable[[], None]) -> None:
    """End initialisation and start the timed region, as one act.

    Every rank has finished initialising before the clock starts (first barrier), both events carry the same instant
    (no gap in which work could hide), and no rank touches data before the clock has started (second barrier).
    Source: training_rules.adoc, "Timing": the timer starts before any training data is touched.
    """
    barrier()
    instant = log.clock.now()
    log.end("init_stop", at=instant)
    log.start("run_start", at=instant)
    barrier()
