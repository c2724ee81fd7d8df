"""Find the ranks that compute longer than others with the same work, the place to look when all steps are slow.

A synchronous step takes all ranks as long as the slowest one. So the ranks are compared by the time of a forward pass
that each runs alone. Ranks of one pipeline stage have the same work. Those of a tensor-parallel or context-parallel
group wait for each other during the pass, so a slow rank makes its whole group look slow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nlargest
from statistics import median_low

NAMED = 8
"""Number of ranks that are reported."""

SLOW = 1.1
"""Smallest ratio to the median at which a rank counts as slow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowRank:
    """One of the slowest ranks."""

    rank: int
    node: str
    ratio: float
    """Its time divided by that of the median rank of its pipeline stage."""


def slowest(seconds: Sequence[float], nodes: Sequence[str], stages: Sequence[int]) -> tuple[SlowRank, ...]:
    """Return the ranks with the largest ratios, largest first; none if each rank is a pipeline stage of its own.

    Args:
        seconds: the time of each rank for the same amount of work.
        nodes: the name of each rank's node.
        stages: the pipeline stage of each rank.

    Raises:
        ValueError: the three differ in length.
    """
    if not len(seconds) == len(nodes) == len(stages):
        raise ValueError(f"{len(seconds)} times, {len(nodes)} nodes and {len(stages)} stages of the same ranks")
    times = defaultdict[int, list[float]](list)
    for stage, mine in zip(stages, seconds, strict=True):
        times[stage].append(mine)
    if len(times) == len(seconds):
        return ()
    # The lower median: of two ranks, the slow one is compared with the other, not with the mean of both.
    usual = {stage: median_low(of_stage) for stage, of_stage in times.items()}
    ratios = [round(mine / usual[stage], 3) for stage, mine in zip(stages, seconds, strict=True)]
    chosen = nlargest(NAMED, range(len(ratios)), key=ratios.__getitem__)
    return tuple(SlowRank(rank=rank, node=nodes[rank], ratio=ratios[rank]) for rank in chosen)
