"""Shows a run while it is on: drawn in place on a terminal, as lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import click

from compliance.formats import printable
from compliance.run import Run
from report.watch import BLOCKS, PLAIN_BLOCKS, View, line, lines

if TYPE_CHECKING:
    from rich.text import Text

INTERVAL_S = 1.0
"""Between two drawings, and between two looks at a file that nobody else looks at."""

LINE_EVERY_S = 10.0
"""Between two lines where the screen cannot be drawn on."""


class Screen(Protocol):
    """Where it is shown; a context manager."""

    def __enter__(self) -> Screen: ...
    def __exit__(self, *error: object) -> None: ...
    def show(self, run: Run, view: View, *, last: bool = False) -> None: ...


class PlainScreen:
    """A line every ten seconds and for each evaluation, and all there is to say at the end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shown_at = float("-inf")
        self._evaluations = 0

    def __enter__(self) -> PlainScreen:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def show(self, run: Run, view: View, *, last: bool = False) -> None:
        evaluations, now = run.log.counts["eval_accuracy"], self._clock()
        if last:
            click.echo(printable("\n".join(lines(run, view))))
        elif evaluations != self._evaluations or now - self._shown_at >= LINE_EVERY_S:
            self._evaluations, self._shown_at = evaluations, now
            click.echo(printable(line(run)))


class DrawnScreen:
    """All there is to say, in place, and how long nothing has come."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.live import Live

        self._clock = clock
        self._text, self._shown_at, self._last = "", float("-inf"), False
        self._live = Live(get_renderable=self._renderable, refresh_per_second=1)

    def __enter__(self) -> DrawnScreen:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def show(self, run: Run, view: View, *, last: bool = False) -> None:
        now = self._clock()
        if not last and now - self._shown_at < INTERVAL_S:
            return
        view = replace(view, width=self._live.console.width)
        self._text, self._shown_at, self._last = printable("\n".join(lines(run, view))), now, last
        self._live.refresh()

    def _renderable(self) -> Text:
        from rich.text import Text

        quiet = "" if self._last or not self._text else f"\n{'last line':12} {self._clock() - self._shown_at:.0f} s ago"
        return Text(self._text + quiet)


class Onlooker:
    """Wraps a screen so that its failure cannot end a run that has cost hours. The failure is reported once."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._failed = False

    def __enter__(self) -> Onlooker:
        self._screen.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._screen.__exit__(*error)

    def show(self, run: Run, view: View, *, last: bool = False) -> None:
        if self._failed:
            return
        try:
            self._screen.show(run, view, last=last)
        except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on
            self._failed = True
            click.echo(f"display   given up: {type(error).__name__}: {printable(str(error))}")


def screen(*, drawn: bool = True) -> Screen:
    """The one for standard output.

    Args:
        drawn: whether a terminal is drawn on.
    """
    return DrawnScreen() if drawn and sys.stdout.isatty() else PlainScreen()


def characters() -> str:
    """What standard output can draw curves with."""
    return BLOCKS if (sys.stdout.encoding or "").lower().startswith("utf") else PLAIN_BLOCKS
