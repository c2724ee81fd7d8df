"""Time to target: minutes of each run, and the score of a result, raw and normalised by its convergence."""

from __future__ import annotations

from dataclasses import dataclass

from compliance.checks.rule import Absent
from compliance.convergence.olympic import converged, olympic_mean
from compliance.convergence.rcp import Convergence, compare
from compliance.convergence.scaling import Scaling, is_compared, scaling
from compliance.result import Result
from compliance.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The times of the runs of one result."""

    directory: str
    ruleset: str | None
    ruleset_from: str
    """Why it is judged by this one."""
    logs: tuple[str, ...]
    minutes: tuple[float | None, ...]
    """From run_start to run_stop, a run each; None for one that did not reach the target."""
    olympic_minutes: float | None
    """Mean without the fastest and the slowest run; None with too few runs, or too few that reached the target."""
    factor: float | None
    """By which the mean is multiplied: more than 1 where the runs converged faster than the reference.

    Where the official tools make none of their own, it is what scaling.json says; else 1 in the open division, and None
    without a reference.
    """
    normalised_minutes: float | None
    """The score that is published."""
    is_open: bool
    """Whether it is of the open division: then the score is not normalised."""
    scaling: Scaling | None
    """The scaling.json beside the logs; None where there is none."""
    marks: tuple[str, ...] = ()
    """As in compliance.result.Result."""

    @property
    def summarised_minutes(self) -> float | None:
        """What the official result_summarizer gives of the files as they are, before any tool writes scaling.json anew.

        None without a usable file: it multiplies by 1 then, whatever the runs needed.
        """
        if self.olympic_minutes is None or self.scaling is None or self.scaling.stated is None:
            return None
        return self.olympic_minutes * self.scaling.stated


def score(result: Result) -> Score:
    """The times of a result's runs; raises nothing."""
    minutes = tuple(minutes_to_target(run) for run in result.runs)
    convergence = compare(result)
    enough = result.row is not None and len(minutes) >= result.row.runs
    mean = olympic_mean(minutes) if enough else None
    beside = scaling(result, convergence)
    factor = _factor(result, convergence, beside)
    return Score(
        directory=result.file,
        ruleset=result.ruleset,
        ruleset_from=result.ruleset_from,
        logs=tuple(run.file for run in result.runs),
        minutes=minutes,
        olympic_minutes=mean,
        factor=factor,
        normalised_minutes=None if mean is None or factor is None else mean * factor,
        is_open=result.is_open,
        scaling=beside,
        marks=result.marks,
    )


def _factor(result: Result, convergence: Convergence, beside: Scaling | None) -> float | None:
    if is_compared(result, convergence):
        return convergence.factor
    if beside is not None:
        return beside.stated
    return 1.0 if result.is_open else None


def minutes_to_target(run: Run) -> float | None:
    """Minutes from run_start to run_stop; None where the run did not reach the target or lacks either event."""
    try:
        elapsed = run.first("run_stop").event.time_ms - run.first("run_start").event.time_ms
    except Absent:
        return None
    # In this order: the last digit is to be that of the official result_summarizer.
    return elapsed / 60 / 1000 if converged(run) else None
