"""Time to target: minutes of each run, and the score of a result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from compliance.result_checks import Result
from compliance.rule import Absent
from compliance.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The times of the runs of one result."""

    directory: str
    logs: tuple[str, ...]
    minutes: tuple[float | None, ...]
    """From run_start to run_stop, a run each; None for one that did not reach the target."""
    olympic_minutes: float | None
    """Mean without the fastest and the slowest run; None with too few runs, or too few that reached the target."""


def score(result: Result) -> Score:
    """The times of a result's runs.

    Source: training_rules.adoc, "Benchmark Results": one run that did not converge may count as the slowest.
    """
    minutes = tuple(minutes_to_target(run) for run in result.runs)
    enough = result.row is not None and len(minutes) >= result.row.runs
    return Score(
        directory=result.file,
        logs=tuple(run.file for run in result.runs),
        minutes=minutes,
        olympic_minutes=_olympic_mean(minutes) if enough else None,
    )


def minutes_to_target(run: Run) -> float | None:
    """Minutes from run_start to run_stop; None where the run did not reach the target or lacks either event."""
    try:
        elapsed = run.first("run_stop").event.time_ms - run.first("run_start").event.time_ms
        reached = run.last_log_perplexity <= run.rules.target_log_perplexity
        return elapsed / 60_000 if reached and run.status == "success" else None
    except Absent:
        return None


def _olympic_mean(minutes: Sequence[float | None]) -> float | None:
    ordered = sorted(math.inf if time is None else time for time in minutes)
    middle = ordered[1:-1]
    mean = math.fsum(middle) / len(middle) if middle and math.inf not in middle else math.inf
    return mean if math.isfinite(mean) else None
