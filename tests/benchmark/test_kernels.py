"""Switches of the kernels: those that contradict each other anywhere, and those whose needs a machine lacks."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.metadata import requires

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from benchmark.checkout import ROOT
from benchmark.config import NAMES, ConfigError, RunConfig, kernels
from benchmark.config.kernels import (
    FP8_RECIPES,
    SWITCHES,
    TRANSFORMER_ENGINE,
    Machine,
    lacking,
    layer_spec,
    never_on_a_gpu,
    probe,
    transformer_engine_fault,
)
from benchmark.config.libraries import RECORDED
from harness.launch import image

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
        ({"FP8_PARAM_GATHER": 1}, "FP8_PARAM_GATHER=True needs PRECISION=fp8; it is bf16"),
        (
            {"FP8_PARAM_GATHER": 1, "PRECISION": "fp8", "FP8_RECIPE": "mxfp8"},
            "FP8_PARAM_GATHER=True needs FP8_RECIPE=tensorwise; it is mxfp8",
        ),
        ({"NUM_LAYERS_AT_END_IN_BF16": 4}, "NUM_LAYERS_AT_END_IN_BF16=4 needs PRECISION=fp8 or nvfp4; it is bf16"),
        (
            {"NUM_LAYERS_AT_START_IN_BF16": 16, "PRECISION": "nvfp4"},
            "NUM_LAYERS_AT_START_IN_BF16=16 is above the 15 layers of a pipeline stage",
        ),
        ({**NO_PIPELINE, "ALIGN_PARAM_GATHER": 1}, "ALIGN_PARAM_GATHER=True needs an interleaved pipeline"),
        ({"ALIGN_PARAM_GATHER": 1, "OVERLAP_PARAM_GATHER": 0}, "ALIGN_PARAM_GATHER=True needs OVERLAP_PARAM_GATHER"),
        ({"MC_TP_OVERLAP_RS": 0}, "MC_TP_OVERLAP_RS=False needs TP_COMM_OVERLAP=True"),
        ({"FULL_CUDA_GRAPH": 1, "CUDA_GRAPH_IMPLEMENTATION": "local"}, "leave CUDA_GRAPH_IMPLEMENTATION=local out"),
        ({"FULL_CUDA_GRAPH": 1, "INTERLEAVED_PIPELINE": 1}, "needs an interleaved pipeline, or none"),
        (
            {"FULL_CUDA_GRAPH": 1, "TP_COMM_OVERLAP": 1},
            "FULL_CUDA_GRAPH=True has not been tried with TP_COMM_OVERLAP=True",
        ),
        (
            {"FULL_CUDA_GRAPH": 1, "RECOMPUTE_GRANULARITY": "selective"},
            "FULL_CUDA_GRAPH=True has not been tried with RECOMPUTE_GRANULARITY=selective",
        ),
        (
            {"PRECISION": "fp8", "FP8_PARAM_GATHER": 1, "CUDA_GRAPH_IMPLEMENTATION": "local"},
            "FP8_PARAM_GATHER=True cannot be combined with CUDA_GRAPH_IMPLEMENTATION=local",
        ),
        ({"PRECISION": "fp8", "LAYER_SPEC": "torch"}, "PRECISION=fp8 with FP8_RECIPE=tensorwise needs Transformer"),
        (
            {**NO_PIPELINE, "CUDA_GRAPH_IMPLEMENTATION": "local", "LAYER_SPEC": "torch"},
            "CUDA_GRAPH_IMPLEMENTATION=local needs",
        ),
        (
            {"TP_COMM_OVERLAP": 1, "PRECISION": "nvfp4"},
            "TP_COMM_OVERLAP=True cannot be combined with PRECISION=nvfp4: Transformer Engine does not overlap fp4",
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
            {"RECOMPUTE_GRANULARITY": "selective", "RECOMPUTE_MODULES": "layernorm", "LAYER_SPEC": "te"},
            "RECOMPUTE_MODULES=layernorm would recompute no layernorm",
        ),
        (
            {"RECOMPUTE_GRANULARITY": "selective", "RECOMPUTE_MODULES": "mlp,layernorm", "PRECISION": "fp8"},
            "RECOMPUTE_MODULES=mlp,layernorm would recompute no layernorm",
        ),
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
        ({"PRECISION": "fp8"}, replace(HOPPER, transformer_engine=None), "2.9 or later and before 2.12, which is not"),
        ({"PRECISION": "nvfp4"}, HOPPER, "compute capability 10.0 or later; this one has 9.0"),
        ({"PRECISION": "fp8", "FP8_RECIPE": "mxfp8"}, HOPPER, "compute capability 10.0"),
        (
            {"RECOMPUTE_GRANULARITY": "selective", "RECOMPUTE_MODULES": "mlp,layernorm"},
            CPU,
            "RECOMPUTE_MODULES=layernorm needs a GPU that torch can use",
        ),
        (
            {"RECOMPUTE_GRANULARITY": "selective", "RECOMPUTE_MODULES": "layernorm"},
            HOPPER,
            "RECOMPUTE_MODULES=layernorm would recompute no layernorm: in Transformer Engine's layers the norm is",
        ),
        ({"USE_PRECISION_AWARE_OPTIMIZER": 1}, CPU, "USE_PRECISION_AWARE_OPTIMIZER=True needs a GPU"),
    ],
)
def test_what_a_machine_lacks_is_named(variables: dict[str, object], machine: Machine, said: str) -> None:
    """The fault names the switch, what it needs, and what the machine has."""
    (fault,) = lacking(config(**variables).kernels, machine)
    assert said in fault


@pytest.mark.parametrize("recipe", FP8_RECIPES)
def test_every_recipe_runs_somewhere(recipe: str) -> None:
    """Blackwell with a current Transformer Engine lacks nothing for any recipe."""
    assert lacking(config(PRECISION="fp8", FP8_RECIPE=recipe, TP_COMM_OVERLAP=1).kernels, BLACKWELL) == []


@pytest.mark.parametrize("found", ["2.9", "2.9.0a0", "2.10.0.dev0+5fdd7bb", "2.11.0+c188b533"])
def test_a_release_in_the_range_is_taken(found: str) -> None:
    """Releases are compared as numbers (2.10 is later than 2.9), whatever follows the release."""
    assert lacking(config(PRECISION="nvfp4").kernels, replace(BLACKWELL, transformer_engine=found)) == []


@pytest.mark.parametrize("found", ["2.8.0", "2.6.0.post1", "2.12", "2.12.0rc1", "3.0"])
def test_another_transformer_engine_is_refused(found: str) -> None:
    """It is refused once, by name, whatever needs it; PyTorch's layers do not use it."""
    machine = replace(BLACKWELL, transformer_engine=found)
    (fault,) = lacking(config(PRECISION="nvfp4", TP_COMM_OVERLAP=0).kernels, machine)
    assert fault == (
        f"Transformer Engine {found} does not work with Megatron-Core; expected 2.9 or later, before 2.12; install "
        "one of these releases, or set LAYER_SPEC=torch"
    )
    assert lacking(config(LAYER_SPEC="torch").kernels, machine) == []


def test_the_range_is_what_megatron_core_declares() -> None:
    """The range equals the one in Megatron-Core's own metadata, by which pip would judge."""
    declared = [Requirement(line) for line in requires("megatron-core") or ()]
    (wanted,) = [one.specifier for one in declared if one.name == "transformer-engine"]
    least, beyond = TRANSFORMER_ENGINE
    for release in (least, beyond, "2.8.9", "2.9.0", "2.10", "2.11.7", "2.12.0", "2.20.2"):
        assert (transformer_engine_fault(release) == "") is wanted.contains(release), release


def test_an_image_with_another_transformer_engine_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Dockerfile's last step fails for it; an image without Transformer Engine is one for CPUs."""
    said = {}
    for found in (None, "2.11.0", "2.8.0"):
        monkeypatch.setattr(kernels, "probe", lambda found=found: Machine(transformer_engine=found))
        done = CliRunner().invoke(image.main)
        said[found] = (done.exit_code, done.output.strip())
    assert said[None] == (0, "no Transformer Engine: an image for CPUs, or for LAYER_SPEC=torch")
    assert said["2.11.0"] == (0, "Transformer Engine 2.11.0")
    assert said["2.8.0"] == (1, f"Error: {transformer_engine_fault('2.8.0')}")
    steps = [line for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines() if line.startswith("RUN")]
    assert steps[-1] == f"RUN python3 -m {image.__name__}"


# Where each switch has run.


def unproven(**variables: object) -> set[str]:
    run = config(**variables)
    return {switch.name for switch in never_on_a_gpu(run.kernels, run.layout)}


def test_a_switch_that_is_on_is_named() -> None:
    """A switch that has never run on a GPU is named, whether the user or a default turned it on."""
    assert {"PRECISION=nvfp4", "LAYER_SPEC=te", "CP_COMM_TYPE=p2p"} <= unproven(PRECISION="nvfp4")
    assert {"PRECISION=fp8 FP8_RECIPE=tensorwise", "TP_COMM_OVERLAP=True"} <= unproven(
        PRECISION="fp8", TP_COMM_OVERLAP=1
    )
    assert unproven(PRECISION="bf16") - unproven(PRECISION="bf16", LAYER_SPEC="torch", KERNEL_FUSION=0) == {
        *("LAYER_SPEC=te", "CP_COMM_TYPE=p2p", "CE_FUSION_IMPL=te", "KERNEL_FUSION=True")
    }
    assert "RECOMPUTE_MODULES=core_attn" in unproven(RECOMPUTE_GRANULARITY="selective")
    assert unproven(PRECISION="fp32") == set()


def test_one_row_says_that_a_switch_has_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a run on a GPU, only the switch's row must change."""
    rows = tuple(replace(row, gpu="2026-12-01 x" if row.name == "LAYER_SPEC=te" else row.gpu) for row in SWITCHES)
    before = unproven(PRECISION="fp8")
    monkeypatch.setattr(kernels, "SWITCHES", rows)
    assert before - unproven(PRECISION="fp8") == {"LAYER_SPEC=te"}


def test_every_recorded_run_on_a_gpu_has_its_file() -> None:
    """A recorded run has a date, and a file of this repository."""
    for row in SWITCHES:
        if row.gpu:
            date, file = row.gpu.split(" ", 1)
            assert re.fullmatch(r"\d{4}-\d\d-\d\d", date), row
            assert (ROOT / file).is_file(), row


def test_the_guide_has_the_table_of_what_has_run() -> None:
    """docs/gpu.md has the same table, row by row."""
    rows = [
        f"| `{row.name}` | {'yes' if row.cpu else 'no'} | {'yes' if row.null_device else 'no'} | {row.gpu or 'never'} |"
        for row in SWITCHES
    ]
    text = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    table = "\n".join(["| switch | CPU | null device | GPU |", "|---|---|---|---|", *rows])
    assert table in text, f"docs/gpu.md should hold:\n{table}"


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
    """They are Transformer Engine's if it and a GPU are there; an explicit choice has precedence."""
    assert layer_spec(config(LAYER_SPEC=asked).kernels, machine) == chosen


def test_the_probe_knows_no_capability() -> None:
    """Without torch the GPU's capability is unknown, and an unknown capability is not judged."""
    assert probe().compute_capability is None
    assert lacking(config(PRECISION="nvfp4").kernels, replace(BLACKWELL, compute_capability=None)) == []


def test_the_guide_names_only_variables_that_exist() -> None:
    """Each variable in the tables of docs/gpu.md is one of ours, or one of the libraries' that we set."""
    table = [line for line in (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8").splitlines() if line[:3] == "| `"]
    named = {name for line in table for name in re.findall(r"`([A-Z][A-Z0-9_]+)", line)}

    assert named
    assert named <= NAMES.keys() | set(RECORDED)
