"""Prepares numbers for drawing: a bounded count, with no extreme lost."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_POINTS = 400
"""Most bins of a line."""

LARGEST = 1e15
"""Largest number that is drawn: nothing measured is larger, and differences of larger numbers may overflow."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Bin:
    """Neighbouring points of a line."""

    x: float
    """Mean."""
    low: float
    mean: float
    high: float


def drawable(points: Iterable[Point]) -> list[Point]:
    """Return the points whose coordinates are finite and at most LARGEST."""
    return [(x, y) for x, y in points if abs(x) <= LARGEST and abs(y) <= LARGEST]


def binned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Bin]:
    """Return at most `most` bins of equally many neighbouring points; the last may have fewer."""
    size = max(1, -(-len(points) // most))
    return [_bin(points[start : start + size]) for start in range(0, len(points), size)]


def spread(points: Iterable[Point], parts: int) -> list[Bin]:
    """Return the points of several lines in bins: equal parts of their range of x, without empty ones."""
    found = list(points)
    low, high = min(found)[0], max(found)[0]
    width = (high - low) / parts or 1.0
    filled: defaultdict[int, list[Point]] = defaultdict(list)
    for point in found:
        filled[min(parts - 1, int((point[0] - low) / width))].append(point)
    return [_bin(filled[part]) for part in sorted(filled)]


def _bin(points: Sequence[Point]) -> Bin:
    values = [y for _, y in points]
    mean_x = math.fsum(x for x, _ in points) / len(points)
    return Bin(mean_x, min(values), math.fsum(values) / len(points), max(values))


def histogram(values: Sequence[float] | NDArray[np.float64], bins: int) -> list[tuple[float, float, int]]:
    """Return (from, to, count) of equal bins over the values' range; the last bin includes its end."""
    low, high = min(values), max(values)
    # Equal values get a bin that is wide enough to be seen.
    end = high if high > low else low + bins * max(abs(low), 1.0) * 1e-3
    counts, edges = np.histogram(values, bins, (low, end))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True))


def quantile(values: Sequence[float], fraction: float) -> float:
    """Return a quantile, interpolated between the two nearest values."""
    return float(np.quantile(values, fraction))
