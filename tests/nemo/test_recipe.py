"""NeMo's recipe and schedule against the rules: what is equal is equal, and every difference has its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.nemo.recipe import NOT_COMPARED, SCHEDULE, SCHEDULE_STEPS, TABLE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1000)]


@pytest.fixture(scope="module")
def recipe(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "recipe.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.nemo)
def test_hyperparameter_is_equal_or_explained(row: Any, recipe: dict[str, Any]) -> None:
    """No difference is without a reason, and no reason is without a difference."""
    theirs = recipe["values"][row.nemo]
    assert (theirs != row.ours) == bool(row.why), f"NeMo has {theirs!r}, ours is {row.ours!r}: {row.why or 'no reason'}"


def test_whatever_the_recipe_chooses_is_accounted_for(recipe: dict[str, Any]) -> None:
    """Each value that the recipe itself sets is compared, or left out for a reason that still has a value."""
    compared = {row.nemo for row in TABLE}
    left_out = [name for name in recipe["chosen"] if name not in compared]
    assert not [name for name in left_out if not name.startswith(tuple(NOT_COMPARED))]
    assert not [prefix for prefix in NOT_COMPARED if not any(name.startswith(prefix) for name in left_out)]


def test_learning_rates_are_nemos(folder: Path) -> None:
    """With the rules' numbers, NeMo's scheduler takes every step with the rate that the rules' schedule says."""
    theirs = json.loads((folder / "learning_rates.json").read_text(encoding="utf-8"))
    ours = [SCHEDULE.learning_rate(step) for step in SCHEDULE_STEPS]
    assert ours == pytest.approx(theirs, rel=1e-12)
