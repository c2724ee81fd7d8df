"""Process groups: torch.distributed and Megatron-Core's parallel state, from one RunConfig."""

from __future__ import annotations

import random
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

from benchmark.config import RunConfig
from reference_impl import cpu


def initialize(config: RunConfig) -> None:
    """Join the process group that torchrun's variables describe and split it by the configuration's layout."""
    cpu.install()
    torch.use_deterministic_algorithms(not torch.cuda.is_available())
    if torch.cuda.is_available():
        torch.cuda.set_device((config.rank or 0) % config.gpus_per_node)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(minutes=30))
    interleaved = config.interleaved_pipeline if config.interleaved_pipeline > 1 else None
    parallel_state.initialize_model_parallel(
        config.tensor_model_parallel,
        config.pipeline_model_parallel,
        interleaved,
        context_parallel_size=config.context_parallel,
    )
    seed_everything(config)


def seed_everything(config: RunConfig) -> None:
    """Start every generator from the run's one seed; the default one is the same on all ranks."""
    if config.seed is None:
        raise ValueError("a run needs its seed")
    random.seed(config.seed)
    np.random.seed(config.seed)
    model_parallel_cuda_manual_seed(config.seed)
    # After Megatron-Core's own, which on a CPU draws from this generator too.
    torch.manual_seed(config.seed)


def shut_down() -> None:
    """Leave the process groups."""
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


def barrier() -> None:
    """Return when every rank is here and its device is idle."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    dist.barrier()


def sum_over_ranks(*values: float) -> list[float]:
    """Each value summed over all ranks, the same on every rank, in double precision."""
    totals = torch.tensor(values, dtype=torch.float64, device=device())
    dist.all_reduce(totals)
    return totals.tolist()


def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def reports_loss() -> bool:
    """Whether this rank's loss counts: of the ranks that compute the same loss, one does."""
    return (
        parallel_state.is_pipeline_last_stage(ignore_virtual=True)
        and parallel_state.get_tensor_model_parallel_rank() == 0
    )
