"""Numbers made fit to be drawn: bounded in count, honest about what is left out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_POINTS = 400
"""Of a line that is drawn whole; a longer one is drawn as the range and the mean of its bins."""

LARGEST = 1e15
"""A number beyond it is not drawn: nothing that is measured is as large, and differences of such numbers overflow."""

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
    """The points that are numbers of a size that can be drawn."""
    return [(x, y) for x, y in points if abs(x) <= LARGEST and abs(y) <= LARGEST]


def binned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Bin]:
    """The points in at most `most` bins of as many neighbours each, the last one of fewer."""
    size = max(1, -(-len(points) // most))
    return [_bin(points[start : start + size]) for start in range(0, len(points), size)]


def spread(points: Iterable[Point], parts: int) -> list[Bin]:
    """Points of many at about the same times, in so many equal parts of their time."""
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
    """(from, to, how many) of equal bins over the values' range; the last bin includes its end."""
    low, high = min(values), max(values)
    # Of values that are all alike, a bin that can be seen.
    end = high if high > low else low + bins * max(abs(low), 1.0) * 1e-3
    counts, edges = np.histogram(values, bins, (low, end))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True))


def quantile(values: Sequence[float], fraction: float) -> float:
    """Interpolated between the two nearest values."""
    return float(np.quantile(values, fraction))
