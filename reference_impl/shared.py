"""Ranks that several nodes start, by whatever means, see the same folders: asked of each before it trains."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import torch.distributed as dist

from benchmark.config import ConfigError, RunConfig
from benchmark.shared import tokens, unseen
from reference_impl import parallel


def require_shared(config: RunConfig) -> None:
    """Refuse a run with a rank for which SAVE_CHECKPOINT or NPY_INDEX_DIR is another folder than for rank 0.

    Half of a checkpoint would look complete, and ranks would train on another order of the data or on none.

    Raises:
        ConfigError: on rank 0, with each folder and node; the others end without a word.
    """
    if config.layout.nodes == 1:
        return
    named = {"SAVE_CHECKPOINT": config.job.save_checkpoint, "NPY_INDEX_DIR": config.data.index_dir}
    folders = {variable: folder for variable, folder in named.items() if folder is not None}
    with ExitStack() as stack:
        names = parallel.on_rank_0(lambda: _names(stack.enter_context(tokens(folders))))
        here = unseen({variable: folders[variable] / name for variable, name in names.items()})
        faults: list[list[str]] = [[]] * dist.get_world_size()
        # Also keeps the tokens until every rank has looked.
        dist.all_gather_object(faults, [f"{socket.gethostname()}: {fault}" for fault in here])
    if said := list(dict.fromkeys(fault for of_rank in faults for fault in of_rank)):
        parallel.on_rank_0(lambda: _refuse(said))


def _names(made: dict[str, Path]) -> dict[str, str]:
    """Of tokens; a rank looks for them under its own path."""
    return {variable: token.name for variable, token in made.items()}


def _refuse(faults: list[str]) -> None:
    raise ConfigError(faults)
