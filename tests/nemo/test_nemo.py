"""NeMo's checkpoints and ours, bit for bit, either way; NeMo's recipe and schedule against the rules.

In one file, so that one process of the test command waits for NeMo and not two.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from benchmark.benchmarks import LLAMA31_405B
from benchmark.config import RunConfig
from reference_impl.checkpoint.convert import to_huggingface
from reference_impl.checkpoint.source import open_checkpoint
from tests.nemo.recipe import NOT_COMPARED, SCHEDULE, SCHEDULE_STEPS, TABLE
from tests.reference_impl.checkpoints import TINY, Weights, wrong_parameters
from tests.reference_impl.conftest import run_ranks

pytestmark = pytest.mark.slow

# Checkpoints.


@pytest.mark.parametrize("tp", [1, 2])
def test_a_checkpoint_of_nemos_is_loaded(tp: int, folder: Path, weights: Weights) -> None:
    """A run from NeMo's imported checkpoint has every parameter bit for bit, and the vocabulary's first rows."""
    config = RunConfig.from_environment(
        {
            "BENCHMARK": "llama31_tiny",
            "DGXSYSTEM": "test",
            "DGXNNODES": "1",
            "DGXNGPU": str(tp),
            "TENSOR_MODEL_PARALLEL": str(tp),
            "MINIBS": "16",
            "SEED": "7",
            "LOAD_CHECKPOINT": str(folder / "nemo"),
        }
    )
    first_rows = {name: value[: LLAMA31_405B.vocabulary] for name, value in weights.items()}

    answers = run_ranks(config, lambda one: wrong_parameters(one, first_rows))

    assert answers == [(6 * TINY.layers + 3, [])] * tp


def test_a_checkpoint_of_nemos_goes_back_to_huggingface(folder: Path, weights: Weights, tmp_path: Path) -> None:
    """Hugging Face's weights come out of NeMo's checkpoint as they went in."""
    to_huggingface(open_checkpoint(folder / "nemo"), tmp_path / "back")
    assert_equal(tmp_path / "back", weights)


def test_nemo_reads_what_is_converted_here(folder: Path, weights: Weights) -> None:
    """NeMo's loader fills its model from our conversion, and its exporter brings the same weights back."""
    assert_equal(folder / "exported", weights)


def assert_equal(huggingface: Path, weights: Weights) -> None:
    found = {name: value for path in huggingface.glob("*.safetensors") for name, value in load_file(path).items()}
    assert found.keys() == weights.keys()
    assert not [name for name, value in found.items() if not torch.equal(value, weights[name])]


def test_nemo_describes_the_model_in_the_same_words(folder: Path) -> None:
    """Every number of our model.yaml is in NeMo's under the same name."""
    ours = yaml.safe_load((folder / "ours" / "our_context" / "model.yaml").read_text(encoding="utf-8"))["config"]
    theirs = yaml.safe_load((folder / "nemo" / "context" / "model.yaml").read_text(encoding="utf-8"))["config"]
    assert {name: theirs.get(name) for name in ours} == ours


# The recipe: what is equal is equal, and every difference has its reason.


@pytest.fixture(scope="module")
def recipe(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "recipe.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.nemo)
def test_hyperparameter_is_equal_or_explained(row: Any, recipe: dict[str, Any]) -> None:
    """Every difference has a reason, and every reason has a difference."""
    theirs = recipe["values"][row.nemo]
    assert (theirs != row.ours) == bool(row.why), f"NeMo has {theirs!r}, ours is {row.ours!r}: {row.why or 'no reason'}"


def test_whatever_the_recipe_chooses_is_accounted_for(recipe: dict[str, Any]) -> None:
    """Each value that the recipe itself sets is compared, or left out for a reason that still has a value."""
    compared = {row.nemo for row in TABLE}
    left_out = [name for name in recipe["chosen"] if name not in compared]
    assert not [name for name in left_out if not name.startswith(tuple(NOT_COMPARED))]
    assert not [prefix for prefix in NOT_COMPARED if not any(name.startswith(prefix) for name in left_out)]


def test_learning_rates_are_nemos(folder: Path) -> None:
    """With the rules' numbers, NeMo's scheduler takes every step with the rate of the rules' schedule."""
    theirs = json.loads((folder / "learning_rates.json").read_text(encoding="utf-8"))
    ours = [SCHEDULE.learning_rate(step) for step in SCHEDULE_STEPS]
    assert ours == pytest.approx(theirs, rel=1e-12)
