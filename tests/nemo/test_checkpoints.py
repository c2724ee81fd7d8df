"""Checkpoints that NeMo writes are loaded here, and NeMo reads those that are written here, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from benchmark.config import VOCABULARY, RunConfig
from reference_impl.checkpoint.convert import to_huggingface
from reference_impl.checkpoint.source import open_checkpoint
from tests.reference_impl.checkpoints import TINY, Weights, wrong_parameters
from tests.reference_impl.conftest import run_ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1000)]


@pytest.mark.parametrize("tp", [1, 2])
def test_a_checkpoint_of_nemos_is_loaded(tp: int, folder: Path, weights: Weights) -> None:
    """A run starts from what NeMo's importer wrote: every parameter has its bits, the vocabulary its first rows."""
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
    first_rows = {name: value[:VOCABULARY] if len(value) > VOCABULARY else value for name, value in weights.items()}

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
    """Every number of the model.yaml that is written here is in NeMo's, under the same name."""
    ours = yaml.safe_load((folder / "ours" / "our_context" / "model.yaml").read_text(encoding="utf-8"))["config"]
    theirs = yaml.safe_load((folder / "nemo" / "context" / "model.yaml").read_text(encoding="utf-8"))["config"]
    assert {name: theirs.get(name) for name in ours} == ours
