"""Memory by pipeline stage: parameters, activations in flight, and peaks of the null device and published runs."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.checkout import ROOT
from benchmark.config import RunConfig, config_files, resolve, source_config
from benchmark.hardware import GPUS, OUTSIDE_ALLOCATOR, gpu_of_system
from harness.plan.job import TrainingJob, from_config, precision_of
from harness.plan.memory import GIB, MIB, Stage, fits, layer_bytes, stages, worst
from perf.plan_accuracy import without_moments
from tests.harness.plan_data import GB200, jobs, published

OURS = replace(GB200, quantised_weights=False, projection_copy=False, fused_weight_gradients=False)
"""The same, as our trainer keeps it."""


def test_parameters_of_a_rank_are_those_that_a_published_run_logged() -> None:
    """Rank 0 of TP 4, PP 8, VP 8 holds 12,086,378,496 parameters with a vocabulary padded to 32,256."""
    assert stages(replace(GB200, vocabulary=32_256))[0].parameters == 12_086_378_496


@given(jobs())
def test_all_ranks_together_hold_the_model(job: TrainingJob) -> None:
    """Over all stages and tensor-parallel ranks the parameters are the model's; only norms are on every rank."""
    held = sum(stage.parameters for stage in stages(job)) * job.tensor
    norms = (2 * job.size.layers + 1) * job.size.hidden
    assert held == job.size.parameters(job.vocabulary) + norms * (job.tensor - 1)


@given(jobs())
def test_the_worst_stage_is_the_worst(job: TrainingJob) -> None:
    """Looking at three stages finds the largest of all."""
    assert worst(job).total == max(stage.total for stage in stages(job))


def peak_of_schedule(job: TrainingJob, stage: int) -> int:
    """Layers in flight at the peak of Megatron-Core's interleaved schedule, played forward and backward."""
    from megatron.core.pipeline_parallel.schedules import get_schedule_table

    chunks, pipeline = job.chunks, job.pipeline
    table = get_schedule_table(job.microbatches, chunks, pipeline)
    forward = [chunk for _, chunk in table]
    backward = [chunks - 1 - chunk for chunk in forward]
    ahead = min(2 * (pipeline - stage - 1) + (chunks - 1) * pipeline, len(table))
    held = peak = sum(job.chunk_layers(stage, chunk) for chunk in forward[:ahead])
    for done, chunk in enumerate(forward[ahead:]):
        held += job.chunk_layers(stage, chunk)
        peak = max(peak, held)
        held -= job.chunk_layers(stage, backward[done])
    return peak


@given(pipeline=st.integers(2, 9), chunks=st.integers(2, 14))
def test_activations_in_flight_are_those_of_megatrons_schedule(pipeline: int, chunks: int) -> None:
    """Played with Megatron-Core's own table, every stage holds as many layers at its peak as counted."""
    job = replace(GB200, gpus=pipeline * 8, pipeline=pipeline, chunks=chunks, microbatches=4 * pipeline)
    counted = [stage.layer_activations for stage in stages(job)]
    assert counted == [peak_of_schedule(job, stage) for stage in range(pipeline)]


def test_without_interleaving_a_stage_holds_a_microbatch_for_each_stage_after_it() -> None:
    """1F1B: the first of four stages holds four microbatches, the last one."""
    job = replace(GB200, gpus=64, pipeline=4, chunks=1)
    assert [stage.layer_activations // stage.layers for stage in stages(job)] == [4, 3, 2, 1]


def test_bytes_of_a_layer_are_those_of_its_tensors() -> None:
    """26.5 bytes a token and hidden value in fp8 and 31.75 in bf16, and fp32 numbers of softmax and norms."""
    tokens, tensor = 4096, 4
    values, numbers = 16_384 * tokens / tensor, 4 * tokens / tensor * (128 + 2)
    assert layer_bytes(replace(OURS, precision="fp8")) == 26.5 * values + numbers
    assert layer_bytes(replace(OURS, precision="bf16")) == 31.75 * values + numbers
    assert layer_bytes(replace(OURS, precision="fp8", projection_copy=True)) == 27.5 * values + numbers


def test_nvfp4_keeps_a_norm_in_both_directions_where_it_is_gathered() -> None:
    """Two norms take two copies with tensor parallelism and one without, 0.5625 bytes a value."""
    alone = replace(OURS, tensor=1, gpus=128)
    values = 16_384 * 4096
    assert 4 * layer_bytes(OURS) - layer_bytes(alone) == 2 * 0.5625 * values


@given(jobs())
def test_recomputing_more_keeps_less(job: TrainingJob) -> None:
    """Recomputing nothing, the MLP, whole layers: each keeps less of a layer than the one before."""
    kept = [layer_bytes(replace(job, recompute=frozenset(what))) for what in ((), ("mlp",), ("full",))]
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == 3


def test_a_block_of_layers_keeps_what_is_between() -> None:
    """With one of a chunk's two layers recomputed, the stage keeps the mean of recomputing all and none."""
    none, block, every = (
        stages(replace(OURS, recompute=what, recomputed_layers=layers))[1].parts["activations"]
        for what, layers in ((frozenset(), 0), (frozenset({"full"}), 1), (frozenset({"full"}), 0))
    )
    assert every < block < none
    assert block == pytest.approx((none + every) / 2, rel=1e-2)


def test_recomputing_attention_keeps_more() -> None:
    """A flash kernel keeps nothing large, while a checkpoint keeps the whole product that goes into attention."""
    assert layer_bytes(replace(OURS, recompute=frozenset({"core_attn"}))) > layer_bytes(OURS)


def test_fused_weight_gradients_cost_a_placeholder_of_each_shape() -> None:
    """Transformer Engine gives autograd a placeholder for each matrix; for 405B that costs more."""
    fused, beside = (stages(replace(OURS, fused_weight_gradients=each))[1].parts for each in (True, False))
    assert fused["buffers"] - beside["buffers"] == 2 * OURS.layer_matrices / OURS.tensor
    assert fused["under way"] < beside["under way"]


def test_recomputing_norms_is_counted_as_nothing() -> None:
    """Transformer Engine's layers have no separate norm."""
    plain = RunConfig.from_environment(source_config(ROOT / "config_DGX.sh"))
    selective = {"RECOMPUTE_GRANULARITY": "selective", "RECOMPUTE_MODULES": "layernorm"}
    norms = RunConfig.from_environment(plain.to_environment() | selective)
    assert from_config(norms, gpu="H100") == from_config(plain, gpu="H100")


def test_fp32_gradients_cost_two_bytes_a_parameter() -> None:
    """The gradient's type is an input, not an assumption."""
    wide, narrow = worst(replace(GB200, gradient_bytes=4)), worst(GB200)
    assert wide.total - narrow.total == pytest.approx(2 * narrow.parameters, rel=1e-4)


def test_the_optimizer_is_shared_by_data_and_context_parallel_ranks() -> None:
    """12 bytes a parameter over DP x CP ranks."""
    stage = stages(GB200)[0]
    assert stage.parts["optimizer"] == pytest.approx(12 * stage.parameters / 16, rel=1e-4)


def test_a_stage_as_large_as_the_memory_fits() -> None:
    """Reserved memory plus memory outside the allocator may equal the GPU's memory, but not exceed it by a MiB."""
    stage = worst(GB200)
    full = -(-stage.total // MIB)
    assert stage.total == stage.reserved + OUTSIDE_ALLOCATOR
    assert fits(stage, replace(GB200, gpu=replace(GB200.gpu, memory_mib=int(full))))
    assert not fits(stage, replace(GB200, gpu=replace(GB200.gpu, memory_mib=int(full) - 1)))


@pytest.mark.parametrize(("stage", "gib"), [(1, 114.18), (7, 104.48)])
def test_layers_that_stay_in_bf16_are_counted_so(stage: int, gib: float) -> None:
    """For 8,192 GB200 in nvfp4, with two layers in bf16 at the start and four at the end, the count is at most one
    and a half percent above the null device's, and never below.
    """
    ends = {"NUM_LAYERS_AT_START_IN_BF16": "2", "NUM_LAYERS_AT_END_IN_BF16": "4"}
    job = from_config(resolve(ROOT / "configs" / "config_GB200_2048x4x8xtp4pp8cp2.sh", {}, values=ends).config)
    assert [sum(map(sum, (job.bf16_layers(each, chunk) for chunk in range(8)))) for each in range(8)] == [
        *(1, 1, 0, 0, 0, 1, 2, 1)
    ]
    assert gib * GIB <= stages(job)[stage].allocated <= 1.015 * gib * GIB


def test_hopper_keeps_a_transposed_copy_of_fp8_weights() -> None:
    """A weight takes two bytes on Hopper, one on Blackwell."""
    hopper, blackwell = (
        worst(replace(GB200, gpu=GPUS[name], precision="fp8")).parts["weights"] for name in ("H200", "B200")
    )
    assert hopper / blackwell == pytest.approx(2, rel=1e-3)


@dataclass(frozen=True, kw_only=True)
class Peak:
    """One rank's, on the null device."""

    config: str
    stage: int
    precision: str
    microbatches: int
    allocated: int
    """Bytes, as is reserved."""
    reserved: int

    @property
    def counted(self) -> Stage:
        return stages(self.job)[self.stage]

    @property
    def job(self) -> TrainingJob:
        return _job(self.config)


@cache
def _job(name: str) -> TrainingJob:
    (path,) = (path for path in config_files() if path.stem == f"config_{name}")
    gpu = None if gpu_of_system(name) else "H100"
    return from_config(resolve(path).config, gpu=gpu)


PEAKS = [Peak(**row) for row in json.loads((ROOT / "tests" / "golden" / "null_peaks.json").read_text())["peaks"]]
"""Of every shipped configuration with a GPU, the first, second and last pipeline stage."""


def test_every_shipped_configuration_has_its_peaks() -> None:
    """The file has the first, second and last stage of each, in its current precision."""
    measured = {(peak.config, peak.stage, peak.precision) for peak in PEAKS}
    expected = set()
    for path in config_files():
        name = path.stem.removeprefix("config_")
        if gpu_of_system(name) or name.startswith("DGX"):
            last = _job(name).pipeline - 1
            expected |= {(name, stage, precision_of(resolve(path).config.kernels)) for stage in (0, min(1, last), last)}
    assert measured == expected


@pytest.mark.parametrize("peak", PEAKS, ids=lambda peak: f"{peak.config} stage {peak.stage}")
def test_the_count_is_within_a_percent_of_the_null_device_and_never_below(peak: Peak) -> None:
    """That holds for live tensors at the peak, and for the most that the allocator holds."""
    assert peak.allocated <= peak.counted.allocated <= 1.01 * peak.allocated
    assert peak.reserved <= peak.counted.reserved


def test_every_shipped_configuration_fits() -> None:
    """Memory reserved on the null device plus memory outside the allocator fits on the GPU."""
    assert [peak for peak in PEAKS if peak.reserved + OUTSIDE_ALLOCATOR > peak.job.gpu.memory] == []
    assert [peak for peak in PEAKS if not fits(worst(peak.job), peak.job)] == []


def test_every_published_run_fits() -> None:
    """The planner says of every published run that it fits."""
    assert [row.source for row in published().runs if not fits(worst(row.job), row.job)] == []


def test_logged_peaks_are_within_two_and_a_half_percent() -> None:
    """Global rank 0's `max_memory_usage` of every log that has it, counted with no constant fitted."""
    data, checked = published(), 0
    for row, columns in zip(data.runs, data.columns, strict=True):
        if not columns["max_mem_reported"]:
            continue
        stage = stages(row.job)[0]
        moments = stage.parameters * row.job.moment_bytes / row.job.sharding if without_moments(columns) else 0
        assert (stage.allocated - moments) / GIB == pytest.approx(float(columns["max_mem_reported"]), rel=0.025)
        checked += 1
    assert checked >= 10
