"""A log that is still being written, on a screen: read as it grows, shown until its run is over."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from compliance.check import NoLogs, find_logs, open_run
from compliance.convergence.rcp import samples_to_target
from compliance.findings import Finding, Severity, count
from compliance.formats import printable
from compliance.log import MAX_LINE
from compliance.run import Run
from report.progress import LineFollower
from report.watch import BLOCKS, PLAIN_BLOCKS, View, Watch, certain, line, lines

if TYPE_CHECKING:
    from rich.text import Text

INTERVAL_S = 1.0
"""Between two looks at the file."""

LINE_EVERY_S = 10.0
"""Between two lines where the screen cannot be drawn on."""


def follow(
    path: Path,
    ruleset: str | None = None,
    *,
    once: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[tuple[Run, bool]]:
    """Yield the run at each look that found something new, and whether that was the last one.

    The last one is where the run has stopped and nothing more comes; with `once`, at the end of what is there.
    """
    follower, watch, quiet = LineFollower(path, longest=MAX_LINE), Watch(path, ruleset), 0
    while True:
        anew, found = follower.poll()
        if anew:
            watch.begin()
        for text in found:
            watch.take(text)
        if anew or found:
            quiet = 0
        # While there is more to read, nothing is known of where the run stands.
        if not found:
            # A line may still follow run_stop.
            over = once or (watch.run.has("run_stop") and quiet > 0)
            if over or quiet == 0:
                yield watch.run, over
            if over:
                return
            quiet += 1
            sleep(INTERVAL_S)


def other_samples(path: Path) -> list[int | None]:
    """Samples to the target of the other runs in the folder of a log that are over; None for one that missed it."""
    if not path.name.startswith("result_") or not path.exists():
        return []
    beside = [log for group in find_logs([path.parent]) for log in group.paths]
    runs = [open_run(log) for log in beside if log.parent == path.parent and log.name != path.name]
    return [samples_to_target(run) for run in runs if run.has("run_stop")]


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
            click.echo(printable(line(run, view)))


class DrawnScreen:
    """All there is to say, in place, and how long nothing has come."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.live import Live

        self._clock = clock
        self._text, self._shown_at, self._last = "", clock(), False
        self._live = Live(get_renderable=self._renderable, refresh_per_second=1)

    def __enter__(self) -> DrawnScreen:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def show(self, run: Run, view: View, *, last: bool = False) -> None:
        view = replace(view, width=self._live.console.width)
        self._text, self._shown_at, self._last = printable("\n".join(lines(run, view))), self._clock(), last
        self._live.refresh()

    def _renderable(self) -> Text:
        from rich.text import Text

        quiet = "" if self._last else f"\n{'last line':12} {self._clock() - self._shown_at:.0f} s ago"
        return Text(self._text + quiet)


def watch_log(path: Path, ruleset: str | None = None, *, once: bool = False) -> bool:
    """Show a log until its run is over; whether nothing is wrong with it by then.

    Raises:
        NoLogs: the path is no file.
    """
    if not path.is_file():
        # Opening a pipe would wait for a writer.
        raise NoLogs(f"{path} is not a regular file" if path.exists() else f"{path} does not exist")
    screen: Screen = DrawnScreen() if sys.stdout.isatty() and not once else PlainScreen()
    others = other_samples(path)
    findings: list[Finding] = []
    blocks = BLOCKS if (sys.stdout.encoding or "").lower().startswith("utf") else PLAIN_BLOCKS
    with screen:
        for run, last in follow(path, ruleset, once=once):
            over = last and run.has("run_stop")
            screen.show(run, View(blocks=blocks, others=others, final=over), last=last)
            if last:
                findings = certain(run, final=over)
    return count(findings, Severity.ERROR) == 0
