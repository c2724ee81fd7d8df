"""Progress of work on many bytes: a bar with rate and time left on a terminal, an occasional plain line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from threading import Lock
from typing import TextIO

from rich.filesize import decimal

from reference_impl.files.checksum import Advance, silent

Show = Callable[[str, int], AbstractContextManager[Advance]]
"""Shows how much of a number of bytes is done, until the block ends: `progress`, or `unseen`."""

LINE_EVERY_S = 10.0
"""Seconds between two lines where there is no terminal."""


def unseen(_what: str, _total: int) -> AbstractContextManager[Advance]:
    """Return a Show that shows nothing."""
    return nullcontext(silent)


@contextmanager
def progress(what: str, total: int, *, done: int = 0, stream: TextIO | None = None) -> Iterator[Advance]:
    """Show how many of `total` bytes are done, on standard error if no stream is given, until the block ends.

    Args:
        done: bytes that an earlier call finished; they do not count towards the rate.
    """
    stream = stream or sys.stderr
    if stream.isatty():
        with _bar(what, total, done, stream) as advance:
            yield advance
    else:
        yield ProgressLines(what, total, done, stream).advance


@contextmanager
def _bar(what: str, total: int, done: int, stream: TextIO) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    # Average over a minute: connections come and go.
    with Progress(*columns, TimeRemainingColumn(), console=Console(file=stream), speed_estimate_period=60.0) as display:
        task = display.add_task(what, total=total, completed=done)
        yield lambda count: display.advance(task, count)


class ProgressLines:
    """Prints a line every LINE_EVERY_S: `download  12.3 GB of 97.5 GB  12.6 %  410 MB/s  0:03:27 left`."""

    def __init__(self, what: str, total: int, done: int, stream: TextIO) -> None:
        self._what, self._total, self._stream = what, total, stream
        self._before = self._done = done
        self._start = self._last = time.monotonic()
        self._lock = Lock()

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._last < LINE_EVERY_S:
                return
            self._last = now
            self._stream.write(
                describe(self._what, self._done, self._total, self._done - self._before, now - self._start) + "\n"
            )
            self._stream.flush()


def describe(what: str, done: int, total: int, worked: int, seconds: float) -> str:
    """Return one line of progress: `done` of `total` bytes, of which `worked` bytes took `seconds`."""
    rate = worked / seconds
    share = 100 * done / total if total else 100.0
    left = f"{timedelta(seconds=round((total - done) / rate))} left" if rate > 0 else "stalled"
    return f"{what}  {size(done)} of {size(total)}  {share:.1f} %  {size(rate)}/s  {left}"


def size(count: float) -> str:
    """Return bytes as text for people, in decimal units as disks and networks are sold: 97.5 GB."""
    return decimal(int(count))
