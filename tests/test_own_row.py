"""A small benchmark like llama31_8b, from text to a score, as a submitter types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmark.checkout import ROOT
from harness.config_file import write_config
from tests.fakes import read_events
from tests.own_row import NAME, ROW, hook, stand_in

pytestmark = pytest.mark.slow

SHAPE = {"DGXNNODES": "1", "DGXNGPU": "1", "MINIBS": "8", "MICRO_BATCH_SIZE": "8", "PRECISION": "fp32"}


@dataclass(frozen=True)
class Site:
    """A folder with a tokenizer, and an environment in which every Python knows the row."""

    folder: Path

    def run(self, *command: object, status: int = 0, **variables: object) -> str:
        """What a command prints; it has to end with this status."""
        done = subprocess.run(
            list(map(str, command)),
            env={**self.environment, **{name: str(value) for name, value in variables.items()}},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    def llama31(self, *arguments: object, status: int = 0) -> str:
        return self.run(sys.executable, "-m", "harness", *arguments, status=status)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
        return {
            **kept,
            "PYTHONPATH": f"{ROOT}:{self.folder}",
            "HARNESS_PYTHON": sys.executable,
            "TOKENIZER": str(self.folder / "tokenizer.model"),
            "DATADIR": str(self.folder / "data"),
            "LOGDIR": str(self.folder / "logs"),
        }


def test_from_text_to_a_score(tmp_path: Path) -> None:
    """It is prepared as int32, preflighted, trained to its target three times, checked and scored, and becomes
    reference points.
    """
    pytest.importorskip("tiktoken")
    site = Site(hook(tmp_path))
    stand_in(tmp_path / "tokenizer.model")
    config = write_config(tmp_path, "CUT", {"BENCHMARK": NAME, "RULESET": "6.1.0", **SHAPE, "WALLTIME": "60"}, "Ours.")

    site.llama31("data", "prepare", tmp_path / "data", "--tokenizer", tmp_path / "tokenizer.model")
    assert "int32" in site.llama31("data", "inspect", tmp_path / "data", "--tokenizer", tmp_path / "tokenizer.model")
    site.llama31("data", "verify", tmp_path / "data")
    site.llama31("preflight", config)
    said = site.run("bash", "run_and_time.sh", config, NEXP=3, SEED_BASE=1)
    assert said.rstrip().endswith("verdict   PASS")
    (results,) = (tmp_path / "logs").glob("*/*/")
    site.llama31("check", results)
    site.llama31("score", results)
    # A policy asks for twice the runs of a result.
    site.llama31("rcp", "--write", tmp_path / "rcp.json", results, status=1)

    low, high = ROW.initial_train_loss
    for log in results.glob("result_*.txt"):
        steps = [event.value for event in read_events(log) if event.key == "tracked_stats"]
        first = next(value["reduced_train_loss"] for value in steps if "reduced_train_loss" in value)
        assert low < first < high
    (point,) = json.loads((tmp_path / "rcp.json").read_text()).values()
    assert (point["BS"], len(point["Epochs to converge"])) == (8, 3)
