"""Which ranks are reported as slow: those that take longer than others with the same work."""

from __future__ import annotations

from statistics import median_low

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.stragglers import NAMED, SlowRank, slowest

TIMES = st.floats(min_value=1e-3, max_value=1e3)


@given(st.integers(1, 4), st.integers(2, 6), st.data())
def test_a_rank_is_compared_with_its_own_stage(stages: int, size: int, data: st.DataObject) -> None:
    """Each ratio is to the median of the rank's stage, the largest come first, and no slower rank is left out."""
    times = data.draw(st.lists(TIMES, min_size=stages * size, max_size=stages * size))
    found = slowest(times, [f"n{rank}" for rank in range(len(times))], stages)

    def ratio(rank: int) -> float:
        first = rank // size * size
        return round(times[rank] / median_low(times[first : first + size]), 3)

    assert [(one.node, one.ratio) for one in found] == [(f"n{one.rank}", ratio(one.rank)) for one in found]
    ratios = sorted(map(ratio, range(len(times))), reverse=True)
    assert [one.ratio for one in found] == ratios[:NAMED]


def test_a_stage_with_more_work_is_not_slow() -> None:
    """The last stage takes three times as long as the first; the slow rank is in the first."""
    found = slowest([1.0, 1.0, 1.5, 1.0, 3.0, 3.1, 3.0, 3.0], ["a"] * 4 + ["b"] * 4, stages=2)
    assert found[0] == SlowRank(rank=2, node="a", ratio=1.5)


def test_of_two_ranks_the_slow_one_is_compared_with_the_other() -> None:
    """Not with the mean of both, of which nobody can be more than twice."""
    assert slowest([4.0, 1.0], ["a", "b"], stages=1)[0].ratio == 4.0


def test_ranks_with_nobody_to_compare_are_not_reported() -> None:
    """One rank a stage."""
    assert slowest([1.0, 9.0], ["a", "a"], stages=2) == ()


def test_ranks_that_are_no_whole_stages_are_refused() -> None:
    """A layout that is not Megatron-Core's."""
    with pytest.raises(ValueError, match="3 times and 3 nodes of ranks in 2 pipeline stages"):
        slowest([1.0] * 3, ["a"] * 3, stages=2)
