"""Checks that ranks on several nodes see the same folders, however they were started, before each of them trains."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import torch.distributed as dist

from benchmark.config import ConfigError, RunConfig
from benchmark.shared import tokens, unseen
from reference_impl import parallel


def require_shared(config: RunConfig) -> None:
    """Refuse a run if SAVE_CHECKPOINT or NPY_INDEX_DIR is a different folder for some rank than for rank 0.

    Otherwise half of a checkpoint would look complete, and ranks would read the data in another order or not find it.

    Raises:
        ConfigError: on rank 0, with each folder and node; the other ranks exit without printing anything.
    """
    if config.layout.nodes == 1:
        return
    named = {"SAVE_CHECKPOINT": config.job.save_checkpoint, "NPY_INDEX_DIR": config.data.index_dir}
    folders = {variable: folder for variable, folder in named.items() if folder is not None}
    with ExitStack() as stack:
        names = parallel.on_rank_0(lambda: _names(stack.enter_context(tokens(folders))))
        here = unseen({variable: folders[variable] / name for variable, name in names.items()})
        faults: list[list[str]] = [[]] * dist.get_world_size()
        # This also keeps the tokens until every rank has looked.
        dist.all_gather_object(faults, [f"{socket.gethostname()}: {fault}" for fault in here])
    if together := list(dict.fromkeys(fault for of_rank in faults for fault in of_rank)):
        parallel.on_rank_0(lambda: _refuse(together))


def _names(made: dict[str, Path]) -> dict[str, str]:
    """Return the file names of tokens; a rank looks for them under its own path."""
    return {variable: token.name for variable, token in made.items()}


def _refuse(faults: list[str]) -> None:
    raise ConfigError(faults)
