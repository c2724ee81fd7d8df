"""The end of a step's backward pass: sums gradients over ranks and divides them by the tokens of the global batch."""

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
    """Do what Megatron-Core's `finalize_model_grads` does, but divide where the gradients are; equal to the last bit.

    For each chunk, Megatron-Core asks whether there are any tokens, and each time the host waits until the device has
    done all that is queued. Here the device decides: without tokens it multiplies by one.

    Args:
        tokens: number of this rank's tokens, a scalar. It is counted on the last pipeline stage, and is replaced here
        by
            the number of all ranks.
    """
    finalize_model_grads(chunks, None, pg_collection=pg_collection, force_all_reduce=force_all_reduce)
    dist.broadcast(tokens, src=get_pp_last_rank(pg_collection.pp), group=pg_collection.pp)
    dist.all_reduce(tokens, group=pg_collection.dp_cp)
    factor = torch.where(tokens > 0, 1.0 / tokens, 1.0)
    for chunk in chunks:
        chunk.scale_gradients(factor)
