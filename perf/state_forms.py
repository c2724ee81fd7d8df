"""The training state in several forms on disk: ours, and Megatron-Core's layout-independent ones.

Megatron-Core's are loaded up to the point where the state would go into torch's AdamW, which does not accept it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.serialization import (
    get_default_load_sharded_strategy,
    get_default_save_sharded_strategy,
)
from megatron.core.dist_checkpointing.strategies.async_utils import TemporalAsyncCaller
from megatron.core.dist_checkpointing.strategies.fully_parallel import (
    FullyParallelLoadStrategyWrapper,
    FullyParallelSaveStrategyWrapper,
)

from benchmark.benchmarks import BENCHMARKS, LLAMA31_TINY
from benchmark.config import RunConfig
from reference_impl import parallel
from reference_impl.data.published import manifest_of
from reference_impl.model import unwrap
from reference_impl.step import MegatronStep

SIZE = replace(LLAMA31_TINY.size, name="perf", layers=12, hidden=512, ffn_hidden=1536)
BENCHMARK = replace(LLAMA31_TINY, size=SIZE)
BYTES_A_PARAMETER = 2 + 12
"""Bytes: the bf16 weight, its fp32 copy and two moments."""

Work = Callable[[MegatronStep, Path], None]


def configuration(ranks: int) -> RunConfig:
    variables = {
        "BENCHMARK": BENCHMARK.name,
        "DGXSYSTEM": "perf",
        "DGXNNODES": "1",
        "DGXNGPU": str(ranks),
        "MINIBS": "4",
        "MICRO_BATCH_SIZE": "1",
        "PRECISION": "bf16",
        "SEED": "1",
    }
    BENCHMARKS[BENCHMARK.name] = BENCHMARK
    return RunConfig.from_environment(variables)


def trainer(config: RunConfig) -> MegatronStep:
    """Return a trainer after an optimizer step on gradients of zero, so that all state exists."""
    torch.set_num_threads(1)
    parallel.initialize(config)
    step = MegatronStep(config, manifest_of(BENCHMARK, {}))
    for chunk in step.chunks:
        chunk.zero_grad_buffer()
    step.optimizer.step()
    return step


def nothing() -> None:
    return None


def refuse(fault: str) -> None:
    raise RuntimeError(fault)


def save_ours(step: MegatronStep, folder: Path) -> None:
    step.save(folder, nothing, refuse)
    step.finish_saving()


def load_ours(step: MegatronStep, folder: Path) -> None:
    step.load(folder)


def state_of(step: MegatronStep, flags: dict[str, bool], *, loading: bool) -> dict[str, Any]:
    """Return what Megatron-Core stores in its layout-independent form."""
    metadata = {"distrib_optim_sharding_type": "fully_reshardable", "dp_cp_group": replicas(), **flags}
    model = unwrap(step.chunks[0]).sharded_state_dict(metadata=metadata)
    optimizer = step.optimizer.sharded_state_dict(model, is_loading=loading, metadata=metadata)
    return {"model": model, "optimizer": optimizer}


def replicas() -> dist.ProcessGroup:
    return parallel_state.get_data_parallel_group(with_context_parallel=True)


def save_theirs(flags: dict[str, bool], step: MegatronStep, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    strategy = FullyParallelSaveStrategyWrapper(get_default_save_sharded_strategy("torch_dist"), replicas())
    state = state_of(step, flags, loading=False)
    request = dist_checkpointing.save(state, str(folder), strategy, async_sharded_save=True)
    writer = TemporalAsyncCaller()
    writer.schedule_async_call(request)
    writer.is_current_async_call_done(blocking=True, no_dist=True)
    for finalize in request.finalize_fns:
        finalize()


def load_theirs(flags: dict[str, bool], step: MegatronStep, folder: Path) -> None:
    strategy = FullyParallelLoadStrategyWrapper(get_default_load_sharded_strategy(str(folder)), replicas())
    dist_checkpointing.load(state_of(step, flags, loading=True), str(folder), strategy)


EFFICIENT = {"distrib_optim_fully_reshardable_mem_efficient": True}

FORMS: dict[str, tuple[Work, Work]] = {
    "ours": (save_ours, load_ours),
    "fully_reshardable": (partial(save_theirs, {}), partial(load_theirs, {})),
    "the same, memory-efficient": (partial(save_theirs, EFFICIENT), partial(load_theirs, EFFICIENT)),
}
"""How a form is saved, and how it is loaded."""
