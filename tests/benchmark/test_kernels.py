"""Switches of the kernels: what contradicts itself anywhere, and what a machine lacks."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from benchmark.checkout import ROOT
from benchmark.config import NAMES, ConfigError, RunConfig
from benchmark.config.kernels import FP8_RECIPES, Machine, lacking, layer_spec, probe

HOPPER = Machine(gpu=True, compute_capability=(9, 0), transformer_engine="2.9.0")
BLACKWELL = replace(HOPPER, compute_capability=(10, 0))
CPU = Machine()


NO_PIPELINE = {"PIPELINE_MODEL_PARALLEL": 1, "INTERLEAVED_PIPELINE": 1, "MINIBS": 18}


def config(**variables: object) -> RunConfig:
    """512 GPUs with the published layout, changed by the variables given."""
    defaults = {
        "BENCHMARK": "llama31_405b",
        "RULESET": "6.0.0",
        "DGXSYSTEM": "test",
        "DGXNNODES": 64,
        "DGXNGPU": 8,
        "TENSOR_MODEL_PARALLEL": 4,
        "PIPELINE_MODEL_PARALLEL": 8,
        "INTERLEAVED_PIPELINE": 8,
        "CONTEXT_PARALLEL": 2,
        "MINIBS": 144,
    }
    return RunConfig.from_environment({name: str(value) for name, value in {**defaults, **variables}.items()})


def faults(**variables: object) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        config(**variables)
    return raised.value.faults


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"FP8_RECIPE": "mxfp8"}, "FP8_RECIPE=mxfp8 needs PRECISION=fp8; it is bf16"),
        ({"PRECISION": "fp8", "LAYER_SPEC": "torch"}, "PRECISION=fp8 with FP8_RECIPE=tensorwise needs Transformer"),
        (
            {**NO_PIPELINE, "CUDA_GRAPH_IMPLEMENTATION": "local", "LAYER_SPEC": "torch"},
            "CUDA_GRAPH_IMPLEMENTATION=local needs",
        ),
        (
            {"CUDA_GRAPH_IMPLEMENTATION": "local"},
            "CUDA_GRAPH_IMPLEMENTATION=local works without a pipeline only; PIPELINE_MODEL_PARALLEL is 8",
        ),
        (
            {"TP_COMM_OVERLAP": 1, "PRECISION": "nvfp4"},
            "TP_COMM_OVERLAP=True cannot be with PRECISION=nvfp4: Transformer Engine overlaps no fp4 products",
        ),
        ({"CP_COMM_TYPE": "p2p", "LAYER_SPEC": "torch"}, "CP_COMM_TYPE=p2p needs Transformer Engine's layers"),
        ({"TP_COMM_OVERLAP": 1, "TENSOR_MODEL_PARALLEL": 1, "MINIBS": 72}, "TENSOR_MODEL_PARALLEL is 1"),
        ({"CP_COMM_TYPE": "a2a", "TENSOR_MODEL_PARALLEL": 8, "MINIBS": 288}, "x CONTEXT_PARALLEL(2) = 16 does not"),
        ({"OVERLAP_PARAM_GATHER": 1, "OVERLAP_GRAD_REDUCE": 0}, "OVERLAP_PARAM_GATHER=True needs OVERLAP_GRAD_REDUCE"),
        ({"BUCKET_SIZE": 768_000_000, "OVERLAP_GRAD_REDUCE": 0}, "BUCKET_SIZE=768000000 needs OVERLAP_GRAD_REDUCE"),
        ({"RECOMPUTE_GRANULARITY": "full", "RECOMPUTE_METHOD": "block"}, "needs RECOMPUTE_NUM_LAYERS"),
        ({"RECOMPUTE_NUM_LAYERS": 2}, "RECOMPUTE_NUM_LAYERS=2 needs RECOMPUTE_GRANULARITY=full; it is not set"),
        ({"RECOMPUTE_MODULES": "mlp"}, "RECOMPUTE_MODULES=mlp needs RECOMPUTE_GRANULARITY=selective"),
        ({"RECOMPUTE_MODULES": "mlp,moe"}, "RECOMPUTE_MODULES=mlp,moe"),
        (
            {"RECOMPUTE_GRANULARITY": "full", "RECOMPUTE_METHOD": "block", "RECOMPUTE_NUM_LAYERS": 127},
            "RECOMPUTE_NUM_LAYERS(127) is above the 126 layers",
        ),
    ],
)
def test_contradiction_is_refused(variables: dict[str, object], said: str) -> None:
    """Switches that cannot go together are one fault, which names them."""
    (fault,) = faults(**variables)
    assert said in fault


@pytest.mark.parametrize(
    ("variables", "machine", "said"),
    [
        ({"LAYER_SPEC": "te"}, CPU, "LAYER_SPEC=te needs a GPU that torch can use; there is none"),
        ({"PRECISION": "fp8"}, CPU, "PRECISION=fp8 with FP8_RECIPE=tensorwise needs a GPU"),
        ({"PRECISION": "fp8"}, replace(HOPPER, transformer_engine=None), "2.2.0 or later, which is not installed"),
        ({"PRECISION": "nvfp4"}, replace(BLACKWELL, transformer_engine="2.6.0.post1"), "installed: 2.6.0.post1"),
        ({"PRECISION": "nvfp4"}, HOPPER, "compute capability 10.0 or later; this one has 9.0"),
        ({"PRECISION": "fp8", "FP8_RECIPE": "mxfp8"}, HOPPER, "compute capability 10.0"),
        (
            {"RECOMPUTE_GRANULARITY": "selective", "RECOMPUTE_MODULES": "mlp,layernorm"},
            CPU,
            "RECOMPUTE_MODULES=layernorm",
        ),
        ({"USE_PRECISION_AWARE_OPTIMIZER": 1}, CPU, "USE_PRECISION_AWARE_OPTIMIZER=True needs a GPU"),
    ],
)
def test_what_a_machine_lacks_is_named(variables: dict[str, object], machine: Machine, said: str) -> None:
    """A machine without what a switch needs is told the switch, the need and what is there."""
    (fault,) = lacking(config(**variables).kernels, machine)
    assert said in fault


@pytest.mark.parametrize("recipe", FP8_RECIPES)
def test_every_recipe_runs_somewhere(recipe: str) -> None:
    """Blackwell with a current Transformer Engine lacks nothing for any recipe."""
    assert lacking(config(PRECISION="fp8", FP8_RECIPE=recipe, TP_COMM_OVERLAP=1).kernels, BLACKWELL) == []


def test_versions_compare_as_numbers() -> None:
    """2.10 is later than 2.9, whatever follows the release."""
    assert (
        lacking(config(PRECISION="nvfp4").kernels, replace(BLACKWELL, transformer_engine="2.10.0.dev0+5fdd7bb")) == []
    )


@pytest.mark.parametrize(
    ("asked", "machine", "chosen"),
    [
        ("auto", CPU, "torch"),
        ("auto", HOPPER, "te"),
        ("auto", replace(HOPPER, transformer_engine=None), "torch"),
        ("auto", replace(HOPPER, gpu=False), "torch"),
        ("torch", HOPPER, "torch"),
        ("te", CPU, "te"),
    ],
)
def test_layers_are_chosen_by_what_is_there(asked: str, machine: Machine, chosen: str) -> None:
    """Transformer Engine where it is installed beside a GPU; what is asked for comes first."""
    assert layer_spec(config(LAYER_SPEC=asked).kernels, machine) == chosen


def test_the_probe_knows_no_capability() -> None:
    """Without torch nobody knows the GPU, and an unknown capability is not judged."""
    assert probe().compute_capability is None
    assert lacking(config(PRECISION="nvfp4").kernels, replace(BLACKWELL, compute_capability=None)) == []


def test_the_guide_names_only_variables_that_exist() -> None:
    """Each variable in the table of docs/gpu.md is one of ours."""
    table = [line for line in (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8").splitlines() if line[:3] == "| `"]
    named = {name for line in table for name in re.findall(r"`([A-Z][A-Z0-9_]+)", line)}

    assert named
    assert named <= NAMES.keys()
