"""The 405B model itself, built without memory on the meta device, one rank after the other of a fake process group."""

from __future__ import annotations

import csv
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.flop_counter import FlopCounterMode

from benchmark.benchmarks import BENCHMARKS, LLAMA31_405B
from benchmark.checkout import ROOT
from benchmark.config import RunConfig
from benchmark.config.kernels import Machine
from benchmark.sizes import SIZES
from reference_impl import cpu
from reference_impl.model import gpt_chunk, is_split, transformer_config, virtual_stages

LAYOUTS = ROOT / "perf" / "steps" / "llama31_405b_layouts.csv"

LLAMA_3_VOCABULARY = 128_256
PADDED_AT_TP4 = 32_256
"""The benchmark's 32,000 in NeMo's multiple of 128 x TP, as the published runs have it; ours is not padded."""

Layout = tuple[int, int, int, int]
"""TP, PP, VP, CP."""


def published_layouts() -> list[Layout]:
    """List those of whole 405B models in public tables."""
    with LAYOUTS.open(encoding="utf-8") as file:
        whole = [row for row in csv.DictReader(file) if int(row["layers"]) == SIZES["405b"].layers]
    return sorted({(int(row["tp"]), int(row["pp"]), int(row["vp"]), int(row["cp"])) for row in whole})


def configuration(tp: int = 1, pp: int = 1, vp: int = 1, cp: int = 1) -> RunConfig:
    """A run of one replica in this layout."""
    values = {
        "BENCHMARK": "llama31_405b",
        "RULESET": "6.0.0",
        "DGXSYSTEM": "meta",
        "DGXNNODES": tp * pp * cp,
        "DGXNGPU": 1,
        "MINIBS": 1152,
        "TENSOR_MODEL_PARALLEL": tp,
        "PIPELINE_MODEL_PARALLEL": pp,
        "INTERLEAVED_PIPELINE": vp,
        "CONTEXT_PARALLEL": cp,
    }
    return RunConfig.from_environment({name: str(value) for name, value in values.items()})


def in_child(work: Callable[..., Any], *arguments: Any) -> Any:
    """Run `work` in a process of its own, in which process groups and cpu.install() stay; return its result."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        return pool.submit(work, *arguments).result()


def chunks_of(config: RunConfig, rank: int) -> list[GPTModel]:
    """One rank's part of the model, as the trainer builds it, on the meta device."""
    dist.init_process_group("fake", rank=rank, world_size=config.layout.world_size, store=FakeStore())
    parallel_state.initialize_model_parallel(
        config.layout.tensor_model_parallel,
        config.layout.pipeline_model_parallel,
        config.layout.interleaved_pipeline if config.layout.interleaved_pipeline > 1 else None,
        context_parallel_size=config.layout.context_parallel,
        create_gloo_process_groups=False,
    )
    transformer = transformer_config(config, Machine())
    with torch.device("meta"):
        return [gpt_chunk(config, transformer, stage, "torch") for stage in virtual_stages(config)]


def stage_counts(layout: Layout, vocabulary: int) -> list[tuple[int, int]]:
    """For each pipeline stage: parameters of its first rank, and of all its tensor-parallel ranks without repeats."""
    BENCHMARKS[LLAMA31_405B.name] = replace(
        LLAMA31_405B, tokenizer=replace(LLAMA31_405B.tokenizer, vocabulary=vocabulary)
    )
    config, (tp, pp, _, cp) = configuration(*layout), layout
    cpu.install()
    counts = []
    for stage in range(pp):
        chunks = chunks_of(config, rank=stage * tp * cp)
        parameters = [parameter for chunk in chunks for parameter in chunk.parameters()]
        whole = sum(p.numel() * (tp if is_split(p) else 1) for p in parameters)
        counts.append((sum(p.numel() for p in parameters), whole))
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()
    return counts


def test_parameters_of_the_benchmarks_model() -> None:
    """It has 402,699,272,192 parameters with the benchmark's vocabulary."""
    assert in_child(stage_counts, (1, 1, 1, 1), LLAMA31_405B.vocabulary) == [(402_699_272_192, 402_699_272_192)]


def test_parameters_of_a_published_rank() -> None:
    """Rank 0 of TP4 PP8 VP8 CP2, with the vocabulary padded as there, has the parameters of the published logs."""
    counts = in_child(stage_counts, (4, 8, 8, 2), PADDED_AT_TP4)

    assert counts[0][0] == 12_086_378_496
    assert sum(whole for _, whole in counts) == SIZES["405b"].parameters(PADDED_AT_TP4)


@pytest.mark.skipif(not LAYOUTS.exists(), reason="the published layouts are not beside the repository")
@pytest.mark.parametrize("layout", published_layouts(), ids=lambda layout: "TP{} PP{} VP{} CP{}".format(*layout))
def test_ranks_of_every_published_layout_make_one_model(layout: Layout) -> None:
    """Their parameters, with shared ones counted once, are those of Llama 3.1 405B."""
    counts = in_child(stage_counts, layout, LLAMA_3_VOCABULARY)

    assert sum(whole for _, whole in counts) == SIZES["405b"].parameters(LLAMA_3_VOCABULARY)


OF_FEW_LAYERS = replace(SIZES["405b"], layers=4)


def counted_flops(sequence_length: int) -> int:
    """Operations that torch counts in the matrix products and attention of one forward and backward pass."""
    BENCHMARKS[LLAMA31_405B.name] = replace(LLAMA31_405B, size=OF_FEW_LAYERS)
    cpu.install()
    (model,) = chunks_of(configuration(), rank=0)
    rotary = model.rotary_pos_emb
    rotary.inv_freq = rotary.inv_freq.to("meta")
    tokens = torch.zeros(1, sequence_length, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        model(tokens, None, None, labels=tokens, loss_mask=torch.ones(tokens.shape)).sum().backward()
    return counter.get_total_flops()


def test_flops_are_those_of_the_formula() -> None:
    """What torch counts over one sequence of 8,192 tokens is the formula's, but for the norms' weights, to the last.

    Of layers of the 405B's width; that the formula counts each of them alike is in test_sizes.
    """
    size, length = OF_FEW_LAYERS, 8192
    norms = 6 * length * size.hidden * (2 * size.layers + 1)
    stated = size.flops_per_sample(length, LLAMA31_405B.vocabulary)

    counted = in_child(counted_flops, length)

    assert counted == stated - norms
    assert counted == pytest.approx(stated, rel=1e-4)
