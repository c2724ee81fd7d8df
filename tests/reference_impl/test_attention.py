"""Attention in two blocks equals PyTorch's on the whole sequence, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from reference_impl.attention import attend_to_all_before

CHUNK = 16


def sequence(length: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Queries of 4 heads, keys and values of 2 groups, and a gradient of the output."""
    generator = torch.Generator().manual_seed(1)
    heads = (4, 2, 2, 4)
    return [torch.randn(2, n, length, 8, generator=generator, dtype=torch.float64).to(dtype) for n in heads]


def in_chunks(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Each chunk of queries with the keys and values up to its end, as a context-parallel rank has them."""
    ends = range(CHUNK, q.size(2) + 1, CHUNK)
    return torch.cat(
        [attend_to_all_before(q[:, :, end - CHUNK : end], k[:, :, :end], v[:, :, :end]) for end in ends], 2
    )


def whole(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def with_gradients(attention: Any, q: Any, k: Any, v: Any, grad: torch.Tensor) -> list[torch.Tensor]:
    """Output, and gradients of queries, keys and values."""
    leaves = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
    out = attention(*leaves)
    out.backward(grad)
    return [out.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 2e-6), (torch.bfloat16, 2e-2)], ids=str
)
@pytest.mark.parametrize("chunks", [1, 4])
def test_chunks_are_the_whole_sequence(chunks: int, dtype: torch.dtype, tolerance: float) -> None:
    """Output and all three gradients are the same, to the rounding of the numbers."""
    given = sequence(chunks * CHUNK, dtype)
    expected = with_gradients(whole, *given)

    for ours, theirs in zip(with_gradients(in_chunks, *given), expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance)


class Kernels(TorchDispatchMode):
    """Notes which kernels of attention run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "attention" in func.name():
            self.names.append(func.name().removeprefix("aten::_scaled_dot_product_"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("first", "blocks"), [(True, 1), (False, 2)])
def test_every_chunk_runs_one_kernel(first: bool, blocks: int) -> None:
    """The first chunk of a sequence, with a square of keys, runs the same kernel as the others, which have more
    keys.
    """
    q, k, v, grad = sequence(4 * CHUNK, torch.float32)
    q, grad = (tensor[:, :, -CHUNK:] for tensor in (q, grad))
    if first:
        k, v = (tensor[:, :, -CHUNK:] for tensor in (k, v))
    with Kernels() as kernels:
        with_gradients(attend_to_all_before, q, k, v, grad)

    assert kernels.names == ["flash_attention_for_cpu"] * blocks + ["flash_attention_for_cpu_backward"] * blocks
