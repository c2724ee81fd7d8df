"""Ranks that see another folder than rank 0 do not train."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.config import ConfigError, RunConfig
from reference_impl import parallel
from reference_impl.shared import require_shared
from tests.reference_impl.conftest import run_ranks

Tiny = Callable[..., RunConfig]


def asked(config: RunConfig) -> str:
    """How a rank ends that has `<folder>.of_rank_1` in place of each folder, if there is one, as rank 1."""
    parallel.initialize(config)
    if config.process.rank == 1:
        config = config.changed(**{name: own for name, own in _own(config).items() if own.exists()})
    try:
        require_shared(config)
    except (ConfigError, SystemExit) as end:
        return str(end)
    return "trains"


def _own(config: RunConfig) -> dict[str, Path]:
    folders = {"NPY_INDEX_DIR": config.data.index_dir, "SAVE_CHECKPOINT": config.job.save_checkpoint}
    return {name: folder.with_suffix(".of_rank_1") for name, folder in folders.items() if folder is not None}


@pytest.mark.parametrize("local", ["", "NPY_INDEX_DIR", "SAVE_CHECKPOINT"])
def test_ranks_with_folders_of_their_own_are_refused(local: str, tiny: Tiny, tmp_path: Path) -> None:
    """Whatever started them, rank 0 names folder and node, and nothing is left in the folders."""
    folders = {"NPY_INDEX_DIR": tmp_path / "index", "SAVE_CHECKPOINT": tmp_path / "saved"}
    config = tiny(DGXNNODES=2, MINIBS=2, **folders)
    expected = ["trains", "trains"]
    if local:
        own = _own(config)[local]
        own.mkdir()
        fault = f"{local}={own} is not the folder of the first node: all nodes must share it"
        expected = [f"{socket.gethostname()}: {fault}", "2"]
    assert run_ranks(config, asked) == expected
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name.startswith(".shared")]
