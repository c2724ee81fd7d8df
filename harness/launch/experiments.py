"""Runs NEXP runs one after the other, watches each and checks them all, whatever starts their processes.

A run that is cut off (a rank was killed, its job's time is over) continues from its checkpoint in the job's next
allocation; without a checkpoint it is aborted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO

import click

from benchmark.checkpoints import complete_in, folder_of
from benchmark.config import Resolved, RunConfig, overrides
from benchmark.errors import UnwritableError
from benchmark.files import beside, hold, why_unwritable
from benchmark.run_record import KILLED, RUNNING
from compliance.formats import text
from harness.launch.ending import Ending, close_log, has_succeeded
from harness.launch.launcher import CannotStartError, Launcher
from harness.launch.one_run import run_once
from harness.launch.runs import CUT_OFF, RunSet
from harness.launch.signals import Received, listening
from harness.launch.standing import Standing, standing
from harness.pace import expected
from harness.preflight import PlannedRuns, report_on, warnings
from harness.verdict import conclude
from report.follower import LogFollower
from report.watch import WatchView, in_set


def run_experiments(resolved: Resolved, launcher: Launcher) -> int:
    """Run, check and summarise; return the exit status.

    0 a valid result, 1 no valid result, 2 it could not start or be written, 75 to be continued, 128 + n signal n ended
    it.

    Raises:
        ConfigError: the results folder cannot be made, or holds other runs.
        CannotStartError: something that every run needs is missing.
        UnwritableError: a file of the runs cannot be written.
    """
    with listening() as received:
        return _run_experiments(resolved, launcher, received)


def _run_experiments(resolved: Resolved, launcher: Launcher, received: Received) -> int:
    config = resolved.config
    print("".join(f"{line}\n" for line in overrides(resolved)), end="", flush=True)
    may, missing = allowed(config, in_batch=bool(launcher.job)), launcher.missing()
    print("".join(f"missing   {line}\n" for line in missing), end="", flush=True)
    if missing or not may:
        return 2
    with launcher:
        runs = RunSet.open(resolved, launcher.prepare(), launcher.job)
        if unknown := runs.recorded.code.get("error"):
            print(f"revision  not recorded: {unknown}", flush=True)
        endings = run_all(config, runs, launcher, received)
        if received.stop and launcher.is_requeued():
            return os.EX_TEMPFAIL
        could_not = any(ending.could_not for ending in endings.values())
        if runs.unfinished() and not received.stop and not could_not and launcher.requeue():
            return os.EX_TEMPFAIL
    return finish(config, runs, endings, received)


def finish(config: RunConfig, runs: RunSet, endings: Mapping[int, Ending], received: Received) -> int:
    """Close the logs that their runs could not close, and judge all runs; return the exit status."""
    unwritten = []
    for index, ending in endings.items():
        try:
            close_log(runs.result(index), ending)
        except UnwritableError as error:
            unwritten.append(str(error))
    stopped = 128 + received.stop if received.stop else 0
    if received.again:
        return stopped
    if received.save and runs.unfinished():
        print(f"to be continued: set RESUME={runs.folder}", flush=True)
        return os.EX_TEMPFAIL
    statuses = {one.result: 0 if one.status == "success" else stopped or 1 for one in runs.experiments}
    for index, ending in endings.items():
        log = runs.experiments[index].result
        statuses[log] = max(statuses[log], ending.status)
    causes = [f"run {index}: {ending.cause}" for index, ending in endings.items() if ending.cause]
    status = conclude(config, runs.folder, statuses, [*causes, *unwritten], interrupted=bool(received.stop))
    could_not = bool(unwritten) or any(ending.could_not for ending in endings.values())
    return 2 if could_not and not stopped else status


def run_all(config: RunConfig, runs: RunSet, launcher: Launcher, received: Received) -> dict[int, Ending]:
    """Run the unfinished runs in order, as far as possible; return how each ended, by its number."""
    endings: dict[int, Ending] = {}
    for index in runs.unfinished():
        if received.save or received.stop:
            break
        endings[index] = ending = run_experiment(config, runs, index, launcher, received)
        if ending.cut_off or ending.could_not:
            break
    return endings


def open_console(path: Path) -> IO[bytes]:
    """Open the file that a run's processes print to.

    Raises:
        UnwritableError: it cannot be opened.
    """
    try:
        return path.open("ab")
    except OSError as error:
        raise UnwritableError(path, error) from None


def run_experiment(config: RunConfig, runs: RunSet, index: int, launcher: Launcher, received: Received) -> Ending:
    """Run one of the runs, continuing it if it has begun; return how it ended.

    Raises:
        CannotStartError: its processes are still running, or it cannot be started.
    """
    seed, log = runs.experiments[index].seed, runs.result(index)
    run = config.for_experiment(seed=seed, result_file=log)
    print(f"run {index + 1} of {config.job.experiments}, seed {seed}", flush=True)
    with open_console(runs.console(index)) as output:
        # Every process started here also holds the file, so it is free once nothing of the run is left.
        if not hold(output) and not runs.requeued:
            raise CannotStartError(
                f"run {index} of {runs.folder} is still running: a process has {output.name} open; "
                "if its node is dead, rename that file"
            )
        if runs.experiments[index].status == KILLED:
            print(f"run {index} was killed: none of its processes is left", flush=True)
        before = stands(log, config)
        if has_succeeded(log, before, config):
            print(f"run {index} had already reached its target", flush=True)
            runs.update(index, status=before.status, minutes=before.minutes)
            return Ending(status=0, standing=before)
        if not has_checkpoint(run):
            runs.update(index, lost=set_aside(log))
            launcher.clear_caches()
        with received.for_a_run():
            runs.update(index, status=RUNNING)
            ending = run_once(run, output, launcher, received, view_of(config, runs, index))
            if ending.status and (full := why_unwritable(runs.folder)):
                ending = replace(ending, cause=f"LOGDIR={config.job.log_dir}: {full}", could_not=True)
            if ending.cause:
                print(f"run {index} ended with status {ending.status}: {ending.cause}", flush=True)
                print(f"console   {output.name}", flush=True)
            if not (received.stop and launcher.is_requeued()):
                write_down(config, runs, index, ending)
    return ending


def write_down(config: RunConfig, runs: RunSet, index: int, ending: Ending) -> None:
    """Record in run.json how a run ended; print a line if that cannot be written."""
    try:
        if ending.cut_off and config.job.save_checkpoint is not None:
            runs.update(index, status=CUT_OFF)
        else:
            status = ending.standing.status or f"ended with status {ending.status} and no run_stop"
            runs.update(index, status=status, minutes=ending.standing.minutes)
    except UnwritableError as error:
        print(f"run {index} could not be recorded: {error}", flush=True)


def stands(log: Path, config: RunConfig) -> Standing:
    """Return the state of a run that its log shows."""
    follower = LogFollower(log, config.rules.ruleset)
    follower.poll()
    return standing(follower.run)


def view_of(config: RunConfig, runs: RunSet, index: int) -> WatchView:
    """Return how to show a run before its own log can tell: by the runs that are over, or by the planner."""
    view, planned = in_set(runs.experiments, runs.experiments[index].result), expected(config)
    return view if view.usual is not None or planned is None else replace(view, usual=60 * planned.usual)


def has_checkpoint(config: RunConfig) -> bool:
    """Return whether the run can continue from a checkpoint."""
    folder = folder_of(config)
    return folder is not None and bool(complete_in(folder))


def set_aside(log: Path) -> int:
    """Rename the log of a run that was cut off before its first checkpoint and starts again, with the same seed.

    Returns:
        Number of this run's logs that have been set aside by now.
    """
    if log.exists():
        log.rename(beside(log, "lost"))
    return sum(1 for _ in log.parent.glob(f"{log.name}.lost-*"))


def allowed(config: RunConfig, *, in_batch: bool) -> bool:
    """Print what the rules say about the run that is about to start, and return whether they allow it."""
    report = report_on(PlannedRuns(path=None, possible=config, in_batch=in_batch))
    click.echo("\n".join([*warnings(config), text(report, "configuration")]))
    return report.passed
