"""The training state on disk: weights, optimizer and schedule, by Megatron-Core's distributed checkpointing.

A state is written under one layout and read under any other; no rank ever holds more of the optimizer than its own part
(`shards`). Megatron-Core decides which rank reads what. The reading itself is ours (`nemo`, `arrays`), since torch's
reader executes what the pickles in a checkpoint say.
Training continues while a state is written (`writing`). Data order and dropout need no state: a step's data follow from
its number, and nothing draws from a random generator after initialisation (a test checks both).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.dict_utils import dict_list_map_outplace
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor
from megatron.core.dist_checkpointing.state_dict_utils import save_preprocess
from megatron.core.dist_checkpointing.strategies.base import LoadShardedStrategy
from megatron.core.dist_checkpointing.strategies.common import COMMON_STATE_FNAME, TorchCommonLoadStrategy
from megatron.core.dist_checkpointing.strategies.fully_parallel import (
    FullyParallelLoadStrategyWrapper,
    FullyParallelSaveStrategyWrapper,
)
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.transformer.module import MegatronModule

from benchmark.checkpoints import why_no_room
from benchmark.decode import MalformedError, one_line, open_regular, shown
from benchmark.files import flush
from reference_impl import quantised
from reference_impl.checkpoint.arrays import UNLOADABLE, CheckpointError, load_archive, read, why_unread
from reference_impl.checkpoint.initial import box_of, refused_together
from reference_impl.checkpoint.nemo import Index, read_index
from reference_impl.checkpoint.shards import OptimizerShards
from reference_impl.checkpoint.writing import Planner, Saving, agreed, why
from reference_impl.files.manifest import DataError, FileEntry, FolderManifest, file_faults
from reference_impl.model import unwrap
from reference_impl.parallel import on_rank_0
from reference_impl.preserve import chained, torch_optimizers


def save(
    folder: Path,
    chunks: list[MegatronModule],
    optimizer: MegatronOptimizer,
    schedule: OptimizerParamScheduler,
    *,
    step: int,
    needed: int,
    complete: Callable[[], None],
    failed: Callable[[str], None],
) -> Saving | None:
    """Take the state as it is now and start writing it into `folder`; return None if that has already failed.

    Args:
        needed: bytes that the state takes.
        complete, failed: see `benchmark.loop.Step.save`.
    """
    if chunks[0].ddp_config.overlap_param_gather:
        # This rank may not have all new weights of the last step yet: they are gathered when the next step needs them.
        quantised.gather(chunks)
    with quantised.in_bf16(chunks, writing=False):
        models = _models(chunks)
    state = models | {
        "optimizer": optimizer.state_dict(),
        "optimizer_shards": OptimizerShards(chunks, optimizer).tensors,
        "schedule": schedule.state_dict(),
        "step": step,
    }
    tensors, common = save_preprocess(state)
    if fault := agreed(lambda: _begin(folder, common, needed)):
        failed(fault)
        return None
    plan = FullyParallelSaveStrategyWrapper(Planner(), _replicas()).async_save(tensors, folder)
    return Saving(folder, plan, needed=needed, complete=complete, failed=failed)


def _begin(folder: Path, common: dict[str, Any], needed: int) -> str:
    """Make the folder and write the state that is not in tensors. Return why that failed, or an empty string."""
    if no_room := why_no_room(folder, needed):
        return no_room
    path = folder / COMMON_STATE_FNAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            torch.save(common, file)
            flush(file)
    except (OSError, RuntimeError) as error:
        return why(error, path)
    return ""


def damage(folder: Path) -> list[str]:
    """Return a line for each file that has changed since it was written; each rank reads a share, all return the same.

    Training would continue on a flipped bit in the weights without an error, so every byte is read once more, besides
    the reading that `load` does.
    """
    entries, fault = on_rank_0(lambda: _manifest(folder))
    names = sorted(entries, key=lambda name: -entries[name].bytes)[dist.get_rank() :: dist.get_world_size()]
    mine = [fault] if fault else file_faults(folder, {name: entries[name] for name in names}, jobs=1)
    everybodys: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everybodys, mine)
    return list(dict.fromkeys(chain.from_iterable(everybodys)))


def _manifest(folder: Path) -> tuple[dict[str, FileEntry], str]:
    try:
        return FolderManifest.load(folder).files, ""
    except DataError as error:
        return {}, one_line(error)


def load(
    folder: Path,
    chunks: list[MegatronModule],
    optimizer: MegatronOptimizer,
    schedule: OptimizerParamScheduler,
) -> int:
    """Load the state in `folder`, whatever layout wrote it, and return the number of steps taken by then.

    Raises:
        CheckpointError: on the first rank, if a file is damaged, is not what it should be, or is a pickle that names
            more than tensors and numbers. The other ranks exit with status 2 and print nothing.
    """
    index, common = on_rank_0(lambda: (read_index(folder), _read_common(folder)))
    # This allocates the moments, which do not exist before the first step.
    optimizer.load_state_dict(common["optimizer"])
    _count_steps_apart(optimizer)
    shards = OptimizerShards(chunks, optimizer)
    strategy = FullyParallelLoadStrategyWrapper(_Reading(index), _replicas())
    with quantised.in_bf16(chunks, writing=True):
        wanted = _models(chunks) | {"optimizer_shards": shards.tensors}
        state = dist_checkpointing.load(wanted, str(folder), strategy, _CommonIsRead())
        for number, chunk in enumerate(chunks):
            unwrap(chunk).load_state_dict(state[f"model{number}"])
    shards.take(state["optimizer_shards"])
    quantised.from_optimizers(chunks, chained(optimizer))
    # Loading adds the checkpoint's steps to those of the schedule, which is one step ahead from the start.
    schedule.num_steps = 0
    schedule.load_state_dict(common["schedule"])
    return int(common["step"])


def _read_common(folder: Path) -> dict[str, Any]:
    """Read the state that is not in tensors: the optimizer's groups, the schedule and the step."""
    path = folder / COMMON_STATE_FNAME
    try:
        with open_regular(path) as file:
            common = load_archive(file, "cpu")
        return _known(common)
    except FileNotFoundError as error:
        raise CheckpointError([f"{path}: {error.strerror}"]) from None
    except UNLOADABLE as error:
        raise CheckpointError([f"{path}: expected the common part of a checkpoint: {why_unread(error)}"]) from None


def _known(common: Any) -> dict[str, Any]:
    """Return the common part after checking that it has everything that is used here."""
    if not isinstance(common, dict):
        raise MalformedError(f"it is {type(common).__name__}")
    wanted: dict[str, type] = {"optimizer": dict, "schedule": dict, "step": int}
    for name, kind in wanted.items():
        if not isinstance(common.get(name), kind):
            raise MalformedError(f"its {name} is {shown(common.get(name))}, expected {kind.__name__}")
    return common


class _CommonIsRead(TorchCommonLoadStrategy):
    """Reads the common part in place of Megatron-Core's own reader."""

    def load_common(self, checkpoint_dir: str | Path) -> dict[str, Any]:
        del checkpoint_dir
        return {}


class _Reading(LoadShardedStrategy):
    """Reads the boxes that Megatron-Core assigns to this rank from where the index places them."""

    def __init__(self, index: Index) -> None:
        super().__init__()
        self._index = index

    def load(self, sharded_state_dict: dict[Any, Any], checkpoint_dir: str | Path) -> dict[Any, Any]:
        del checkpoint_dir
        with refused_together():
            values = dict_list_map_outplace(self._value, sharded_state_dict)
        return values

    def load_tensors_metadata(self, checkpoint_dir: str | Path) -> dict[str, Any]:
        raise NotImplementedError

    @property
    def can_handle_sharded_objects(self) -> bool:
        return True

    def check_backend_compatibility(self, loaded_version: str) -> None:
        """Do nothing: there is only one back end."""

    def check_version_compatibility(self, loaded_version: int) -> None:
        """Do nothing: there is only one version of it."""

    def _value(self, part: ShardedTensor | ShardedObject) -> Any:
        if isinstance(part, ShardedObject):
            # Transformer Engine's extra states are pickles; no recipe used here puts anything into them.
            return part.data
        expected = (part.global_shape, str(part.dtype).removeprefix("torch."))
        stored = self._index.tensors.get(part.key)
        read_as = (stored.shape, stored.dtype) if stored is not None else "nothing"
        if stored is None or read_as != expected:
            raise CheckpointError([f"{self._index.folder} has {read_as} for {part.key}, expected {expected}"])
        with torch.no_grad():
            return part.data.copy_(read(stored, box_of(part)).view(part.local_shape))


def _replicas() -> torch.distributed.ProcessGroup:
    """Return the group of ranks that hold the same weights; they share the work of writing and reading them."""
    return parallel_state.get_data_parallel_group(with_context_parallel=True)


def _models(chunks: list[MegatronModule]) -> dict[str, Any]:
    # Names come from the GPTModel itself: its wrappers put "module." before every name.
    return {f"model{index}": unwrap(chunk).sharded_state_dict() for index, chunk in enumerate(chunks)}


def _count_steps_apart(optimizer: MegatronOptimizer) -> None:
    """Give each parameter a step count of its own.

    Megatron-Core 0.16.1 loads one tensor for all of torch's AdamW, which then counts the steps of every parameter: the
    loss is off by a percent, without an error.
    """
    for inner in torch_optimizers(optimizer):
        for state in inner.state.values():
            if torch.is_tensor(state.get("step")):
                state["step"] = state["step"].clone()
