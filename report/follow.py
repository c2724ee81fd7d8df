"""`llama31 watch`: a log that is still being written, on a screen, until its run is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click

from benchmark.files import RUN_JSON
from benchmark.run_record import KILLED, RunRecord, UnreadableRecordError, read
from compliance.check import NoLogsError, find_logs, open_run
from compliance.convergence.rcp import samples_to_target
from compliance.findings import Finding, Severity, count
from compliance.run import Run
from report.follower import LogFollower
from report.screen import INTERVAL_S, characters, screen
from report.watch import NAME, certain, in_set


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A look at a log at one moment."""

    run: Run
    quiet: float
    """Seconds for which nothing has come."""
    last: bool
    """The run has stopped or was killed and nothing more comes, or only one look was wanted."""


def follow(
    path: Path,
    ruleset: str | None = None,
    *,
    once: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Look]:
    """Look at a log every second, or `once`, until the last look; a line without an end is a line by then."""
    follower, quiet = LogFollower(path, ruleset), 0
    while True:
        if follower.poll():
            quiet = 0
        # A line may still follow run_stop.
        last = once or (quiet > 0 and (follower.run.has("run_stop") or was_killed(path)))
        if last:
            follower.finish()
        yield Look(run=follower.run, quiet=quiet * INTERVAL_S, last=last)
        if last:
            return
        quiet += 1
        sleep(INTERVAL_S)


def was_killed(path: Path) -> bool:
    """Return whether run.json calls a run running while none of its processes is left."""
    return any(one.result == path.name and one.status == KILLED for one in _recorded(path).experiments)


def newest_log(path: Path) -> Path:
    """The log to watch: of a folder, the newest of a run that is not over in the newest folder of logs, or its newest.

    Raises:
        NoLogsError: the path does not exist, is neither file nor folder, or holds no log.
    """
    groups = find_logs([path])
    if not path.is_dir():
        if not path.is_file():
            # Opening a pipe would wait for a writer.
            raise NoLogsError(f"{path} is neither a regular file nor a folder")
        return path
    logs = max((group.paths for group in groups), key=lambda paths: max(map(_written, paths)))
    return max(logs, key=lambda log: (_is_on(log), _written(log)))


def _is_on(log: Path) -> bool:
    return not open_run(log).has("run_stop") and not was_killed(log)


def _written(log: Path) -> float:
    """Return when a log was last written, by lstat, because a link may lead nowhere."""
    return log.lstat().st_mtime


def other_samples(path: Path, ruleset: str | None = None) -> list[int | None]:
    """Samples to the target of the other runs in the folder of a log that are over; None for one that missed it."""
    if not path.name.startswith("result_") or not path.exists():
        return []
    beside = [log for group in find_logs([path.parent]) for log in group.paths]
    runs = [open_run(log, ruleset) for log in beside if log.parent == path.parent and log.name != path.name]
    return [samples_to_target(run) for run in runs if run.has("run_stop")]


def watch_log(path: Path, ruleset: str | None = None, *, once: bool = False) -> bool:
    """Show a log, or that of a folder, until its run is over.

    Returns:
        Whether nothing is wrong with it by then, nor the run was killed.

    Raises:
        NoLogsError: as newest_log.
    """
    path = newest_log(path)
    # The characters are those of standard output itself, which a screen may stand in for.
    view = replace(in_set(_recorded(path).experiments, path.name), blocks=characters())
    view = replace(view, others=other_samples(path, ruleset))
    findings: list[Finding] = []
    over = False
    with screen(drawn=not once) as shown:
        for look in follow(path, ruleset, once=once):
            over = look.last and look.run.has("run_stop")
            shown.show(look.run, replace(view, quiet=look.quiet, final=over), last=look.last)
            if look.last:
                findings = certain(look.run, final=over)
    killed = not over and was_killed(path)
    if killed:
        click.echo(f"{'killed':{NAME}} no process of this run is left")
    return not killed and count(findings, Severity.ERROR) == 0


def _recorded(log: Path) -> RunRecord:
    """Return the run.json in the folder of a log; an empty record if there is none, which `check` reports."""
    try:
        return read(log.with_name(RUN_JSON))
    except (OSError, UnreadableRecordError):
        return RunRecord()
