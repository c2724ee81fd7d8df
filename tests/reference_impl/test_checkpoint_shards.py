"""A range of a matrix's elements as rectangles; and what Transformer Engine's AdamW gets when it resumes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.config import RunConfig
from reference_impl.checkpoint.shards import OptimizerShards, rectangles
from reference_impl.preserve import torch_optimizers
from reference_impl.step import synthetic_batches
from tests.reference_impl.conftest import run_ranks
from tests.reference_impl.test_step import build


@st.composite
def ranges(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """A matrix's rows and width, and a range of its elements."""
    rows, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    first, last = sorted(draw(st.tuples(*[st.integers(0, rows * width)] * 2)))
    return rows, width, first, last


@given(ranges())
def test_rectangles_hold_a_range_in_its_order(given_range: tuple[int, int, int, int]) -> None:
    """Cut from the matrix and joined in order, at most three rectangles make the range."""
    rows, width, first, last = given_range
    elements = torch.arange(rows * width)
    matrix = elements.view(rows, width)

    found = list(rectangles(first, last, width))

    cut = [matrix[row : row + high, column : column + wide].flatten() for row, column, high, wide in found]
    assert torch.cat([elements[:0], *cut]).tolist() == list(range(first, last))
    assert len(found) <= 3


class ScaledAdamW(torch.optim.AdamW):
    """AdamW with the two functions by which Megatron-Core reads and writes the state of Transformer Engine's."""

    def get_unscaled_state(self, parameter: torch.Tensor, name: str) -> torch.Tensor:
        return self.state[parameter][name].float()

    def set_scaled_state(self, parameter: torch.Tensor, name: str, value: torch.Tensor) -> None:
        assert value.dtype == torch.float32
        self.state[parameter][name].copy_(value)


def resumed(config: RunConfig) -> bool:
    """Whether an optimizer with moments in bf16 takes over what is read, here all numbers doubled."""
    step = build(config)
    step.train_once(synthetic_batches(config))
    for one in getattr(step.optimizer, "chained_optimizers", [step.optimizer]):
        one.config.use_precision_aware_optimizer_no_fp8_or_ds_fp8 = True
    held = [state for inner in torch_optimizers(step.optimizer) for state in inner.state.items()]
    for inner in torch_optimizers(step.optimizer):
        inner.__class__ = ScaledAdamW
    for parameter, state in held:
        del state["step"]
        moments = {name: value.bfloat16() for name, value in state.items()}
        state.update(moments, master_param=parameter.detach().clone())
    before = [{name: value.clone() for name, value in state.items()} for _, state in held]

    shards = OptimizerShards(step.chunks, step.optimizer)
    shards.take([2 * tensor.data for tensor in shards.tensors])

    pairs = [(state[name], old[name]) for (_, state), old in zip(held, before, strict=True) for name in state]
    return len(pairs) > 2 and all(torch.equal(now, 2 * then) for now, then in pairs)


def test_moments_in_bf16_are_taken_over(tiny: Callable[..., RunConfig]) -> None:
    """They are loaded, where Megatron-Core's own loading would fail on numbers that are not tensors."""
    assert run_ranks(tiny(PRECISION="bf16", MINIBS=2, MICRO_BATCH_SIZE=1), resumed) == [True]
