"""Weights that Transformer Engine keeps in fp8 alone: how values get into them and out again.

To Megatron-Core such a weight is a tensor in bf16. It holds a byte for each value, a scale and, on Hopper, a transposed
copy. In a model without such weights, nothing here has an effect.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from megatron.core.fp8_utils import dequantize_fp8_tensor, is_float8tensor, post_all_gather_processing
from megatron.core.transformer.module import MegatronModule


def write(parameter: torch.nn.Parameter, value: torch.Tensor) -> None:
    """Make `value` the weight; the optimizer's fp32 copy, if it does not exist yet, starts from its bf16 value."""
    if is_float8tensor(parameter):
        value = value.to(parameter.dtype)
        # Until the optimizer has copied it, Transformer Engine keeps here the value that the weight was made from.
        high_precision = parameter.get_high_precision_init_val()  # type: ignore[attr-defined]
        if high_precision is not None:
            high_precision.copy_(value)
    parameter.copy_(value)


def inner_tensors(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return, by name, the tensors that hold a tensor's values: itself, or a quantised one's bytes and scales.

    The transposed copy is left out; `transpose` makes it from the bytes.
    """
    if not is_float8tensor(tensor):
        return {"": tensor}
    quantiser: object = tensor._quantizer  # type: ignore[attr-defined]
    held = vars(tensor) | {f"_quantizer.{name}": value for name, value in vars(quantiser).items()}
    return {name: value for name, value in held.items() if torch.is_tensor(value) and name not in _DERIVED}


_DERIVED = ("_transpose", "_high_precision_init_val", "main_grad", "main_param")
"""Attributes that are not part of the value; Megatron-Core adds the last two."""


def transpose(tensors: Iterable[torch.Tensor]) -> None:
    """Make the transposed copies anew, in place, if the GPU needs them."""
    post_all_gather_processing([tensor for tensor in tensors if is_float8tensor(tensor)])


@contextmanager
def in_bf16(chunks: Iterable[torch.nn.Module], *, writing: bool) -> Iterator[None]:
    """Turn each fp8 weight into a bf16 parameter within the block, because checkpoints hold all weights in bf16.

    Args:
        writing: the block's values become the weights; otherwise the weights stay what they were.
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
    """Make the fp8 weights from the fp32 copies, as a step does: bit for bit the weights after that step.

    Args:
        optimizers: Megatron-Core's, which hold the fp32 copies.
    """
    weights = [weight for chunk in chunks for weight in chunk.parameters() if is_float8tensor(weight)]
    if not weights:
        return
    for optimizer in optimizers:
        optimizer._copy_main_params_to_model_params()
    gather(chunks)


def gather(chunks: list[MegatronModule]) -> None:
    """Gather all weights of the last step on this rank now, and not only when the next step needs them.

    Megatron-Core's forced gather leaves out the transposed copies, and so does the step after it.
    """
    for chunk in chunks:
        chunk.start_param_sync(force_sync=True)
    transpose(weight for chunk in chunks for weight in chunk.parameters())
