"""How many samples a run needs to the target: one answer for the planner, the rehearsal, the displays and the checker.

Two numbers, because two questions: the mean of all seeds of the reference says when a run is likely to end; the record
of a batch size (olympic mean, deviation) says by how much a score is multiplied and how fast a result may have been.
Records, limits and factors are the official rcp_checker's to the last digit; a test compares them.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmark.rules import ReferencePoint, Rules, Schedule

CONVERGENCE_P_VALUE = 0.05
"""A result whose convergence is faster than the reference's with this probability of chance or less is refused."""

SEARCH_TOLERANCE = 1e-4
"""Samples within which the official tool searches its minimum; the digits below come from its bisection."""

EVALUATIONS_WITHOUT_REFERENCE = 4
"""Evaluations of a run whose ruleset has no reference convergence points."""


# When a run is likely to end: the mean of all seeds.


def mean_samples(rules: Rules, gbs: int) -> float | None:
    """Samples that the reference needs at a global batch size, the mean of its seeds; None without reference points.

    Interpolated between the points and extended beyond the largest; below the smallest, that point's own, as the
    official checker has it.
    """
    points = rules.reference_points
    if not points or gbs <= points[0].global_batch_size or len(points) == 1:
        return points[0].mean if points else None
    sections = list(pairwise(points))
    low, high = next((pair for pair in sections if gbs <= pair[1].global_batch_size), sections[-1])
    return _interpolate(low, high, gbs, low.mean, high.mean)


def likely_samples(rules: Rules, gbs: int) -> tuple[float, float]:
    """What the reference's fastest and slowest seeds need at a batch size, the former less what the rules allow."""
    mean = mean_samples(rules, gbs)
    if mean is None:
        return 0.0, 0.0
    fastest = min(min(point.samples) / point.mean for point in rules.reference_points)
    slowest = max(max(point.samples) / point.mean for point in rules.reference_points)
    return mean * fastest - rules.convergence_allowance, mean * slowest


def expected_samples(rules: Rules, schedule: Schedule) -> float:
    """The mean of the seeds; a few evaluations' worth without reference points."""
    last = schedule.first_eval_step + (EVALUATIONS_WITHOUT_REFERENCE - 1) * schedule.eval_interval_steps
    return mean_samples(rules, schedule.global_batch_size) or last * schedule.global_batch_size


# What a result is compared with: the record of a batch size.


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


def find_record(rules: Rules, size: int) -> tuple[Match, Record | None]:
    """The record that a result at global batch size `size` is compared with."""
    records = pruned([record_of(point) for point in rules.reference_points])
    below = [record for record in records if record.global_batch_size <= size]
    above = [record for record in records if record.global_batch_size >= size]
    if not above:
        return Match.MISSING, None
    if not below:
        return Match.BELOW, above[0]
    if below[-1] is above[0]:
        return Match.FOUND, above[0]
    return Match.INTERPOLATED, _between(below[-1], above[0], size, runs=2 * rules.runs)


def record_of(point: ReferencePoint) -> Record:
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


def _interpolate(
    low: Record | ReferencePoint, high: Record | ReferencePoint, size: int, at_low: float, at_high: float
) -> float:
    slope = (at_high - at_low) / (high.global_batch_size - low.global_batch_size)
    return slope * (size - low.global_batch_size) + at_low


def score_factor(record: Record | None, samples: float) -> float:
    """What a score is multiplied by: a result is never scored as converging faster than the record's mean."""
    return 1.0 if record is None else max(1.0, record.mean / samples)


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
    """What Student's t with so many degrees of freedom exceeds with this probability."""
    # A fifth of a second, for those who compare.
    from scipy.special import stdtrit

    return -float(stdtrit(degrees, probability))
