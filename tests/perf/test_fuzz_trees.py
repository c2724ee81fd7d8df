"""The fuzzer of trees makes the inputs that it promises, and every verb survives them."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from perf.fuzz_trees import FUZZ, SYSTEM, attempt, make
from perf.fuzzing import look


class Quiet(Random):
    """Chance that changes nothing."""

    def choice(self, seq: Any) -> Any:
        return seq[0]


@pytest.mark.slow
def test_some_trees_are_judged_without_a_crash() -> None:
    """No input of the first few makes a verb crash; a full run has thousands."""
    found = look(FUZZ, 7, None, range(3))
    assert (found.inputs, found.failures) == (3, [])


def test_more_nodes_than_floats_can_count_are_no_number(tmp_path: Path) -> None:
    """A description with 1e308 nodes is reported on, without the numbers that are computed from nodes."""
    make(Quiet(), tmp_path)
    path = tmp_path / SYSTEM
    path.write_text(json.dumps(json.loads(path.read_text()) | {"number_of_nodes": 1e308}))
    assert attempt(tmp_path) == ""
