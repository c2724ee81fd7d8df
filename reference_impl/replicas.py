"""Data parallelism of the model's chunks: Megatron-Core's, without the copies that one replica on a CPU makes to
itself.
"""

from __future__ import annotations

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.transformer.transformer_config import TransformerConfig


class OneReplica(DistributedDataParallel):
    """A replica that is alone: it reduces gradients and gathers weights with nobody; gloo would copy them all."""

    def finish_grad_sync(self, force_all_reduce: bool | None = False) -> None:
        """Do nothing: gradients are complete when the last backward pass is."""

    def start_param_sync(self, *unused: object, force_sync: bool = False, force_dispatch: bool = False) -> None:
        """Do nothing: the optimizer has written all weights."""


def data_parallel(
    transformer: TransformerConfig, settings: DistributedDataParallelConfig, chunks: list[torch.nn.Module]
) -> list[DistributedDataParallel]:
    """Return each chunk with its gradient buffers; only the first chunk's are cut into buckets."""
    alone = parallel_state.get_data_parallel_world_size(with_context_parallel=True) == 1
    on_gpu, overlapped = torch.cuda.is_available(), settings.overlap_grad_reduce
    wrapper = OneReplica if alone and not on_gpu and not overlapped else DistributedDataParallel
    return [wrapper(transformer, settings, chunk, disable_bucketing=index > 0) for index, chunk in enumerate(chunks)]
