"""Weights that Transformer Engine keeps in fp8 alone: how values get into them and out again.

To Megatron-Core such a weight is a tensor in bf16. What it holds is a byte a value, a scale, and on Hopper a transposed
copy. In a model without such weights nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from megatron.core.fp8_utils import dequantize_fp8_tensor, is_float8tensor, post_all_gather_processing
from megatron.core.transformer.module import MegatronModule


def write(parameter: torch.nn.Parameter, value: torch.Tensor) -> None:
    """Make `value` the weight; the optimizer's fp32 copy, if there is none yet, starts from its bf16 value."""
    if is_float8tensor(parameter):
        value = value.to(parameter.dtype)
        # Transformer Engine keeps here what the weight was made from, until the optimizer has copied it.
        kept = parameter.get_high_precision_init_val()  # type: ignore[attr-defined]
        if kept is not None:
            kept.copy_(value)
    parameter.copy_(value)


def inner_tensors(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the tensors that hold a tensor's values, by name: itself, or a quantised one's bytes and scales.

    Not the transposed copy, which `transpose` makes of the bytes.
    """
    if not is_float8tensor(tensor):
        return {"": tensor}
    quantiser: object = tensor._quantizer  # type: ignore[attr-defined]
    held = vars(tensor) | {f"_quantizer.{name}": value for name, value in vars(quantiser).items()}
    return {name: value for name, value in held.items() if torch.is_tensor(value) and name not in _DERIVED}


_DERIVED = ("_transpose", "_high_precision_init_val", "main_grad", "main_param")
"""Attributes that are no part of the value; Megatron-Core adds the last two."""


def transpose(tensors: Iterable[torch.Tensor]) -> None:
    """Make the transposed copies anew, in place, where the GPU needs any."""
    post_all_gather_processing([tensor for tensor in tensors if is_float8tensor(tensor)])


@contextmanager
def in_bf16(chunks: Iterable[torch.nn.Module], *, writing: bool) -> Iterator[None]:
    """Turn each weight in fp8 into a parameter in bf16 within the block, because checkpoints hold all weights in bf16.

    Args:
        writing: what the block has made of them is then the weights; otherwise they stay what they were.
    """
    replaced: list[tuple[torch.nn.Module, str, torch.nn.Parameter]] = []
    for module in (module for chunk in chunks for module in chunk.modules()):
        for name, parameter in module.named_parameters(recurse=False):
            if is_float8tensor(parameter):
                replaced.append((module, name, parameter))
                module._parameters[name] = torch.nn.Parameter(dequantize_fp8_tensor(parameter.detach()))
    try:
        yield
    finally:
        for module, name, parameter in replaced:
            in_full: Any = module._parameters[name]
            module._parameters[name] = parameter
            if writing:
                with torch.no_grad():
                    write(parameter, in_full.detach())


@torch.no_grad()
def from_optimizers(chunks: list[MegatronModule], optimizers: Iterable[Any]) -> None:
    """Make the weights in fp8 from the fp32 copies, as a step does: bit for bit what they were after it.

    Args:
        optimizers: Megatron-Core's, which hold the fp32 copies.
    """
    weights = [weight for chunk in chunks for weight in chunk.parameters() if is_float8tensor(weight)]
    if not weights:
        return
    for one in optimizers:
        one._copy_main_params_to_model_params()
    gather(chunks)


def gather(chunks: list[MegatronModule]) -> None:
    """Have all weights of the last step on this rank now, and not as the next step needs them.

    Megatron-Core's forced gather leaves out the transposed copies, and so does the step after it.
    """
    for chunk in chunks:
        chunk.start_param_sync(force_sync=True)
    transpose(weight for chunk in chunks for weight in chunk.parameters())
