"""Starting runs on this machine: what the processes of a run are told, and what run.json says of them."""

from __future__ import annotations

from pathlib import Path

from benchmark.config import RunConfig
from harness.launch.experiments import child_environment
from tests.fakes import configured, environment


def test_a_run_of_several_reads_back_as_itself(tmp_path: Path) -> None:
    """Variables of the outer run (SEED_BASE, NEXP) do not reach the one run, and all other variables do."""
    outer = environment(SEED_BASE=5, NEXP=2) | {"PATH": "/bin"}
    one = configured(SEED_BASE=5, NEXP=2).for_experiment(seed=6, result_file=tmp_path / "result_1.txt")

    inner = child_environment(one, outer)
    assert inner["PATH"] == "/bin"
    assert RunConfig.from_environment(inner) == one
