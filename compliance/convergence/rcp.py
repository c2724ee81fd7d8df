"""Compare the convergence of a result with the reference: whether it was too fast, and the factor of its score.

The reference's numbers are those of benchmark.convergence. All lengths are in samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmark.convergence import Match, ReferenceRecord, accepted_from, find_record, score_factor
from benchmark.rules import Rules
from compliance.checks.rule import AbsentError
from compliance.convergence.olympic import converged, olympic_mean
from compliance.result import Result
from compliance.run import Run, samples_count


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The smallest mean that is accepted, and a result compared with it."""

    minimum: float
    margin: float
    """Mean of the result minus the minimum."""
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Convergence:
    """The runs of one result compared with the reference."""

    directory: str
    logs: tuple[str, ...]
    benchmark: str | None
    ruleset: str | None
    ruleset_from: str
    """Why this ruleset was chosen."""
    global_batch_size: int | None
    samples: tuple[int | None, ...]
    """Samples to the target, one entry for each run; None for a run that did not reach it."""
    mean: float | None = None
    """The olympic mean; None with too few runs."""
    is_open: bool = False
    """Whether it is of the open division: then the numbers only inform, and the result passes."""
    fault: str = ""
    """Why the result cannot be compared; empty if it can."""
    match: Match | None = None
    """How the record was found."""
    record: ReferenceRecord | None = None
    """What the reference needs at this batch size."""
    policy: Limit | None = None
    """The limit of the policy: the t-test, with an allowance only in the rounds that gave one."""
    official: Limit | None = None
    """The limit of the official rcp_checker, which still gives that allowance."""
    factor: float = 1.0
    """The score is multiplied by it: no result is scored as converging faster than the reference's mean."""
    marks: tuple[str, ...] = ()
    """As in compliance.result.Result."""

    @property
    def passed(self) -> bool:
        """Whether the result passes both limits, or is of the open division, which has none."""
        limits = (self.policy, self.official)
        return self.is_open or all(limit is not None and limit.passed for limit in limits)


def compare(result: Result) -> Convergence:
    """Compare a result with the reference of its ruleset; raises nothing."""
    row = result.row
    sizes = {batch_size(run) for run in result.runs}
    (size,) = sizes if len(sizes) == 1 else (None,)
    samples = tuple(samples_to_target(run) for run in result.runs)
    mean = olympic_mean(samples)
    facts = Convergence(
        directory=result.file,
        logs=tuple(run.file for run in result.runs),
        benchmark=None if row is None else row.benchmark,
        ruleset=result.ruleset,
        ruleset_from=result.ruleset_from,
        global_batch_size=size,
        samples=samples,
        mean=mean,
        is_open=result.is_open,
        fault=_fault(row, size, samples),
        marks=result.marks,
    )
    return facts if facts.fault or row is None or size is None or mean is None else _judged(facts, row, size, mean)


def _fault(row: Rules | None, size: int | None, samples: Sequence[int | None]) -> str:
    if row is None:
        return "the ruleset does not have this benchmark"
    if size is None:
        return "the logs do not all have the same global batch size"
    if len(samples) < row.runs:
        return f"{len(samples)} of the {row.runs} runs that make a result"
    missed = samples.count(None)
    return f"{missed} runs missed the target; one may" if missed > 1 else ""


def _judged(facts: Convergence, row: Rules, size: int, mean: float) -> Convergence:
    match, record = find_record(row, size)
    if record is None:
        sizes = ", ".join(str(point.global_batch_size) for point in row.reference_points)
        fault = f"no reference point at or above global batch size {size} (existing ones: {sizes}); provide one"
        return replace(facts, match=match, fault=fault)
    return replace(
        facts,
        match=match,
        record=record,
        policy=_limit(record, row.runs, row.convergence_allowance, mean),
        official=_limit(record, row.runs, row.convergence_allowance_official, mean),
        factor=score_factor(record, mean),
    )


def _limit(record: ReferenceRecord, runs: int, allowance: int, mean: float) -> Limit:
    minimum = accepted_from(record, runs, allowance)
    return Limit(minimum=minimum, margin=mean - minimum, passed=mean >= minimum)


def samples_to_target(run: Run) -> int | None:
    """Return the samples of the last evaluation before run_stop; None if the run did not reach the target."""
    if not converged(run):
        return None
    stop = run.first("run_stop").index
    before = [event for event in run.all("eval_accuracy") if event.index < stop]
    # Zero counts as missing: a mean of zero cannot be divided by.
    return (samples_count(before[-1]) or None) if before else None


def batch_size(run: Run) -> int | None:
    """Return the global batch size, in samples; None if the log does not state it."""
    try:
        return run.global_batch_size
    except AbsentError:
        return None
