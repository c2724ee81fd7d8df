"""Numbers made fit to be drawn: bounded in count, honest about what is left out, with round numbers on their axes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

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


_LEAST_STEP = 1e-300


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within low..high, roughly `about` of them."""
    rough = (high - low) / about
    # Nothing to count off, or steps beyond the precision of small floats.
    if not rough > _LEAST_STEP:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within low..high, which are above 0."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    return [value for value in found if low * 0.999 <= value <= high * 1.001]


def short(value: float) -> str:
    """A number as an axis shows it: 276k, 5.6, 0.002."""
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if suffix == 'k' else limit):.4g}{suffix}"
    return f"{value:.4g}"


def histogram(values: Sequence[float], bins: int) -> list[tuple[float, float, int]]:
    """(from, to, how many) of equal bins over the values' range; the last bin includes its end."""
    low, high = min(values), max(values)
    # Of values that are all alike, a bin that can be seen.
    end = high if high > low else low + bins * max(abs(low), 1.0) * 1e-3
    counts, edges = np.histogram(values, bins, (low, end))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True))


def quantile(values: Sequence[float], fraction: float) -> float:
    """Interpolated between the two nearest values."""
    return float(np.quantile(values, fraction))
