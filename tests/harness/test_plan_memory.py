"""Memory by pipeline stage: parameters, activations in flight, and the peaks that published runs logged."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.hardware import GPUS
from harness.plan.job import Job
from harness.plan.memory import GIB, fits, layer_bytes, stages, worst
from perf.plan_accuracy import without_moments
from tests.harness.plan_data import GB200, jobs, needs_published, published


def test_parameters_of_a_rank_are_those_that_a_published_run_logged() -> None:
    """Rank 0 of TP 4, PP 8, VP 8 holds 12,086,378,496 parameters with a vocabulary padded to 32,256."""
    assert stages(replace(GB200, vocabulary=32_256))[0].parameters == 12_086_378_496


@given(jobs())
def test_all_ranks_together_hold_the_model(job: Job) -> None:
    """Over all stages and tensor-parallel ranks the parameters are the model's; only norms are on every rank."""
    held = sum(stage.parameters for stage in stages(job)) * job.tensor
    norms = (2 * job.size.layers + 1) * job.size.hidden
    assert held == job.size.parameters(job.vocabulary) + norms * (job.tensor - 1)


@given(jobs())
def test_the_worst_stage_is_the_worst(job: Job) -> None:
    """Looking at three stages finds the largest of all."""
    assert worst(job).total == max(stage.total for stage in stages(job))


def peak_of_schedule(job: Job, stage: int) -> int:
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
    """27.5 bytes a token and hidden value in fp8 and 31.75 in bf16, shared by tensor and context parallelism."""
    values = 8192 * 16_384 / 2 / 4
    assert layer_bytes(replace(GB200, precision="fp8")) == 27.5 * values
    assert layer_bytes(replace(GB200, precision="bf16")) == 31.75 * values


@given(jobs())
def test_recomputing_more_keeps_less(job: Job) -> None:
    """No recomputation, layer norms, the MLP too, whole layers: each keeps less of a layer than the one before."""
    kept = [
        layer_bytes(replace(job, recompute=frozenset(what)))
        for what in ((), ("layernorm",), ("layernorm", "mlp"), ("full",))
    ]
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == 4


def test_fp32_gradients_cost_two_bytes_a_parameter() -> None:
    """The gradient's type is an input, not an assumption."""
    wide, narrow = worst(replace(GB200, gradient_bytes=4)), worst(GB200)
    assert wide.total - narrow.total == 2 * narrow.parameters


def test_the_optimizer_is_shared_by_data_and_context_parallel_ranks() -> None:
    """12 bytes a parameter over DP x CP ranks."""
    stage = stages(GB200)[0]
    assert stage.parts["optimizer"] == 12 * stage.parameters / 16


def test_a_stage_as_large_as_the_memory_does_not_fit() -> None:
    """The count may be a little low, so the last bytes are not given away."""
    stage = worst(GB200)
    full = replace(GB200.gpu, memory_mib=int(stage.total / 2**20) + 1)
    assert stage.total <= full.memory
    assert not fits(stage, replace(GB200, gpu=full))
    assert fits(stage, GB200)


def test_hopper_keeps_a_transposed_copy_of_fp8_weights() -> None:
    """Two bytes a weight on Hopper, one on Blackwell."""
    hopper, blackwell = (
        worst(replace(GB200, gpu=GPUS[name], precision="fp8")).parts["weights"] for name in ("H200", "B200")
    )
    assert hopper / blackwell == pytest.approx(2, rel=1e-3)


@needs_published
def test_every_published_run_fits() -> None:
    """What ran, fits."""
    assert [row.source for row in published().runs if not fits(worst(row.job), row.job)] == []


@needs_published
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
