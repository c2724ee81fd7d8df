"""Implements `llama31 watch`: shows a log that is still being written, until its run is over."""

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
    """A log at one moment."""

    run: Run
    quiet: float
    """Seconds since something was last read."""
    last: bool
    """Whether it is the last look: the run has stopped or was killed, or one look was asked for."""


def follow(
    path: Path,
    ruleset: str | None = None,
    *,
    once: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Look]:
    """Yield a look at a log every second, or `once`. The last look takes an unterminated line for a whole one."""
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
    """Return the log to watch: of a folder, the newest log that is still being written, else the newest.

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
    """Return when a log was last written. It may be a dangling link, hence lstat."""
    return log.lstat().st_mtime


def other_samples(path: Path, ruleset: str | None = None) -> list[int | None]:
    """Return the samples to the target of the finished runs next to a log; None for one that missed it."""
    if not path.name.startswith("result_") or not path.exists():
        return []
    beside = [log for group in find_logs([path.parent]) for log in group.paths]
    runs = [open_run(log, ruleset) for log in beside if log.parent == path.parent and log.name != path.name]
    return [samples_to_target(run) for run in runs if run.has("run_stop")]


def watch_log(path: Path, ruleset: str | None = None, *, once: bool = False) -> bool:
    """Show a log, or the newest of a folder, until its run is over.

    Returns:
        Whether the run was not killed and no rule is broken.

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
