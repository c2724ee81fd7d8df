"""Measures what the harness costs inside the timed region: the real loop and log around a Step that does nothing.

The peer is mlperf_logging alone, writing one bare event per step to a file.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from mlperf_logging.mllog.mllog import MLLogger

from benchmark.benchmarks import LLAMA31_405B
from benchmark.checkpoints import Checkpoints
from benchmark.clock import SystemClock
from benchmark.config import RunConfig
from benchmark.eventlog import EventLog
from benchmark.loop import Outcome, StepStats, timed_region
from perf.measure import in_turns

# Median step of the fastest published run, GB200 x 8192 (v6.0), in seconds: the step whose share the overhead is.
FASTEST_PUBLISHED_STEP_S = 1.294


class NoWork:
    """A Step that takes no time and never reaches the target."""

    def warm_up(self) -> None: ...
    def open_data(self) -> None: ...

    def train(self, steps: int) -> Iterator[StepStats]:
        for _ in range(steps):
            yield StepStats(loss=7.7, grad_norm=1.0, learning_rate=1e-6)

    def evaluate(self, sequences: int) -> float:  # noqa: ARG002
        return 7.0

    def save(self, folder: Path, complete: Callable[[], None], failed: Callable[[str], None]) -> None: ...
    def finish_saving(self) -> None: ...
    def load(self, folder: Path) -> None: ...


def configuration(steps: int) -> RunConfig:
    variables = {
        "BENCHMARK": LLAMA31_405B.name,
        "RULESET": LLAMA31_405B.rulesets[-1],
        "DGXSYSTEM": "perf",
        "DGXNNODES": "288",
        "DGXNGPU": "8",
        "TENSOR_MODEL_PARALLEL": "8",
        "PIPELINE_MODEL_PARALLEL": "8",
        "CONTEXT_PARALLEL": "2",
        "MINIBS": "64",
        "MAX_STEPS": str(steps),
        "SEED": "1",
    }
    return RunConfig.from_environment(variables)


def bare_mllog(path: Path, steps: int) -> None:
    logger = logging.Logger("bare", level=logging.INFO)
    logger.addHandler(logging.FileHandler(path, mode="a"))
    mllogger = MLLogger(logger=logger)
    for step in range(steps):
        mllogger.event("tracked_stats", {"reduced_train_loss": 7.7}, metadata={"samples_count": step})


@click.command()
@click.option("--steps", default=1000, help="Steps a round.")
@click.option("--rounds", default=9)
def main(steps: int, rounds: int) -> None:
    """Measure the harness's own time in the timed region, a step."""
    config = configuration(steps)
    done = max(config.schedule.evaluation_steps(steps))
    with tempfile.TemporaryDirectory() as folder:
        clock = SystemClock()

        def loop(path: Path | None) -> Outcome:
            return timed_region(config, NoWork(), EventLog(path, clock), Checkpoints())

        timings = in_turns(
            {
                "loop and log": lambda: loop(Path(folder) / "loop.txt"),
                "loop, no log (other ranks)": lambda: loop(None),
                "bare mllog": lambda: bare_mllog(Path(folder) / "bare.txt", done),
            },
            rounds,
        )
    bare = timings["bare mllog"]
    print(f"{done} steps a round, median of {rounds} rounds")
    for name, timing in timings.items():
        share = timing.wall / done / FASTEST_PUBLISHED_STEP_S
        print(
            f"{name:28} {timing.wall / done * 1e6:8.1f} us a step   {timing.wall / bare.wall:5.2f} x bare mllog   "
            f"{share:.4%} of a step of {FASTEST_PUBLISHED_STEP_S} s"
        )


if __name__ == "__main__":
    main()
