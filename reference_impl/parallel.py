"""Process groups: torch.distributed and Megatron-Core's parallel state, from one RunConfig."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

from benchmark import driver
from benchmark.config import ConfigError, RunConfig, kernels
from benchmark.config.groups import Layout
from benchmark.config.kernels import Machine
from reference_impl import cpu

_T = TypeVar("_T")

_TIMEOUT = timedelta(minutes=30)
"""How long ranks wait for one another."""


def initialize(config: RunConfig, *, null_device: bool = False) -> None:
    """Join the process group of all ranks and split it by the configuration's layout.

    Args:
        null_device: whether this rank may use the null device, as only the dry run's may.

    Raises:
        ConfigError: this machine lacks something that the configuration needs, or is the null device.
    """
    layout = config.layout
    if torch.cuda.is_available():
        if not null_device and (fault := driver.null_fault([torch.cuda.get_device_name(0)])):
            raise ConfigError([fault])
        torch.cuda.set_device(gpu_of(config, torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES", "")))
    if faults := kernels.lacking(config.kernels, machine()):
        raise ConfigError(faults)
    cpu.install()
    cpu.keep_freed_memory()
    torch.use_deterministic_algorithms(not torch.cuda.is_available())
    # Nothing reads memory before writing it; filling it first would take a tenth of a step on a CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=_TIMEOUT, **_meeting(config))
    interleaved = layout.interleaved_pipeline if layout.interleaved_pipeline > 1 else None
    parallel_state.initialize_model_parallel(
        layout.tensor_model_parallel,
        layout.pipeline_model_parallel,
        interleaved,
        context_parallel_size=layout.context_parallel,
        **_order(layout),
        # This would make a second, slower group for each data-parallel one; only unused forms of checkpoints need it.
        create_gloo_process_groups=False,
    )
    seed_everything(config)


def _order(layout: Layout) -> dict[str, Any]:
    """Return the order of ranks, the fastest-varying first; Megatron-Core's own keeps a pipeline stage together."""
    if not layout.tp_pp_dp_mapping:
        return {}
    # There are no experts here, but Megatron-Core makes their groups, and requires as many copies of them.
    experts = layout.tensor_model_parallel * layout.context_parallel
    return {"order": "tp-cp-ep-pp-dp", "expert_tensor_parallel_size": experts}


def gpu_of(config: RunConfig, visible: int, handed: str = "") -> int:
    """Return the index of this rank's GPU among those that its process sees: LOCAL_RANK, or 0 if it was given just one.

    Args:
        visible: how many GPUs the process sees.
        handed: CUDA_VISIBLE_DEVICES. A launcher that gives each rank one GPU of its own makes every rank see it as 0.

    Raises:
        ConfigError: there are fewer GPUs than ranks.
    """
    process, each = config.process, config.layout.gpus_per_node
    local = (process.rank or 0) % each if process.local_rank is None else process.local_rank
    if visible == 1 and handed and "," not in handed:
        return 0
    if local >= visible:
        raise ConfigError([f"LOCAL_RANK={local} of DGXNGPU={each} has no GPU: this process sees only {visible}"])
    return local


def _meeting(config: RunConfig) -> dict[str, Any]:
    """Return where ranks meet: in RENDEZVOUS_FILE or, if that is not set, at the address in torchrun's variables.

    Rank 0 serves the address to anybody who reaches its port, on every interface; a file only to those who may open it.

    Raises:
        ConfigError: the address is not set, or this machine cannot resolve it.
    """
    process = config.process
    if process.rendezvous_file is None:
        _require_address(config)
        return {}
    _stay_on_this_machine()
    store = dist.FileStore(str(process.rendezvous_file), config.layout.world_size)  # type: ignore[attr-defined]
    store.set_timeout(_TIMEOUT)
    return {"store": store, "rank": process.rank, "world_size": config.layout.world_size}


def _require_address(config: RunConfig) -> None:
    """Raise ConfigError at once where torch would keep trying until its time-out."""
    address, port = config.process.master_addr, config.process.master_port
    if address is None or port is None:
        raise ConfigError(
            [f"MASTER_ADDR={address or ''} MASTER_PORT={port or ''}: expected both, the address where rank 0 is met"]
        )
    try:
        socket.getaddrinfo(address, port)
    except OSError as error:
        raise ConfigError([f"MASTER_ADDR={address} cannot be resolved from here: {error.strerror}"]) from None


def alone(backend: str | None = None) -> None:
    """Form a process group of one, for programs that no launcher started. `backend` is the machine's if None."""
    backend = backend or ("nccl" if torch.cuda.is_available() else "gloo")
    _stay_on_this_machine()
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]


def _stay_on_this_machine() -> None:
    """Make gloo and NCCL listen on the loopback device alone, unless the user set a device."""
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, "lo")


def seed_everything(config: RunConfig) -> None:
    """Start every generator from the run's seed; the default generator is the same on all ranks."""
    if config.job.seed is None:
        raise ValueError("a run needs its seed")
    random.seed(config.job.seed)
    np.random.seed(config.job.seed)
    model_parallel_cuda_manual_seed(config.job.seed, te_rng_tracker=config.kernels.captures)
    # After Megatron-Core's own seeding, which on a CPU draws from this generator too.
    torch.manual_seed(config.job.seed)


def shut_down() -> None:
    """Leave the process groups."""
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


def barrier() -> None:
    """Wait until every rank is here and its device is idle."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    dist.barrier()


def sum_over_ranks(*values: float) -> list[float]:
    """Return each value summed over all ranks, the same on every rank, in double precision."""
    totals = torch.tensor(values, dtype=torch.float64, device=device())
    dist.all_reduce(totals)
    return totals.tolist()


def on_rank_0(decide: Callable[[], _T]) -> _T:
    """Return on every rank what `decide` returns on rank 0, which may read files that ten thousand ranks should not.

    If `decide` raises, rank 0 reports why, and the other ranks exit without printing anything.
    """
    answer: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            answer = [decide(), False]
        except Exception:
            dist.broadcast_object_list([None, True])
            raise
    dist.broadcast_object_list(answer)
    decision, failed = answer
    if failed:
        raise SystemExit(2)
    return decision


def gather(value: float) -> list[float]:
    """Return each rank's value, in the order of ranks; the same on every rank."""
    return sum_over_ranks(*(value if rank == dist.get_rank() else 0.0 for rank in range(dist.get_world_size())))


def nodes() -> list[str]:
    """Return the name of each rank's node, in the order of ranks."""
    names = [""] * dist.get_world_size()
    dist.all_gather_object(names, socket.gethostname())
    return names


def machine() -> Machine:
    """Return what this rank's machine offers its kernels."""
    gpu = torch.cuda.is_available()
    return replace(kernels.probe(), gpu=gpu, compute_capability=torch.cuda.get_device_capability() if gpu else None)


def peak_memory_gib() -> float | None:
    """Return the most GPU memory that this rank has ever had allocated, GiB; None on a CPU."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None


def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def reports_loss() -> bool:
    """Return whether this rank's loss counts: exactly one of the ranks that compute the same loss does."""
    return (
        parallel_state.is_pipeline_last_stage(ignore_virtual=True)
        and parallel_state.get_tensor_model_parallel_rank() == 0
    )
