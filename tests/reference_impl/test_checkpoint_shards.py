"""A range of a matrix's elements, as rectangles."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from reference_impl.checkpoint.shards import rectangles


@st.composite
def ranges(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """A matrix's rows and width, and a range of its elements."""
    rows, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    first, last = sorted(draw(st.tuples(*[st.integers(0, rows * width)] * 2)))
    return rows, width, first, last


@given(ranges())
def test_rectangles_hold_a_range_in_its_order(given_range: tuple[int, int, int, int]) -> None:
    """Cut out of the matrix and put one after the other they are the range; there are three of them at most."""
    rows, width, first, last = given_range
    elements = torch.arange(rows * width)
    matrix = elements.view(rows, width)

    found = list(rectangles(first, last, width))

    cut = [matrix[row : row + high, column : column + wide].flatten() for row, column, high, wide in found]
    assert torch.cat([elements[:0], *cut]).tolist() == list(range(first, last))
    assert len(found) <= 3
