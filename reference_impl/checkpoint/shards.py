"""The optimizer's state on disk: each rank writes what it holds and reads what it will hold, under any layout.

The distributed optimizer cuts the flat buffers of the gradients into one piece for each data-parallel rank. Within a
weight matrix such a piece starts and ends in the middle of a row, so it is the end of a row, whole rows, and the start
of a row. Each of the three is a rectangle with a place in the whole model's tensor, and is stored as one. Reading takes
every rectangle that overlaps, so it does not matter which layout wrote them.

Nothing is gathered. Megatron-Core's own layout-independent form, `fully_reshardable`, gathers the state of all
data-parallel ranks in each one's host memory: 145 GB a rank for 405B at TP4 PP8.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory
from megatron.core.dist_checkpointing.utils import extract_sharded_tensors_and_factories
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.transformer.module import MegatronModule

from reference_impl.model import unwrap
from reference_impl.preserve import chained

STATES = ("param", "exp_avg", "exp_avg_sq")
"""The state that AdamW holds for a weight: its fp32 copy and its two moments."""


class OptimizerShards:
    """This rank's part of the optimizer's state, in the tensors that the optimizer works with."""

    def __init__(self, chunks: list[MegatronModule], optimizer: MegatronOptimizer) -> None:
        self._optimizers: list[DistributedOptimizer] = chained(optimizer)
        self._states = [one.get_parameter_state_dp_reshardable() for one in self._optimizers]
        parts = dict(_parts(chunks))
        self.tensors = [
            tensor
            for one, states in zip(self._optimizers, self._states, strict=True)
            for parameter, begin, state in _held(one, states)
            for name in STATES
            for tensor in _rectangles_of(state[name].detach(), begin, parts[parameter], name)
        ]
        """The tensors that Megatron-Core writes, or reads into."""

    @torch.no_grad()
    def take(self, loaded: list[torch.Tensor]) -> None:
        """Load the optimizer's state from the values that were read for `tensors`, in their order."""
        for tensor, read in zip(self.tensors, loaded, strict=True):
            tensor.data.copy_(read.view_as(tensor.data))
        for optimizer, states in zip(self._optimizers, self._states, strict=True):
            for parameter, _, state in _held(optimizer, states):
                # The public `load_parameter_state_from_dp_reshardable` would make Transformer Engine's AdamW scale the
                # element counts that are stored next to the tensors here.
                tensors = {name: value for name, value in state.items() if torch.is_tensor(value)}
                optimizer._set_main_param_and_optimizer_states(parameter, tensors)


def _held(
    optimizer: DistributedOptimizer, states: dict[Any, Any]
) -> Iterator[tuple[torch.nn.Parameter, int, dict[str, Any]]]:
    """Yield each parameter that this rank holds state for, its first such element, and the state."""
    for buffer, dtypes in enumerate(optimizer.gbuf_ranges):
        for dtype, buckets in dtypes.items():
            for bucket, held in zip(buckets, states[buffer][dtype], strict=True):
                for (parameter, ranges), state in zip(bucket["param_map"].items(), held, strict=True):
                    yield parameter, ranges["param"].start, state


def _parts(chunks: list[MegatronModule]) -> Iterator[tuple[torch.nn.Parameter, list[ShardedTensor]]]:
    """Yield each parameter of this rank with its place in the whole model; gate and up projection have two.

    Here each layer has tensors of its own, although the weights of all layers share one on disk. Planning compares a
    tensor's rectangles with one another, and all layers together would have a hundred thousand.
    """
    for chunk in chunks:
        state = unwrap(chunk).sharded_state_dict(metadata={"non_homogeneous_layers": True})
        places, _ = extract_sharded_tensors_and_factories(state)
        for place in nested_values(places):
            yield place.data, place.build() if isinstance(place, ShardedTensorFactory) else [place]


def _rectangles_of(state: torch.Tensor, begin: int, parts: list[ShardedTensor], name: str) -> Iterator[ShardedTensor]:
    """Yield the elements of a parameter from `begin` on, [elements], as rectangles of the model's tensors."""
    for part in parts:
        size = part.data.numel()
        first, last = max(begin, 0), min(begin + len(state), size)
        width = part.local_shape[-1] if len(part.local_shape) > 1 else 1
        for row, column, rows, columns in rectangles(first, last, width):
            start = row * width + column - begin
            shape = (rows, columns)[: len(part.local_shape)]
            yield ShardedTensor(
                key=f"optimizer.state.{name}.{part.key}",
                data=state[start : start + rows * columns].view(shape),
                dtype=state.dtype,
                local_shape=shape,
                global_shape=part.global_shape,
                global_offset=tuple(
                    whole + here for whole, here in zip(part.global_offset, (row, column), strict=False)
                ),
                axis_fragmentations=None,
                # Of the ranks with the same weights, one holds this part; other tensor-parallel ranks hold copies.
                replica_id=(*part.replica_id[:2], 0),
            )
        begin -= size


def rectangles(first: int, last: int, width: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield elements `first` to before `last` of a matrix with rows of `width` as (row, column, rows, columns)."""
    while first < last:
        row, column = divmod(first, width)
        rows = 1 if column else max(1, (last - first) // width)
        columns = min(width - column, last - first)
        yield row, column, rows, columns
        first += rows * columns
