"""The end of a step's backward pass: gradients summed over ranks and divided by the tokens of the global batch."""

from __future__ import annotations

import torch
import torch.distributed as dist
from megatron.core.distributed import finalize_model_grads
from megatron.core.pipeline_parallel.utils import get_pp_last_rank
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.module import MegatronModule


def finish_gradients(
    chunks: list[MegatronModule],
    tokens: torch.Tensor,
    pg_collection: ProcessGroupCollection,
    force_all_reduce: bool = False,
) -> None:
    """Megatron-Core's `finalize_model_grads` with the division done where the gradients are; equal to the last bit.

    Megatron-Core asks for each chunk whether there are any tokens, and the host waits each time for the device to be
    done with all that it has queued. Here the device decides: without tokens it multiplies by one.

    Args:
        tokens: of this rank, a scalar; counted on the last pipeline stage, and replaced by those of all ranks.
    """
    finalize_model_grads(chunks, None, pg_collection=pg_collection, force_all_reduce=force_all_reduce)
    dist.broadcast(tokens, src=get_pp_last_rank(pg_collection.pp), group=pg_collection.pp)
    dist.all_reduce(tokens, group=pg_collection.dp_cp)
    factor = torch.where(tokens > 0, 1.0 / tokens, 1.0)
    for chunk in chunks:
        chunk.scale_gradients(factor)
