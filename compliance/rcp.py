"""Convergence against the reference: how fast may a result have converged, and by what is its score multiplied?

The reference convergence points are those of benchmark.rules. The numbers are the official rcp_checker's to the last
digit; a test compares them. All lengths are in sequences.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmark.rules import CONVERGENCE_P_VALUE, ReferencePoint, Rules
from compliance.olympic import converged, olympic_mean
from compliance.result_checks import Result
from compliance.rule import Absent
from compliance.run import Run, samples_count

SEARCH_TOLERANCE = 1e-4
"""Sequences within which the official tool searches its minimum; the digits below come from its bisection."""


class Match(enum.StrEnum):
    """How the record for a global batch size was found."""

    FOUND = "found"
    INTERPOLATED = "interpolated"
    """Between the two nearest points."""
    BELOW = "below the smallest"
    """That of the smallest batch size, which is stricter than one of its own would be."""
    MISSING = "missing"
    """The batch size is above the largest point: the submitter has to provide one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the reference needs at one global batch size."""

    global_batch_size: int
    mean: float
    """Olympic."""
    deviation: float
    """Standard deviation over all seeds; the policy's example leaves out the extremes, the official tool does not."""
    runs: int
    """How many the t-test takes the mean to be of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The fastest mean that is accepted, and a result against it."""

    minimum: float
    margin: float
    """Mean of the result less the minimum."""
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Convergence:
    """The runs of one result against the reference."""

    directory: str
    benchmark: str | None
    ruleset: str | None
    global_batch_size: int | None
    samples: tuple[int | None, ...]
    """To the target, a run each; None for one that did not reach it."""
    mean: float | None = None
    """Olympic; None with too few runs."""
    fault: str = ""
    """Why the result cannot be compared, if it cannot."""
    match: Match | None = None
    record: Record | None = None
    policy: Limit | None = None
    """By the policy: the t-test, with an allowance only in the rounds that gave one."""
    official: Limit | None = None
    """By the official rcp_checker, which goes on giving it."""
    factor: float = 1.0
    """What the score is multiplied by: a result is never scored as converging faster than the reference's mean."""

    @property
    def passed(self) -> bool:
        """Whether the result passes both limits."""
        return self.policy is not None and self.official is not None and self.policy.passed and self.official.passed


def compare(result: Result) -> Convergence:
    """A result against the reference of its ruleset; raises nothing."""
    row = result.row
    sizes = {_batch_size(run) for run in result.runs}
    (size,) = sizes if len(sizes) == 1 else (None,)
    samples = tuple(samples_to_target(run) for run in result.runs)
    mean = olympic_mean(samples)
    facts = Convergence(
        directory=result.file,
        benchmark=None if row is None else row.benchmark,
        ruleset=None if row is None else row.ruleset,
        global_batch_size=size,
        samples=samples,
        mean=mean,
        fault=_fault(row, size, samples),
    )
    return facts if facts.fault or row is None or size is None or mean is None else _judged(facts, row, size, mean)


def _fault(row: Rules | None, size: int | None, samples: Sequence[int | None]) -> str:
    if row is None:
        return "the ruleset does not have this benchmark"
    if size is None:
        return "the logs do not have one global batch size"
    if len(samples) < row.runs:
        return f"{len(samples)} of the {row.runs} runs that make a result"
    missed = samples.count(None)
    return f"{missed} runs did not reach the target; one may" if missed > 1 else ""


def _judged(facts: Convergence, row: Rules, size: int, mean: float) -> Convergence:
    match, record = find_record(row, size)
    if record is None:
        sizes = ", ".join(str(point.global_batch_size) for point in row.reference_points)
        fault = f"no reference point at or above global batch size {size} (there are: {sizes}); provide one"
        return replace(facts, match=match, fault=fault)
    return replace(
        facts,
        match=match,
        record=record,
        policy=_limit(record, row.runs, row.convergence_allowance, mean),
        official=_limit(record, row.runs, row.convergence_allowance_official, mean),
        factor=max(1.0, record.mean / mean),
    )


def _limit(record: Record, runs: int, allowance: int, mean: float) -> Limit:
    minimum = accepted_from(record, runs, allowance)
    return Limit(minimum=minimum, margin=mean - minimum, passed=mean >= minimum)


def samples_to_target(run: Run) -> int | None:
    """Samples of the last evaluation before run_stop; None where the run did not reach the target."""
    if not converged(run):
        return None
    stop = run.first("run_stop").index
    before = [event for event in run.all("eval_accuracy") if event.index < stop]
    return samples_count(before[-1]) if before else None


def _batch_size(run: Run) -> int | None:
    try:
        return run.global_batch_size
    except Absent:
        return None


# The record of a batch size.


def find_record(rules: Rules, size: int) -> tuple[Match, Record | None]:
    """The record that a result at global batch size `size` is compared with."""
    records = pruned([_record(point) for point in rules.reference_points])
    below = [record for record in records if record.global_batch_size <= size]
    above = [record for record in records if record.global_batch_size >= size]
    if not above:
        return Match.MISSING, None
    if not below:
        return Match.BELOW, above[0]
    if below[-1] is above[0]:
        return Match.FOUND, above[0]
    return Match.INTERPOLATED, _between(below[-1], above[0], size, runs=2 * rules.runs)


def _record(point: ReferencePoint) -> Record:
    # As slow to import as all of compliance; its rounding of the last digit is the official tool's.
    import numpy as np

    middle = sorted(point.samples)[1:-1]
    return Record(
        global_batch_size=point.global_batch_size,
        mean=sum(middle) / len(middle),
        deviation=float(np.std(sorted(point.samples))),
        runs=len(middle),
    )


def pruned(records: Sequence[Record]) -> list[Record]:
    """Those that the fastest convergence needs, by batch size.

    Out go all below the batch size that converges fastest, then each that is slower than its neighbours say; the walk
    goes on at the next one, so this is no convex hull. Source: rcp_checker, `_prune_rcps`.
    """
    ordered = sorted(records, key=lambda record: record.global_batch_size)
    fastest = min(ordered, key=lambda record: record.mean, default=None)
    kept = [record for record in ordered if fastest and record.global_batch_size >= fastest.global_batch_size]
    index = 1
    while index < len(kept) - 1:
        low, here, high = kept[index - 1 : index + 2]
        if here.mean > _interpolate(low, high, here.global_batch_size, low.mean, high.mean):
            del kept[index]
        else:
            index += 1
    return kept


def _between(low: Record, high: Record, size: int, *, runs: int) -> Record:
    return Record(
        global_batch_size=size,
        mean=_interpolate(low, high, size, low.mean, high.mean),
        deviation=_interpolate(low, high, size, low.deviation, high.deviation),
        runs=runs,
    )


def _interpolate(low: Record, high: Record, size: int, at_low: float, at_high: float) -> float:
    slope = (at_high - at_low) / (high.global_batch_size - low.global_batch_size)
    return slope * (size - low.global_batch_size) + at_low


# The t-test.


def accepted_from(record: Record, runs: int, allowance: int = 0) -> float:
    """The smallest mean of `runs` runs that is accepted, rounded as the official tool rounds it."""
    return record.mean / (record.mean / (fastest_mean(record, runs) - allowance))


def fastest_mean(record: Record, runs: int) -> float:
    """The smallest mean of a result of `runs` runs, two of them dropped, that the t-test does not refuse."""
    if record.deviation == 0:
        return record.mean
    counted = runs - 2
    quantile = t_quantile(CONVERGENCE_P_VALUE, record.runs + counted - 2)
    bound = record.mean - quantile * record.deviation * math.sqrt(1 / record.runs + 1 / counted)
    low, high = 0.0, record.mean
    while high - low > SEARCH_TOLERANCE:
        middle = (low + high) / 2
        low, high = (low, middle) if middle > bound else (middle, high)
    return (low + high) / 2


def t_quantile(probability: float, degrees: int) -> float:
    """What Student's t with so many degrees of freedom exceeds with this probability (below one half)."""
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _within(middle, degrees) < 1 - 2 * probability else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def _within(angle: float, degrees: int) -> float:
    """The probability that |t| is below sqrt(degrees) * tan(angle): Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    odd, cosine = degrees % 2, math.cos(angle)
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(odd, degrees, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return (angle + math.sin(angle) * total) * 2 / math.pi if odd else math.sin(angle) * total
