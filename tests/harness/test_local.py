"""Starting runs on this machine: what the processes of a run get, and what run.json records of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmark import driver
from benchmark.checkout import ROOT
from benchmark.config import Resolved, RunConfig, resolve
from benchmark.config.libraries import RECORDED
from harness.__main__ import main
from harness.launch.experiments import run_experiments
from harness.launch.launcher import CannotStartError, child_environment
from harness.launch.local import Local
from tests.fakes import configured, environment


def test_a_run_of_several_reads_back_as_itself(tmp_path: Path) -> None:
    """Variables of the outer run (SEED_BASE, NEXP) do not reach the one run, and all other variables do."""
    outer = environment(SEED_BASE=5, NEXP=2) | {"PATH": "/bin"}
    one = configured(SEED_BASE=5, NEXP=2).for_experiment(seed=6, result_file=tmp_path / "result_1.txt")

    inner = child_environment(one, outer)
    assert inner["PATH"] == "/bin"
    assert RunConfig.from_environment(inner) == one


@pytest.mark.parametrize(
    ("gpus", "said"),
    [
        (("NVIDIA H200",) * 4, "DGXNGPU=8 ranks need a GPU each; this machine has 4 ("),
        (("NVIDIA H200 (null)",) * 8, "NVIDIA H200 (null) is the null device"),
    ],
)
def test_what_ranks_cannot_train_on_is_said_once(
    gpus: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Too few GPUs, or the null device, give one error before a rank starts, and no folder of runs."""
    monkeypatch.setattr(driver, "gpu_names", lambda: gpus)
    resolved = resolve(None, environment(LOGDIR=str(tmp_path / "logs"), DATADIR=str(tmp_path)))
    with pytest.raises(CannotStartError, match=f"^{re.escape(said)}") as refusal:
        run_experiments(resolved, Local(resolved.config))
    assert len(refusal.value.faults) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_lacks_everything_says_so_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Data, tokenizer, GPUs and the precision's needs get a line each, in one error."""
    for name in ("DATADIR", "TOKENIZER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(driver, "gpu_names", lambda: None)
    resolved = resolve(ROOT / "configs" / "config_DGXB200_1x8x2xtp1pp1cp1_8b.sh")
    assert run_experiments(resolved, Local(resolved.config)) == 2
    found = [line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines() if line.startswith("missing ")]
    assert [line.split()[0].rstrip(",") for line in found] == ["DATADIR", "TOKENIZER", "8", "PRECISION=nvfp4"]
    assert "accepts its licence there" in found[1]


def test_what_a_config_file_exports_for_the_libraries_reaches_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does, named on the command line or sourced; a value of the user wins."""
    told: dict[str, str] = {}

    def start(resolved: Resolved, _: Local) -> int:
        told.update(child_environment(resolved.config))
        return 0

    monkeypatch.setattr("harness.launch.experiments.run_experiments", start)
    monkeypatch.setattr("harness.launch.local.Local", lambda _: None)
    # What the command leaves in the environment is taken out of it with these.
    for name in RECORDED:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("NCCL_GRAPH_REGISTER", "1")
    config = ROOT / "configs" / "config_DGXB200_1x8x4xtp1pp1cp1_8b.sh"
    assert CliRunner().invoke(main, ["run", str(config)]).exit_code == 0
    assert told["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    assert told["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert told["NCCL_GRAPH_REGISTER"] == "1"
