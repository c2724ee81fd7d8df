"""Shows a run while it lasts: drawn in place on a terminal, as lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, redirect_stdout, suppress
from dataclasses import replace
from textwrap import wrap
from typing import Any, Protocol, TextIO, cast

import click

from compliance.formats import printable
from compliance.run import Run
from report.watch import BLOCKS, NAME, PLAIN_BLOCKS, WatchView, head, lines, status

INTERVAL_S = 1.0
"""Seconds between two drawings, and between two reads of a followed log."""

LINE_EVERY_S = 10.0
"""Seconds between two lines if the output is not a terminal."""

_USUAL_SIZE = (80, 24)
"""Columns and rows of a terminal that reports none."""

_TO_LINE_END, _TO_SCREEN_END = "\x1b[K", "\x1b[J"
"""Control sequences that clear to the end of the line and of the screen (ECMA-48, EL and ED)."""

Say = Callable[[Run, WatchView], Iterable[str]]


class Screen(Protocol):
    """Shows a run; a context manager."""

    def __enter__(self) -> Screen: ...
    def __exit__(self, *error: object) -> None: ...
    def show(self, run: Run, view: WatchView, *, last: bool = False) -> None:
        """Show the run; called several times a second, and once at the end."""


class PlainScreen:
    """Prints a line every ten seconds if it has changed, two for each evaluation, and everything at the end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shown, self._shown_at = "", float("-inf")
        self._evaluations = 0

    def __enter__(self) -> PlainScreen:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def show(self, run: Run, view: WatchView, *, last: bool = False) -> None:
        evaluations, now = run.log.counts["eval_accuracy"], self._clock()
        if last:
            click.echo(printable("\n".join(lines(run, view))))
        elif evaluations != self._evaluations or now - self._shown_at >= LINE_EVERY_S:
            # The silence changes the line every time, though nothing has happened.
            view = replace(view, quiet=0.0)
            text = "\n".join(status(run, view)) if evaluations != self._evaluations else head(run, view, alone=True)
            if text != self._shown:
                click.echo(printable(text))
            self._evaluations, self._shown, self._shown_at = evaluations, text, now


class DrawnScreen:
    """Redraws some lines in place every second, and prints everything at the end.

    Between drawings the cursor waits at the start of the first line. That place is right even after the terminal has
    been resized and has rewrapped its lines; a number of rows to go back would not be.

    Args:
        say: returns the lines.
    """

    def __init__(self, say: Say = lines, clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._terminal = sys.stdout
        self._rows: list[str] = []
        self._drawn_at = float("-inf")
        self._opened = ExitStack()

    def __enter__(self) -> DrawnScreen:
        self._opened.enter_context(redirect_stdout(cast("TextIO", _Above(self))))
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()
        # The lines stay on the terminal; drawing them again removes a ^C that was echoed into them.
        self._write("".join(f"\r{row}\n" for row in self._rows))

    def show(self, run: Run, view: WatchView, *, last: bool = False) -> None:
        now = self._clock()
        if not last and now - self._drawn_at < INTERVAL_S:
            return
        columns, most = _size(self._terminal)
        # After a character in the last column, terminals differ in where the cursor is.
        view = replace(view, width=columns - 1)
        self._drawn_at = now
        if last:
            self.print("".join(f"{row}\n" for row in _rows(lines(run, view), view.width)))
        else:
            self._draw(_rows(self._say(run, view), view.width)[: most - 1])

    def print(self, text: str) -> None:
        """Write a text above the lines; the next drawing puts them below it."""
        self._write((f"\r{_TO_SCREEN_END}" if self._rows else "") + text)
        self._rows = []

    def _draw(self, rows: list[str]) -> None:
        up = f"\x1b[{len(rows) - 1}A" if len(rows) > 1 else ""
        self._write("\n".join(f"\r{row}{_TO_LINE_END}" for row in rows) + f"{_TO_SCREEN_END}\r{up}")
        self._rows = rows

    def _write(self, text: str) -> None:
        self._terminal.write(text)
        self._terminal.flush()


class _Above:
    """Standard output during drawing: what others print goes above the lines."""

    def __init__(self, screen: DrawnScreen) -> None:
        self._screen = screen
        self._stream = sys.stdout

    def write(self, text: str) -> int:
        self._screen.print(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _rows(texts: Iterable[str], width: int) -> list[str]:
    """Return the lines, wrapped below their subjects."""
    indent = " " * (NAME + 1)
    broken = (wrap(printable(line), max(width, 2 * NAME), subsequent_indent=indent) for line in texts)
    return [row for rows in broken for row in rows]


def _size(terminal: TextIO) -> tuple[int, int]:
    """Return the columns and rows of the terminal now."""
    try:
        found = os.get_terminal_size(terminal.fileno())
    except (OSError, ValueError):
        return _USUAL_SIZE
    return (found.columns, found.lines) if found.columns and found.lines else _USUAL_SIZE


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

    def show(self, run: Run, view: WatchView, *, last: bool = False) -> None:
        if self._failed:
            return
        try:
            self._screen.show(run, view, last=last)
        except Exception as error:  # noqa: BLE001 - whatever it is, the run continues
            self._failed = True
            # The terminal itself may be gone; this process will get SIGHUP in a moment.
            with suppress(OSError):
                click.echo(f"display   given up: {type(error).__name__}: {printable(str(error))}")


def screen(say: Say = lines, *, drawn: bool = True) -> Screen:
    """Return the screen for standard output.

    Args:
        say: returns the lines that are drawn on a terminal.
        drawn: whether to draw if it is a terminal.
    """
    return DrawnScreen(say) if drawn and _can_be_drawn_on() else PlainScreen()


def _can_be_drawn_on() -> bool:
    from rich.console import Console

    return sys.stdout.isatty() and not Console().is_dumb_terminal


def characters() -> str:
    """Return the characters for curves that standard output can encode."""
    return BLOCKS if (sys.stdout.encoding or "").lower().startswith("utf") else PLAIN_BLOCKS
