"""Handles signals before a run has begun. It imports almost nothing, since it covers the time that imports take."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_on_signals() -> None:
    """Make a signal that asks this process to stop end it at once, with a line. Nothing has been started yet."""
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)
    # run_and_time.sh blocked these while Python started.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _end(number: int, _frame: FrameType | None) -> None:
    say_stopping()
    os._exit(128 + number)


def say_stopping() -> None:
    """Print `stopping` without print(), which the signal may have interrupted."""
    with suppress(OSError):
        os.write(1, b"stopping\n")
