"""The training state on disk: weights, optimizer and schedule, by Megatron-Core's distributed checkpointing.

Written under one layout, read under any other (`fully_reshardable`). Writing goes on in processes of its own while
training does. Data order and dropout need no state: what a step reads follows from its number, and nothing draws from a
random generator after initialisation (a test holds both to that).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Megatron-Core's writers import it, and without it a save hangs for ever instead of failing.
import psutil  # noqa: F401
import torch
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
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.transformer.module import MegatronModule

from reference_impl.model import unwrap
from reference_impl.preserve import torch_optimizers


class Saving:
    """A save that is being written, by processes of its own, one for each rank."""

    def __init__(self, request: Any, complete: Callable[[], None]) -> None:
        self._request = request
        self._writer = TemporalAsyncCaller()
        self._complete = complete
        self._writer.schedule_async_call(request)

    def written(self) -> bool:
        """Whether this rank's part is; asks no other rank."""
        return self._writer.is_current_async_call_done(no_dist=True)

    def finish(self) -> None:
        """Wait for this rank's part, then complete the checkpoint together; ranks call this, and return, together.

        Raises:
            CheckpointException: a rank could not write.
        """
        self._writer.is_current_async_call_done(blocking=True, no_dist=True)
        for finalize in self._request.finalize_fns:
            finalize()
        self._complete()
        torch.distributed.barrier()


def save(
    folder: Path,
    chunks: list[MegatronModule],
    optimizer: MegatronOptimizer,
    schedule: OptimizerParamScheduler,
    *,
    step: int,
    complete: Callable[[], None],
) -> Saving:
    """Take the state as it is now and start to write it into `folder`, which nothing has been written to.

    Args:
        complete: called on every rank when all of it is on disk, by `Saving.finish`.
    """
    for chunk in chunks:
        if chunk.ddp_config.overlap_param_gather:
            # Of the last step, this rank may not have all new weights yet: they are gathered as the next needs them.
            chunk.start_param_sync(force_sync=True)
    folder.mkdir(parents=True, exist_ok=True)
    state = _sharded_state(chunks, optimizer, loading=False)
    state |= {"schedule": schedule.state_dict(), "step": step}
    strategy = FullyParallelSaveStrategyWrapper(get_default_save_sharded_strategy("torch_dist"), _replicas())
    request = dist_checkpointing.save(state, str(folder), strategy, async_sharded_save=True)
    return Saving(request, complete)


def load(
    folder: Path,
    chunks: list[MegatronModule],
    optimizer: MegatronOptimizer,
    schedule: OptimizerParamScheduler,
) -> int:
    """Take over the state in `folder`, whatever layout wrote it; returns the steps taken by then."""
    with _loadable(optimizer):
        wanted = _sharded_state(chunks, optimizer, loading=True)
        strategy = FullyParallelLoadStrategyWrapper(get_default_load_sharded_strategy(str(folder)), _replicas())
        state = dist_checkpointing.load(wanted, str(folder), strategy)
        for index, chunk in enumerate(chunks):
            unwrap(chunk).load_state_dict(state[f"model{index}"])
        optimizer.load_state_dict(state["optimizer"])
    _refuse_shared_steps(optimizer)
    # Loading adds the steps of the checkpoint to those of the schedule, which has its one step of lead.
    schedule.num_steps = 0
    schedule.load_state_dict(state["schedule"])
    return int(state["step"])


def _replicas() -> torch.distributed.ProcessGroup:
    """The ranks that hold the same weights; they share the work of writing and reading them."""
    return parallel_state.get_data_parallel_group(with_context_parallel=True)


def _sharded_state(chunks: list[MegatronModule], optimizer: MegatronOptimizer, *, loading: bool) -> dict[str, Any]:
    # Without it, Megatron-Core 0.16.1 takes a format that it does not support any more.
    metadata = {"distrib_optim_sharding_type": "fully_reshardable", "dp_cp_group": _replicas()}
    # Of the GPTModel itself: its wrappers put "module." before every name.
    models = {
        f"model{index}": unwrap(chunk).sharded_state_dict(metadata=metadata) for index, chunk in enumerate(chunks)
    }
    return models | {"optimizer": optimizer.sharded_state_dict(models, is_loading=loading, metadata=metadata)}


@contextmanager
def _loadable(optimizer: MegatronOptimizer) -> Iterator[None]:
    """Within it, Megatron-Core's distributed optimizer can load its state into torch's AdamW.

    Megatron-Core 0.16.1 was written for Transformer Engine's. With torch's it needs state where there is none before
    the first step, looks for each parameter's step count among tensors that hold none, and gives all parameters one and
    the same step tensor, which would then count every parameter's step.
    """
    for inner in torch_optimizers(optimizer):
        if isinstance(inner, torch.optim.AdamW | torch.optim.Adam):
            _give_state(inner)
    distributed = getattr(optimizer, "chained_optimizers", [optimizer])
    for one in distributed:
        one._set_main_param_and_optimizer_states = _setter(one)
    try:
        yield
    finally:
        for one in distributed:
            # The method of its class again.
            del one._set_main_param_and_optimizer_states


def _give_state(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not optimizer.state[parameter]:
                optimizer.state[parameter].update(
                    step=torch.tensor(0.0),
                    exp_avg=torch.zeros_like(parameter),
                    exp_avg_sq=torch.zeros_like(parameter),
                )


def _setter(optimizer: Any) -> Callable[[torch.nn.Parameter, dict[str, torch.Tensor]], None]:
    """The optimizer's method that takes in one parameter's state, for states that have their own step count."""
    original = optimizer._set_main_param_and_optimizer_states

    @torch.no_grad()
    def set_states(model_param: torch.nn.Parameter, tensors: dict[str, torch.Tensor]) -> None:
        group, index = optimizer.model_param_group_index_map[model_param]
        state = optimizer.optimizer.state[optimizer.optimizer.param_groups[group]["params"][index]]
        if "step" in state:
            state["step"] = state["step"].clone()
            tensors = {**tensors, "step": state["step"]}
        original(model_param, tensors)

    return set_states


def _refuse_shared_steps(optimizer: MegatronOptimizer) -> None:
    """Raise RuntimeError where two parameters count their steps in one tensor: AdamW would train on, and wrongly."""
    for inner in torch_optimizers(optimizer):
        steps = [state["step"] for state in inner.state.values() if torch.is_tensor(state.get("step"))]
        if len({step.data_ptr() for step in steps}) != len(steps):
            raise RuntimeError("after loading, parameters share the tensor that counts their optimizer steps")
