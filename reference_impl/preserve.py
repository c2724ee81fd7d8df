"""Restores everything that training changes, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker
from megatron.core.transformer.module import MegatronModule

from reference_impl import quantised


@contextmanager
def preserved(chunks: list[MegatronModule], optimizer: MegatronOptimizer) -> Iterator[None]:
    """Restore weights, optimizer state and random generators after the block to what they were before it.

    Copies are kept in host memory while the block runs. Gradients are zero afterwards, as at the start of any step. A
    learning-rate schedule is not restored and must not be stepped inside the block.
    """
    tensors = [tensor for chunk in chunks for tensor in _tensors(chunk)]
    weights = [(inner, _copy(inner)) for tensor in tensors for inner in quantised.inner_tensors(tensor).values()]
    optimizers = [_OptimizerState(inner) for inner in torch_optimizers(optimizer)]
    generators = _generators()
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, before in weights:
                tensor.copy_(before)
            quantised.transpose(tensors)
        for state in optimizers:
            state.restore()
        for chunk in chunks:
            chunk.zero_grad_buffer()
        optimizer.zero_grad()
        _restore_generators(*generators)


def _tensors(chunk: MegatronModule) -> Iterator[torch.Tensor]:
    # Taken from the wrapped module: the wrapper's own `buffers` are its gradient buffers.
    yield from chunk.module.parameters()
    yield from chunk.module.buffers()


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)


def chained(optimizer: MegatronOptimizer) -> list[Any]:
    """Return Megatron-Core's optimizers; it chains one for each kind of parameter."""
    optimizers: list[Any] = getattr(optimizer, "chained_optimizers", [optimizer])
    return optimizers


def torch_optimizers(optimizer: MegatronOptimizer) -> list[torch.optim.Optimizer]:
    """Return the torch optimizers inside Megatron-Core's."""
    return [inner.optimizer for inner in chained(optimizer) if inner.optimizer is not None]


class _OptimizerState:
    """The state of a torch optimizer: its parameters (fp32 shards), their moments, and the numbers in its groups."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._groups = [
            {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
        ]
        self._parameters = [(p, _copy(p)) for group in optimizer.param_groups for p in group["params"]]
        self._moments = {
            parameter: {name: _copy(value) if torch.is_tensor(value) else value for name, value in state.items()}
            for parameter, state in optimizer.state.items()
        }

    @torch.no_grad()
    def restore(self) -> None:
        for group, before in zip(self._optimizer.param_groups, self._groups, strict=True):
            # Transformer Engine's FusedAdam counts its steps here, starting with the first one.
            _drop_new(group, before.keys() | {"params"})
            group.update(before)
        for parameter, value in self._parameters:
            parameter.copy_(value)
        for parameter, state in list(self._optimizer.state.items()):
            self._restore_moments(parameter, state)

    def _restore_moments(self, parameter: torch.Tensor, state: dict[str, Any]) -> None:
        before = self._moments.get(parameter)
        if before is None:
            # Created inside the block: AdamW's own first step will start again from nothing.
            del self._optimizer.state[parameter]
            return
        _drop_new(state, before.keys())
        for name, value in before.items():
            if torch.is_tensor(value):
                state[name].copy_(value)
            else:
                state[name] = value


def _drop_new(values: dict[str, Any], known: Set[str]) -> None:
    for name in values.keys() - known:
        del values[name]


def _generators() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda, get_cuda_rng_tracker().get_states()


def _restore_generators(python: Any, numpy: Any, cpu: torch.Tensor, cuda: torch.Tensor | None, tracked: Any) -> None:
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state(cuda)
    get_cuda_rng_tracker().set_states(tracked)
