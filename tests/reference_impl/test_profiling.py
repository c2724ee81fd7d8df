"""PROFILE=torch: which steps of which ranks are recorded, and which runs it is refused for."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from benchmark.config import ConfigError, RunConfig
from reference_impl.profiling import StepProfiler, trace_of
from tests.fakes import configured
from tests.logs import tiny


def profiled(folder: Path, **values: str) -> RunConfig:
    return tiny(
        PROFILE="torch", PROFILE_FROM="2", PROFILE_STEPS="2", RESULT_FILE=str(folder / "result_0.txt"), **values
    )


def test_the_steps_of_the_window_are_recorded(tmp_path: Path) -> None:
    """As many steps as requested are recorded from the first one on, and no others."""
    profiler = StepProfiler(profiled(tmp_path), rank=0)
    for step in range(1, 6):
        with torch.profiler.record_function(f"step {step}"):
            torch.ones(8).sum()
        profiler.step()
    with gzip.open(trace_of(tmp_path / "result_0.txt", 0)) as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert {name for name in names if name and name.startswith("step ")} == {"step 2", "step 3"}


def test_other_ranks_record_nothing(tmp_path: Path) -> None:
    """Other ranks, and runs without PROFILE, record nothing."""
    for profiler in (StepProfiler(profiled(tmp_path), rank=1), StepProfiler(tiny(), rank=0)):
        profiler.step()
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_could_be_submitted_is_not_profiled() -> None:
    """A run of an MLPerf benchmark that names its submitter is refused, and so is a rank that does not exist."""
    with pytest.raises(ConfigError, match=r"since MLPERF_SUBMISSION_ORG\(X\) is set"):
        configured(PROFILE="torch", MLPERF_SUBMISSION_ORG="X")
    configured(PROFILE="torch")
    with pytest.raises(ConfigError, match="PROFILE_RANKS has 999999"):
        configured(PROFILE="torch", PROFILE_RANKS="0,999999")
