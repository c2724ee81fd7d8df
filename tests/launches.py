"""Launches of rehearsed runs: logs and run.json as the launcher leaves them, made in a second."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmark.config import NAMES, Resolved, RunConfig
from benchmark.run_record import Experiment, record, seen_here, write
from compliance.run import EVALUATION
from harness.simulate import MARK, SimulatedPace, VirtualClock, simulate
from tests.fakes import EPOCH, configured
from tests.logs import LogFile

CONFIG = "config_TEST.sh"
IDENTITY = {
    "MLPERF_SUBMISSION_ORG": "Example",
    "MLPERF_SUBMISSION_STATUS": "research",
    "MLPERF_SUBMISSION_PLATFORM": "1xTEST",
}
FIRST_STARTED = datetime.fromtimestamp(EPOCH, UTC)


def llama31_405b(**overrides: str | int) -> RunConfig:
    """A run at the smallest reference point, whose config file has a name."""
    return configured(**({"CONFIG_FILENAME": CONFIG, **IDENTITY} | overrides))


def launch(
    folder: Path, config: RunConfig, *, seeds: Iterable[int] = range(3), step_seconds: float = 10.0, hours: float = 0.0
) -> Path:
    """Rehearse a run for each seed, as if launched so many hours after the first launch of all."""
    folder.mkdir(parents=True)
    started = FIRST_STARTED + timedelta(hours=hours)
    clock = VirtualClock(started.timestamp())
    experiments = []
    for index, seed in enumerate(seeds):
        log = folder / f"result_{index}.txt"
        outcome = simulate(config.for_experiment(seed=seed, result_file=log), clock, SimulatedPace(step=step_seconds))
        experiments.append(Experiment(result=log.name, seed=seed, status=outcome.status))
    resolved = Resolved(config=config, origins=dict.fromkeys(NAMES, "default"))
    write(folder, record(resolved, seen_here(config, MARK), started).with_experiments(experiments))
    return folder


def stop_after(log: Path, samples: int) -> None:
    """Say that a run's last evaluation came after so many sequences."""
    changed = LogFile(log)
    for key in EVALUATION:
        changed.get(key, -1)["metadata"]["samples_count"] = samples
    changed.save()


def stop_all_after(folder: Path, samples: int) -> None:
    """Say that of every run in a folder."""
    for log in folder.glob("result_*.txt"):
        stop_after(log, samples)
