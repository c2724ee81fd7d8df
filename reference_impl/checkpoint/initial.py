"""Initial weights for a model that is already built: each rank reads its shard, and replicas share the reading.

Megatron-Core's `sharded_state_dict` maps each parameter of this rank to a box of a tensor on disk, so every layout and
every layer spec loads here. `source` hides the format of the weights.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories

from benchmark.config import RunConfig
from reference_impl import quantised
from reference_impl.checkpoint.arrays import Box, CheckpointError, read
from reference_impl.checkpoint.inspection import summary
from reference_impl.checkpoint.names import fused
from reference_impl.checkpoint.source import Checkpoint, usable_checkpoint
from reference_impl.model import unwrap
from reference_impl.parallel import on_rank_0

_log = logging.getLogger(__name__)


def load_initial_weights(config: RunConfig, chunks: Sequence[torch.nn.Module]) -> None:
    """Overwrite the weights of this rank's model chunks with LOAD_CHECKPOINT's; do nothing if that is not set.

    Every rank calls this, before the optimizer copies the weights.

    Raises:
        CheckpointError: on the first rank, listing every fault that any rank found in files, tensors, shapes, types or
            the model's numbers. The other ranks exit with status 2 and print nothing.
    """
    if config.data.load_checkpoint is None:
        return
    checkpoint = on_rank_0(lambda: usable_checkpoint(config))
    with quantised.in_bf16(chunks, writing=True):
        boxes = list(_boxes(chunks))
        _require_all(chunks, boxes)
        _read_shared(checkpoint, boxes)
    if dist.get_rank() == 0:
        _log.warning("started from %s", summary(checkpoint, config.vocabulary))


@contextmanager
def refused_together() -> Iterator[None]:
    """Run a block in which every rank reads for itself; if any rank finds faults, all ranks stop and the first reports.

    Raises:
        CheckpointError: on rank 0, with every rank's faults. The others raise SystemExit with status 2.
    """
    faults: list[str] = []
    try:
        yield
    except CheckpointError as error:
        faults = error.faults
    everybodys: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everybodys, faults)
    all_faults = list(dict.fromkeys(chain.from_iterable(everybodys)))
    if all_faults and dist.get_rank() == 0:
        raise CheckpointError(all_faults)
    if all_faults:
        raise SystemExit(2)


def box_of(shard: ShardedTensor) -> Box:
    """Return where a shard lies in the tensor on disk."""
    # Axes that exist only on disk, such as the layer's, have length one here.
    return shard.global_offset, (*(1 for _ in range(shard.prepend_axis_num)), *shard.local_shape)


def _boxes(chunks: Sequence[torch.nn.Module]) -> Iterator[tuple[str, Box, torch.Tensor]]:
    """Yield (tensor on disk, its box, this rank's memory for it) for every parameter, in the same order on replicas."""
    for chunk in chunks:
        state = unwrap(chunk).sharded_state_dict()
        apply_factories(state)
        for shard in nested_values(state):
            if isinstance(shard, ShardedTensor):
                box = box_of(shard)
                yield fused(shard.key), box, shard.data.view(box[1])


def _require_all(chunks: Sequence[torch.nn.Module], boxes: Sequence[tuple[str, Box, torch.Tensor]]) -> None:
    """Raise RuntimeError if a parameter would keep the value it was initialised with."""
    parameters = sum(parameter.numel() for chunk in chunks for parameter in chunk.parameters())
    found = sum(memory.numel() for _, _, memory in boxes)
    if found != parameters:
        raise RuntimeError(f"only {found:,} of this rank's {parameters:,} parameters have a name on disk")


@torch.no_grad()
def _read_shared(checkpoint: Checkpoint, boxes: Sequence[tuple[str, Box, torch.Tensor]]) -> None:
    """Fill the boxes: each replica reads its share of them from disk and sends it to the others."""
    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    replicas, mine = dist.get_world_size(group), dist.get_rank(group)
    with refused_together():
        for name, box, memory in boxes[mine::replicas]:
            memory.copy_(read(checkpoint.tensors[name], box))
    for number, (_, _, memory) in enumerate(boxes):
        dist.broadcast(memory, src=dist.get_global_rank(group, number % replicas), group=group)
