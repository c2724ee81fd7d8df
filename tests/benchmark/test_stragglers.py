"""Which ranks are reported as slow: those that take longer than others with the same work."""

from __future__ import annotations

from statistics import median_low

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.stragglers import NAMED, SlowRank, slowest

TIMES = st.floats(min_value=1e-3, max_value=1e3)


@given(st.integers(1, 4), st.integers(2, 6), st.booleans(), st.data())
def test_a_rank_is_compared_with_its_own_stage(count: int, size: int, neighbours: bool, data: st.DataObject) -> None:
    """Each ratio is to the median of the rank's stage, the largest come first, and no slower rank is left out.

    The ranks of a stage may be neighbours, or every so many ranks apart.
    """
    times = data.draw(st.lists(TIMES, min_size=count * size, max_size=count * size))
    stages = [rank // size if neighbours else rank % count for rank in range(len(times))]
    found = slowest(times, [f"n{rank}" for rank in range(len(times))], stages)

    def ratio(rank: int) -> float:
        return round(times[rank] / median_low(t for t, s in zip(times, stages, strict=True) if s == stages[rank]), 3)

    assert [(one.node, one.ratio) for one in found] == [(f"n{one.rank}", ratio(one.rank)) for one in found]
    ratios = sorted(map(ratio, range(len(times))), reverse=True)
    assert [one.ratio for one in found] == ratios[:NAMED]


def test_a_stage_with_more_work_is_not_slow() -> None:
    """The last stage takes three times as long as the first; the slow rank is in the first."""
    found = slowest([1.0, 1.0, 1.5, 1.0, 3.0, 3.1, 3.0, 3.0], ["a"] * 4 + ["b"] * 4, [0] * 4 + [1] * 4)
    assert found[0] == SlowRank(rank=2, node="a", ratio=1.5)


def test_of_two_ranks_the_slow_one_is_compared_with_the_other() -> None:
    """The reference is the other rank, not the mean of both, which no rank can exceed twice."""
    assert slowest([4.0, 1.0], ["a", "b"], [0, 0])[0].ratio == 4.0


def test_ranks_with_nobody_to_compare_are_not_reported() -> None:
    """With one rank a stage, no rank is reported."""
    assert slowest([1.0, 9.0], ["a", "a"], [0, 1]) == ()


def test_times_of_other_ranks_are_refused() -> None:
    """Lists of different lengths are refused, not compared with another stage's."""
    with pytest.raises(ValueError, match="3 times, 3 nodes and 2 stages of the same ranks"):
        slowest([1.0] * 3, ["a"] * 3, [0, 1])
