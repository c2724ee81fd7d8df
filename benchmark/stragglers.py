"""Which ranks compute longer than others that do the same work: where to look when all steps are slow.

A synchronous step takes every rank as long as the slowest one, so what is compared is the time that a rank needs for a
forward pass of its own. Ranks of one pipeline stage have the same work. Those of a tensor-parallel or context-parallel
group wait for each other within it, so a slow one shows as its whole group.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nlargest
from statistics import median_low

NAMED = 8
"""Ranks that are reported."""

SLOW = 1.1
"""Ratio from which a person is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowRank:
    """One of the slowest ranks."""

    rank: int
    node: str
    ratio: float
    """Its time over that of the median rank of its pipeline stage."""


def slowest(seconds: Sequence[float], nodes: Sequence[str], stages: Sequence[int]) -> tuple[SlowRank, ...]:
    """The ranks with the largest ratios, largest first; none where each rank is a pipeline stage of its own.

    Args:
        seconds: of each rank for the same amount of work.
        nodes: of each rank, the name of its node.
        stages: of each rank, its stage of the pipeline.

    Raises:
        ValueError: these are not of the same ranks.
    """
    if not len(seconds) == len(nodes) == len(stages):
        raise ValueError(f"{len(seconds)} times, {len(nodes)} nodes and {len(stages)} stages of the same ranks")
    times = defaultdict[int, list[float]](list)
    for stage, mine in zip(stages, seconds, strict=True):
        times[stage].append(mine)
    if len(times) == len(seconds):
        return ()
    # The lower of two in the middle: of two ranks, the slow one is compared with the other and not with their mean.
    usual = {stage: median_low(of_stage) for stage, of_stage in times.items()}
    ratios = [round(mine / usual[stage], 3) for stage, mine in zip(stages, seconds, strict=True)]
    chosen = nlargest(NAMED, range(len(ratios)), key=ratios.__getitem__)
    return tuple(SlowRank(rank=rank, node=nodes[rank], ratio=ratios[rank]) for rank in chosen)
