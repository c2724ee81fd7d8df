"""Which ranks compute longer than others that do the same work: where to look when all steps are slow.

A synchronous step takes every rank as long as the slowest one, so what is compared is the time that a rank needs for a
forward pass of its own. Ranks of one pipeline stage have the same work. Those of a tensor-parallel or context-parallel
group wait for each other within it, so a slow one shows as its whole group.
"""

from __future__ import annotations

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


def slowest(seconds: Sequence[float], nodes: Sequence[str], stages: int) -> tuple[SlowRank, ...]:
    """The ranks with the largest ratios, largest first; none where each rank is a pipeline stage of its own.

    Args:
        seconds: of each rank for the same amount of work.
        nodes: of each rank, the name of its node.
        stages: of the pipeline, which are Megatron-Core's: equal parts in the order of ranks.

    Raises:
        ValueError: the ranks are no whole stages.
    """
    size, rest = divmod(len(seconds), stages)
    if rest or len(nodes) != len(seconds):
        raise ValueError(f"{len(seconds)} times and {len(nodes)} nodes of ranks in {stages} pipeline stages")
    if size == 1:
        return ()
    # The lower of two in the middle: of two ranks, the slow one is compared with the other and not with their mean.
    usual = [median_low(seconds[first : first + size]) for first in range(0, len(seconds), size)]
    ratios = [round(mine / usual[rank // size], 3) for rank, mine in enumerate(seconds)]
    chosen = nlargest(NAMED, range(len(ratios)), key=ratios.__getitem__)
    return tuple(SlowRank(rank=rank, node=nodes[rank], ratio=ratios[rank]) for rank in chosen)
