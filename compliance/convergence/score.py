"""Compute the time to target: minutes of each run, and the score of a result, raw and normalised by convergence."""

from __future__ import annotations

from dataclasses import dataclass

from compliance.checks.rule import AbsentError
from compliance.convergence.olympic import converged, olympic_mean
from compliance.convergence.rcp import Convergence, compare
from compliance.convergence.scaling import Scaling, is_compared, scaling
from compliance.result import Result
from compliance.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The score of one result and the times of its runs."""

    directory: str
    ruleset: str | None
    ruleset_from: str
    """Why this ruleset was chosen."""
    logs: tuple[str, ...]
    minutes: tuple[float | None, ...]
    """Minutes from run_start to run_stop, one entry for each run; None for a run that did not reach the target."""
    olympic_minutes: float | None
    """The mean without the fastest and the slowest run; None if too few runs reached the target."""
    factor: float | None
    """The mean is multiplied by it: more than 1 if the runs converged faster than the reference.

    If the official tools do not compute it, it is the factor in scaling.json. Without that file it is 1 in the open
    division and None without a reference.
    """
    normalised_minutes: float | None
    """The score as it is published."""
    is_open: bool
    """Whether it is of the open division, where the score is not normalised."""
    scaling: Scaling | None
    """The scaling.json in the folder of the logs; None if there is none."""
    marks: tuple[str, ...] = ()
    """As in compliance.result.Result."""

    @property
    def summarised_minutes(self) -> float | None:
        """The score that the official result_summarizer computes before any tool overwrites scaling.json.

        None without a usable file: then the summariser multiplies by 1, whatever the runs needed.
        """
        if self.olympic_minutes is None or self.scaling is None or self.scaling.stated is None:
            return None
        return self.olympic_minutes * self.scaling.stated


def score(result: Result) -> Score:
    """Compute the score of a result; raises nothing."""
    minutes = tuple(minutes_to_target(run) for run in result.runs)
    convergence = compare(result)
    enough = result.row is not None and len(minutes) >= result.row.runs
    mean = olympic_mean(minutes) if enough else None
    file = scaling(result, convergence)
    factor = _factor(result, convergence, file)
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
        scaling=file,
        marks=result.marks,
    )


def _factor(result: Result, convergence: Convergence, file: Scaling | None) -> float | None:
    if is_compared(result, convergence):
        return convergence.factor
    if file is not None:
        return file.stated
    return 1.0 if result.is_open else None


def minutes_to_target(run: Run) -> float | None:
    """Return the minutes from run_start to run_stop; None if the run missed the target or lacks either event."""
    try:
        elapsed = run.first("run_stop").event.time_ms - run.first("run_start").event.time_ms
    except AbsentError:
        return None
    # Divided in this order, so that the last digit is that of the official result_summarizer.
    return elapsed / 60 / 1000 if converged(run) else None
