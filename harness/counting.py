"""Shows a count on standard error: a bar on a terminal, an occasional plain line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

import click

from report.screen import LINE_EVERY_S

Advance = Callable[[int, int], object]
"""Called with how many are done, and how many there are."""


@contextmanager
def counting(what: str, noun: str, *, stream: TextIO | None = None) -> Iterator[Advance]:
    """Show how many are done until the block ends, on standard error if no stream is given."""
    stream = stream or sys.stderr
    if stream.isatty():
        with _bar(what, noun, stream) as advance:
            yield advance
    else:
        yield CountLines(what, noun, stream).advance


@contextmanager
def _bar(what: str, noun: str, stream: TextIO) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(noun)
    with Progress(*columns, TimeRemainingColumn(), console=Console(file=stream), transient=True) as display:
        task = display.add_task(what, total=None)
        yield lambda done, total: display.update(task, completed=done, total=total)


class CountLines:
    """Prints a line every LINE_EVERY_S: `official  120 of 960 verdicts`."""

    def __init__(self, what: str, noun: str, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._what, self._noun, self._stream, self._clock = what, noun, stream, clock
        self._last = clock()

    def advance(self, done: int, total: int) -> None:
        now = self._clock()
        if now - self._last >= LINE_EVERY_S:
            self._last = now
            click.echo(f"{self._what}  {done} of {total} {self._noun}", file=self._stream)
