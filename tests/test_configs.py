"""Every config of the repository: it sources, is named after what it holds, passes preflight and can be rehearsed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmark.__main__ import main
from benchmark.config import NAMES, RunConfig, config_files, source_config
from benchmark.resolve import resolve
from compliance.findings import Severity
from compliance.preflight import check_plan, make_plan
from tests.official import accepts_directory, accepts_log, accepts_seeds

ALL = pytest.mark.parametrize("path", config_files(), ids=lambda path: path.stem)
OFFICIAL = [path for path in config_files() if resolve(path).config.rules.submittable]


@ALL
def test_config_describes_a_run_of_its_name(path: Path) -> None:
    """A config exports a possible run, nothing that is not ours, and its own name."""
    config = RunConfig.from_environment(source_config(path), complete=True)
    assert path.name == f"config_{config.system}.sh"


@pytest.mark.parametrize("path", OFFICIAL, ids=lambda path: path.stem)
def test_name_states_the_content(path: Path) -> None:
    """The name of a config states nodes, GPUs, batch and layout."""
    config = resolve(path).config
    layout = f"tp{config.tensor_model_parallel}pp{config.pipeline_model_parallel}cp{config.context_parallel}"
    stated = f"_{config.nodes}x{config.gpus_per_node}x{config.minibatch}x{layout}"
    assert path.stem.endswith(stated) or f"{stated}_" in path.stem


@ALL
def test_config_sourced_by_hand_is_the_same_run(path: Path, tmp_path: Path) -> None:
    """`source config_X.sh` in a strict shell, from any folder, gives the run that naming the file gives."""
    script = f'set -euo pipefail; source "{path}"; exec env -0'
    text = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    exported = dict(entry.split("=", 1) for entry in text.split("\0") if entry)
    ours = {name: value for name, value in exported.items() if name in NAMES}
    by_hand, by_file = (resolve(file, environment).config for file, environment in ((None, ours), (path, os.environ)))
    unnamed = {"config_filename": ""}
    assert by_hand.model_copy(update=unnamed) == by_file.model_copy(update=unnamed)


@pytest.mark.parametrize("path", OFFICIAL, ids=lambda path: path.stem)
def test_config_sourced_by_hand_names_its_file(path: Path) -> None:
    """The log names the config file, however it was read: ruleset 6.1.0 asks for it."""
    assert source_config(path)["CONFIG_FILENAME"] == path.name


@ALL
def test_config_passes_preflight(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With data and a place for results, no config breaks a rule."""
    monkeypatch.setenv("DATADIR", str(tmp_path))
    monkeypatch.setenv("LOGDIR", str(tmp_path))
    assert [f for f in check_plan(make_plan(path)) if f.severity is Severity.ERROR] == []


@pytest.mark.parametrize("path", OFFICIAL, ids=lambda path: path.stem)
def test_official_checkers_accept_a_rehearsal(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rehearsed runs pass the official compliance, seed and RCP checkers, and our own, which simulate calls."""
    monkeypatch.setenv("NEXP", "3")
    done = CliRunner().invoke(main, ["simulate", str(path), "--out", str(tmp_path / "logs")])
    assert done.exit_code == 0, done.output
    logs, ruleset = sorted((tmp_path / "logs").glob("result_*.txt")), resolve(path).config.rules.ruleset
    assert accepts_log(logs[0], ruleset)
    assert accepts_seeds(logs, ruleset)
    assert accepts_directory(tmp_path / "logs", ruleset)


def test_one_config_has_more_than_ten_thousand_gpus() -> None:
    """What is shown at scale is shown on a config of that scale."""
    assert max(resolve(path).config.world_size for path in OFFICIAL) > 10_000
