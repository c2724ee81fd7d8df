"""Rules about time: how long initialisation took, when the run started and stopped, whether the times are plausible."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

from benchmark.plurals import counted
from compliance.checks.rule import AbsentError, Breach
from compliance.checks.sources import RUN_RESULTS
from compliance.findings import Severity, show
from compliance.log import Located, Mark
from compliance.run import Run, rule

AT_ONCE_MS = 1000
"""Milliseconds. Two events closer than this count as simultaneous: our own tolerance for slow file systems."""

BETWEEN_RANKS_MS = 5000
"""Milliseconds by which the clocks of ranks may disagree during initialisation; up to 2900 in published 405B logs."""

CLOCK_TOLERANCE = 0.01
"""Fraction by which step times, which another timer takes, may exceed the wall clock.

Published logs stay 1 % below the wall clock.
"""

ESTIMATE_TOLERANCE = 0.05
"""The same fraction where a few reported steps stand for all.

The estimate comes to 96 to 98 % of the run in the published 8B logs.
"""

DIVISIONS_WITH_LIMIT = ("closed", "open")
"""The divisions that the rules know; each limits the time of initialisation."""


@rule(
    "clock.init_limit",
    source=RUN_RESULTS,
    example="31 minutes from `init_start` to `init_stop` in the closed division; 29 minutes, and 2 more to `run_start`",
)
def init_limit(run: Run) -> Iterator[Breach]:
    """Initialisation, from the first init_start of any rank to init_stop, takes less time than its division allows.

    Time between init_stop and run_start is not on the clock, so it counts as initialisation too.
    """
    stop, division = run.first("init_stop"), run.value("submission_division")
    starts = [mark.time_ms for mark in run.log.marks if mark.key == "init_start"]
    if division not in DIVISIONS_WITH_LIMIT or not starts:
        raise AbsentError("submission_division")
    rules = run.rules
    limit = rules.init_limit_minutes_closed if division == "closed" else rules.init_limit_minutes_open
    minutes = (stop.event.time_ms - min(starts)) / 60_000
    unlogged = (run.first("run_start").event.time_ms - stop.event.time_ms) / 60_000 if run.has("run_start") else 0.0
    if minutes < 0 or minutes + max(0.0, unlogged) >= limit:
        yield Breach(
            message="initialisation took too long" if minutes > 0 else "initialisation stopped before it started",
            line=stop.line,
            expected=f"less than {limit} minutes ({division} division)",
            actual=f"{minutes:.3f} minutes to init_stop, {unlogged:.3f} more to run_start",
        )


@rule("clock.gap", source=RUN_RESULTS, severity=Severity.WARNING, example="421 s from `init_stop` to `run_start`")
def gap(run: Run) -> Iterator[Breach]:
    """The run starts as soon as initialisation stops: work in between is not on the clock."""
    start = run.first("run_start")
    elapsed = start.event.time_ms - run.first("init_stop").event.time_ms
    if elapsed > AT_ONCE_MS:
        yield Breach(
            message="time passes between init_stop and run_start",
            line=start.line,
            expected=f"at most {AT_ONCE_MS} ms",
            actual=f"{elapsed:.0f} ms",
        )


@rule(
    "clock.monotone",
    source=RUN_RESULTS,
    example="a `block_stop` 1 ms before its `block_start`; before `init_stop` up to 5 s (an INFO) or more (a WARNING)",
)
def monotone(run: Run) -> Iterator[Breach]:
    """Times never run backwards, except a little before init_stop, where many ranks write one file."""
    split = run.first("init_stop").index
    yield from _backward(islice(run.log.marks, split, None))
    yield from _backward(islice(run.log.marks, split + 1), between_ranks=True)


def _backward(marks: Iterator[Mark], *, between_ranks: bool = False) -> Iterator[Breach]:
    latest, first, backward, worst = 0.0, None, 0, 0.0
    for mark in marks:
        if mark.time_ms < latest:
            first, backward, worst = first or mark, backward + 1, max(worst, latest - mark.time_ms)
        latest = max(latest, mark.time_ms)
    if first is not None:
        between = Severity.INFO if worst <= BETWEEN_RANKS_MS else Severity.WARNING
        yield Breach(
            message=f"the clock runs backwards at {show(first.key)}",
            line=first.line,
            expected="time_ms that never decreases",
            actual=f"{counted(backward, 'event')}, by up to {worst:.0f} ms",
            severity=between if between_ranks else Severity.ERROR,
        )


@rule("clock.run", source=RUN_RESULTS, example="`run_stop` at the time of `run_start`")
def run_time(run: Run) -> Iterator[Breach]:
    """run_stop comes later than run_start."""
    stop = run.first("run_stop")
    elapsed = stop.event.time_ms - run.first("run_start").event.time_ms
    if elapsed <= 0:
        yield Breach(
            message="run_stop is not after run_start",
            line=stop.line,
            expected="a positive time",
            actual=f"{elapsed:.0f} ms",
        )


@rule(
    "clock.prompt_stop",
    source=RUN_RESULTS,
    severity=Severity.WARNING,
    example="`run_stop` two seconds after the last `eval_stop`",
)
def prompt_stop(run: Run) -> Iterator[Breach]:
    """The run stops as soon as its last evaluation has stopped."""
    stop, evaluation = run.first("run_stop"), run.last_evaluation.stop
    if evaluation is None or run.aborted:
        return
    elapsed = stop.event.time_ms - evaluation.event.time_ms
    if elapsed > AT_ONCE_MS:
        yield Breach(
            message="time passes between the last eval_stop and run_stop",
            line=stop.line,
            expected=f"at most {AT_ONCE_MS} ms",
            actual=f"{elapsed:.0f} ms",
        )


@rule(
    "clock.steps",
    source=RUN_RESULTS,
    example="300 steps of 10 s, with `run_start` and `run_stop` 40 minutes apart",
)
def steps(run: Run) -> Iterator[Breach]:
    """The training steps fit between run_start and run_stop: the clock was never paused."""
    stop = run.first("run_stop")
    wall = (stop.event.time_ms - run.first("run_start").event.time_ms) / 1000
    times = [step.seconds for step in run.log.steps if not math.isnan(step.seconds)]
    spent = math.fsum(times)
    if wall <= 0 or not times:
        return
    if spent > wall * (1 + CLOCK_TOLERANCE):
        yield _too_long(stop, wall, f"{spent:.3f} s in train_step_time")
    taken = run.samples // run.global_batch_size
    # NVIDIA's 8B logs report one step in several tens, so that its time stands for the others. Where the reported times
    # add up to nearly the whole run, each already covers all steps since the previous report.
    all_of_them = spent / len(times) * taken
    if taken >= 2 * len(times) and spent < wall / 2 and all_of_them > wall * (1 + ESTIMATE_TOLERANCE):
        yield _too_long(stop, wall, f"{all_of_them:.3f} s, {taken} steps of {spent / len(times):.3f} s on average")


def _too_long(stop: Located, wall: float, actual: str) -> Breach:
    return Breach(
        message="the training steps took longer than the run",
        line=stop.line,
        expected=f"at most the {wall:.3f} s from run_start to run_stop",
        actual=actual,
    )
