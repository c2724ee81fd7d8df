"""Gradients are finished as Megatron-Core finishes them, but without its waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from megatron.core.distributed import finalize_model_grads
from megatron.core.utils import get_model_config

from benchmark.config import RunConfig
from reference_impl.data.read.datasets import Microbatch
from reference_impl.gradients import finish_gradients
from reference_impl.step import MegatronStep, synthetic_batches
from tests.reference_impl.conftest import run_ranks
from tests.reference_impl.test_step import build

Tiny = Callable[..., RunConfig]


def gradients(step: MegatronStep, batches: Iterator[Microbatch], finish: Callable[..., None]) -> list[torch.Tensor]:
    """What is in this rank's gradient buffers when a step's backward passes are over."""
    for chunk in step.chunks:
        chunk.zero_grad_buffer()
    get_model_config(step.chunks[0]).finalize_model_grads_func = finish
    step._run(batches, 2, forward_only=False)
    return [buffer.grad_data.clone() for chunk in step.chunks for buffer in chunk.buffers]


def alike(config: RunConfig) -> list[tuple[bool, float]]:
    """Whether both leave the same bits, and the largest of them: where a third of the tokens counts, and where none."""
    step = build(config)

    def counted(mask: torch.Tensor) -> Iterator[Microbatch]:
        return (replace(batch, loss_mask=mask.expand_as(batch.loss_mask)) for batch in synthetic_batches(config))

    third = (torch.arange(config.rules.sequence_length // config.layout.context_parallel) % 3 == 0).float()
    answers = []
    for mask in (third, torch.zeros_like(third)):
        theirs = gradients(step, counted(mask), finalize_model_grads)
        ours = gradients(step, counted(mask), finish_gradients)
        answers.append((all(map(torch.equal, ours, theirs)), max(float(buffer.abs().max()) for buffer in ours)))
    return answers


@pytest.mark.parametrize(
    "layout",
    [
        {"DGXNGPU": 1},
        {"DGXNGPU": 2, "PIPELINE_MODEL_PARALLEL": 2, "INTERLEAVED_PIPELINE": 2},
        {"DGXNGPU": 4, "TENSOR_MODEL_PARALLEL": 2, "CONTEXT_PARALLEL": 2},
        {"DGXNGPU": 2, "PRECISION": "bf16", "GRAD_REDUCE_IN_FP32": 0, "MINIBS": 2, "MICRO_BATCH_SIZE": 1},
    ],
    ids=["one process", "PP=2 interleaved", "TP=2 CP=2", "DP=2 in bf16"],
)
def test_gradients_are_megatrons_to_the_last_bit(layout: dict[str, object], tiny: Tiny) -> None:
    """They are divided by the tokens of all ranks, and unchanged if there are none."""
    for (same, largest), without_tokens in run_ranks(tiny(**layout), alike):
        assert same
        assert largest > 0
        assert without_tokens == (True, 0.0)
