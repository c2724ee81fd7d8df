"""Causal attention of a chunk of queries to itself and to all that comes before it, by one kernel.

PyTorch has fast kernels for a causal square and for a full rectangle, but only a slower one for the shapes between. So
the chunk's own square and the rectangle before it are computed separately, and the two results are weighted by their
log-sum-exp. PyTorch differentiates these kernels by their output alone, but the weights depend on the keys too. So this
module calls the backward kernels itself, with the output and log-sum-exp of the whole; from these each kernel computes
the gradients of its block. Transformer Engine and PyTorch's own (experimental) ring attention do the same.

A kernel's forward pass returns the output [b, n, s, d], the log-sum-exp [b, n, s] or [b, n, s, 1] and whatever its
backward pass needs; the backward pass returns the gradients of queries, keys and values.

Shapes: b batch, n heads, g query groups, s queries, k keys, d head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.backends.cuda import SDPAParams, can_use_cudnn_attention, can_use_flash_attention

aten = torch.ops.aten


class Cpu:
    """PyTorch's flash attention for CPUs."""

    @staticmethod
    def forward(q: Any, k: Any, v: Any, *, causal: bool, scale: float | None) -> Any:
        return aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)

    @staticmethod
    def backward(grad: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, *, causal: bool, scale: float | None) -> Any:
        return aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse, 0.0, causal, scale=scale
        )


class Cudnn:
    """cuDNN's flash attention, the fastest on Hopper and Blackwell."""

    @staticmethod
    def forward(q: Any, k: Any, v: Any, *, causal: bool, scale: float | None) -> Any:
        *found, _debug = aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, causal, False, scale=scale)
        return found

    @staticmethod
    def backward(
        grad: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, *rest: Any, causal: bool, scale: float | None
    ) -> Any:
        starts_and_lengths, generator = rest[:4], rest[4:]
        return aten._scaled_dot_product_cudnn_attention_backward(
            grad, q, k, v, out, lse, *generator, None, *starts_and_lengths, 0.0, causal, scale=scale
        )


class Flash:
    """FlashAttention 2."""

    @staticmethod
    def forward(q: Any, k: Any, v: Any, *, causal: bool, scale: float | None) -> Any:
        *found, _debug = aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False, scale=scale)
        return found

    @staticmethod
    def backward(
        grad: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, *rest: Any, causal: bool, scale: float | None
    ) -> Any:
        starts_and_lengths, generator = rest[:4], rest[4:]
        return aten._scaled_dot_product_flash_attention_backward(
            grad, q, k, v, out, lse, *starts_and_lengths, 0.0, causal, *generator, scale=scale
        )


def kernel_for(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> type[Cpu | Cudnn | Flash]:
    """Return the kernel for these tensors: the same for every chunk of a model, whichever rank holds it.

    Raises:
        ValueError: this GPU has no kernel for this type or head size.
    """
    if not q.is_cuda:
        return Cpu
    parameters = SDPAParams(q, k, v, None, 0.0, True, q.size(1) != k.size(1))
    if can_use_cudnn_attention(parameters):
        return Cudnn
    if can_use_flash_attention(parameters):
        return Flash
    raise ValueError(
        f"context parallelism of the torch layers needs cuDNN's attention or FlashAttention, which take 16-bit numbers "
        f"and heads of up to 256; this GPU has neither for {q.dtype}, heads of {q.size(3)}"
    )


def attend_to_all_before(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None = None) -> torch.Tensor:
    """Return the attention [b, n, s, d] of a sequence's last queries [b, n, s, d] to keys and values [b, g, k, d]."""
    return _ToAllBefore.apply(q, k, v, scale)


class _ToAllBefore(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None) -> torch.Tensor:
        before = k.size(2) - q.size(2)
        own = k[:, :, before:], v[:, :, before:]
        ctx.kernel, ctx.scale, ctx.before, ctx.rest_before = kernel_for(q, *own), scale, before, ()
        out, lse, *ctx.rest = ctx.kernel.forward(q, *own, causal=True, scale=scale)
        if before:
            other, other_lse, *ctx.rest_before = ctx.kernel.forward(
                q, k[:, :, :before], v[:, :, :before], causal=False, scale=scale
            )
            out, lse = _weighed(out, lse, other, other_lse)
        ctx.save_for_backward(q, k, v, out, lse)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        before = ctx.before

        def gradients(keys: slice, rest: Any, *, causal: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            block = k[:, :, keys], v[:, :, keys]
            return ctx.kernel.backward(grad, q, *block, out, lse, *rest, causal=causal, scale=ctx.scale)

        dq, dk, dv = gradients(slice(before, None), ctx.rest, causal=True)
        if before:
            other_dq, other_dk, other_dv = gradients(slice(before), ctx.rest_before, causal=False)
            dq, dk, dv = dq + other_dq, torch.cat((other_dk, dk), 2), torch.cat((other_dv, dv), 2)
        return dq, dk, dv, None


def _weighed(
    out: torch.Tensor, lse: torch.Tensor, other: torch.Tensor, other_lse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return attention to two blocks of keys together, and its log-sum-exp, from the attention to each."""
    both = torch.logaddexp(lse, other_lse)
    first, second = ((one - both).exp().reshape(*out.shape[:3], 1) for one in (lse, other_lse))
    return (out * first + other * second).to(out.dtype), both
