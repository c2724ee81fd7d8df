"""How many samples a run needs to reach the target. Planner, rehearsal, displays and checker all ask here.

There are two questions. When is a run likely to end? The mean of all seeds of the reference answers that. How fast may
a result converge, and by how much is its score multiplied? The record of a batch size (olympic mean, deviation) answers
that. Records, limits and factors equal the official rcp_checker's to the last digit; a test compares them.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmark.rules import ReferencePoint, Rules, Schedule

CONVERGENCE_P_VALUE = 0.05
"""A result is refused if the probability that chance made it converge so fast is this or less. Source: rcp_checker."""

SEARCH_TOLERANCE = 1e-4
"""Samples to which the official tool's bisection narrows its minimum; it determines the digits below."""

EVALUATIONS_WITHOUT_REFERENCE = 4
"""Expected evaluations of a run whose ruleset has no reference convergence points; our own guess."""


# When a run is likely to end: the mean of all seeds.


def mean_samples(rules: Rules, gbs: int) -> float | None:
    """Return the mean of the reference's seeds at a global batch size, in samples; None without reference points.

    It is interpolated between the points and extrapolated above the largest one. Below the smallest it is that of the
    smallest, as in the official checker.
    """
    points = rules.reference_points
    if not points or gbs <= points[0].global_batch_size or len(points) == 1:
        return points[0].mean if points else None
    sections = list(pairwise(points))
    low, high = next((pair for pair in sections if gbs <= pair[1].global_batch_size), sections[-1])
    return _interpolate(low, high, gbs, low.mean, high.mean)


def likely_samples(rules: Rules, gbs: int) -> tuple[float, float]:
    """Return the samples of the fastest and the slowest seed at a batch size, the former minus the allowance."""
    mean = mean_samples(rules, gbs)
    if mean is None:
        return 0.0, 0.0
    fastest = min(min(point.samples) / point.mean for point in rules.reference_points)
    slowest = max(max(point.samples) / point.mean for point in rules.reference_points)
    return mean * fastest - rules.convergence_allowance, mean * slowest


def expected_samples(rules: Rules, schedule: Schedule) -> float:
    """Return the samples that a run is likely to need: the mean of the seeds or, without points, a few evaluations."""
    last = schedule.first_eval_step + (EVALUATIONS_WITHOUT_REFERENCE - 1) * schedule.eval_interval_steps
    return mean_samples(rules, schedule.global_batch_size) or last * schedule.global_batch_size


# The record of a batch size, with which a result is compared.


class Match(enum.StrEnum):
    """How the record for a global batch size was found."""

    FOUND = "found"
    """There is a point at this batch size."""
    INTERPOLATED = "interpolated"
    """It lies between the two nearest points."""
    BELOW = "below the smallest point"
    """It is the record of the smallest point, which is stricter than one at this batch size would be."""
    MISSING = "missing"
    """The batch size is above the largest point: the submitter has to provide one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRecord:
    """The samples that the reference needs at one global batch size."""

    global_batch_size: int
    mean: float
    """Olympic mean, in samples."""
    deviation: float
    """Standard deviation of all seeds, in samples, as in the official tool; the policy's example drops the extremes."""
    runs: int
    """The number of runs that the t-test assumes for the mean."""


def find_record(rules: Rules, size: int) -> tuple[Match, ReferenceRecord | None]:
    """Return the record with which a result at global batch size `size` is compared, and how it was found."""
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


def record_of(point: ReferencePoint) -> ReferenceRecord:
    """Return the record of a reference convergence point."""
    # numpy takes as long to import as all of compliance, but it rounds the last digit as the official tool does.
    import numpy as np

    middle = sorted(point.samples)[1:-1]
    return ReferenceRecord(
        global_batch_size=point.global_batch_size,
        mean=sum(middle) / len(middle),
        deviation=float(np.std(sorted(point.samples))),
        runs=len(middle),
    )


def pruned(records: Sequence[ReferenceRecord]) -> list[ReferenceRecord]:
    """Return the records that the fastest convergence needs, sorted by batch size.

    Records below the batch size that converges fastest are dropped, then each that is slower than its neighbours
    interpolate. The walk continues with the next record, so this is not a convex hull. Source: rcp_checker,
    `_prune_rcps`.
    """
    ordered = sorted(records, key=lambda record: record.global_batch_size)
    fastest = min(ordered, key=lambda record: record.mean, default=None)
    points = [record for record in ordered if fastest and record.global_batch_size >= fastest.global_batch_size]
    index = 1
    while index < len(points) - 1:
        low, here, high = points[index - 1 : index + 2]
        if here.mean > _interpolate(low, high, here.global_batch_size, low.mean, high.mean):
            del points[index]
        else:
            index += 1
    return points


def _between(low: ReferenceRecord, high: ReferenceRecord, size: int, *, runs: int) -> ReferenceRecord:
    return ReferenceRecord(
        global_batch_size=size,
        mean=_interpolate(low, high, size, low.mean, high.mean),
        deviation=_interpolate(low, high, size, low.deviation, high.deviation),
        runs=runs,
    )


def _interpolate(
    low: ReferenceRecord | ReferencePoint,
    high: ReferenceRecord | ReferencePoint,
    size: int,
    at_low: float,
    at_high: float,
) -> float:
    slope = (at_high - at_low) / (high.global_batch_size - low.global_batch_size)
    return slope * (size - low.global_batch_size) + at_low


def score_factor(record: ReferenceRecord | None, samples: float) -> float:
    """Return the factor of a score: no result is scored as converging faster than the record's mean."""
    return 1.0 if record is None else max(1.0, record.mean / samples)


# The t-test.


def accepted_from(record: ReferenceRecord, runs: int, allowance: int = 0) -> float:
    """Return the smallest accepted mean of `runs` runs, in samples, rounded as the official tool rounds it."""
    return record.mean / (record.mean / (fastest_mean(record, runs) - allowance))


def fastest_mean(record: ReferenceRecord, runs: int) -> float:
    """Return the smallest mean of a result of `runs` runs, two of them dropped, that the t-test accepts, in samples."""
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
    """Return the value that Student's t with `degrees` degrees of freedom exceeds with a probability."""
    # scipy takes 0.2 s to import, which only a comparison needs.
    from scipy.special import stdtrit

    return -float(stdtrit(degrees, probability))
