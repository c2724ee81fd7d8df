"""`llama31 watch`: a log that is still being written, on a screen, until its run is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from benchmark.files import RUN_JSON
from benchmark.run_record import KILLED, UnreadableRecord, read
from compliance.check import NoLogs, find_logs, open_run
from compliance.convergence.rcp import samples_to_target
from compliance.findings import Finding, Severity, count
from compliance.run import Run
from report.follower import LogFollower
from report.screen import INTERVAL_S, characters, screen
from report.watch import View, certain


def follow(
    path: Path,
    ruleset: str | None = None,
    *,
    once: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[tuple[Run, bool]]:
    """Yield the run at each look that found something new, and whether that was the last one.

    The last one is where the run has stopped or was killed, and nothing more comes; with `once`, at the end of what is
    there.
    """
    follower, quiet = LogFollower(path, ruleset), 0
    while True:
        if follower.poll():
            quiet = 0
        # A line may still follow run_stop.
        over = once or (quiet > 0 and (follower.run.has("run_stop") or was_killed(path)))
        if over or quiet == 0:
            yield follower.run, over
        if over:
            return
        quiet += 1
        sleep(INTERVAL_S)


def was_killed(path: Path) -> bool:
    """Whether run.json says that the run of a log is on, while none of its processes is left."""
    try:
        recorded = read(path.parent / RUN_JSON)
    except (OSError, UnreadableRecord):
        return False
    return any(one.result == path.name and one.status == KILLED for one in recorded.experiments)


def other_samples(path: Path, ruleset: str | None = None) -> list[int | None]:
    """Samples to the target of the other runs in the folder of a log that are over; None for one that missed it."""
    if not path.name.startswith("result_") or not path.exists():
        return []
    beside = [log for group in find_logs([path.parent]) for log in group.paths]
    runs = [open_run(log, ruleset) for log in beside if log.parent == path.parent and log.name != path.name]
    return [samples_to_target(run) for run in runs if run.has("run_stop")]


def watch_log(path: Path, ruleset: str | None = None, *, once: bool = False) -> bool:
    """Show a log until its run is over; whether nothing is wrong with it by then, nor the run was killed.

    Raises:
        NoLogs: the path is no file.
    """
    if not path.is_file():
        # Opening a pipe would wait for a writer.
        raise NoLogs(f"{path} is not a regular file" if path.exists() else f"{path} does not exist")
    # Of standard output itself, which a screen may stand in for.
    others, blocks = other_samples(path, ruleset), characters()
    findings: list[Finding] = []
    over = False
    with screen(drawn=not once) as shown:
        for run, last in follow(path, ruleset, once=once):
            over = last and run.has("run_stop")
            shown.show(run, View(blocks=blocks, others=others, final=over), last=last)
            if last:
                findings = certain(run, final=over)
    killed = not over and was_killed(path)
    if killed:
        click.echo(f"{'killed':12} no process of this run is left")
    return not killed and count(findings, Severity.ERROR) == 0
