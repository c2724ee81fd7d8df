"""Rehearses a configuration: the real loop, in virtual time, with losses replayed from a curve.

A 405B run on ten thousand GPUs takes a second, and the official checkers accept its log: everything around the training
is rehearsed. The log says that it is simulated, so it can never be packaged. Every screen and page that shows it says
so too, and it is kept apart from the folders of real runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import click

from benchmark.benchmarks import benchmark_named
from benchmark.checkout import RESULTS
from benchmark.config import ConfigError, Resolved, RunConfig
from benchmark.convergence import expected_samples
from benchmark.eventlog import EventLog
from benchmark.files import new_folder
from benchmark.loop import Outcome, StepStats, run
from benchmark.rules import Rules, Schedule
from benchmark.run_record import Experiment, record, seen_here, stamp, write
from harness.pace import expected as expected_of
from harness.verdict import conclude

SIMULATED = RESULTS / "simulated"
"""Folder of rehearsals. LOGDIR is for real runs, from which `package` chooses."""

MARK = {"simulated": True}
"""The value of a tracked_stats event that tells a reader that nothing was trained."""

# How far below the target the curve levels off, in units of initial loss - target. With this value, evaluations around
# the target are within 0.01 of the published v5.1 curves.
_DEPTH = 0.2

# Standard deviations of the values that differ from step to step; the last two are fractions of the value.
_TRAIN_NOISE = 0.01
_EVALUATION_NOISE = 0.002
_GRAD_NORM_NOISE = 0.1
_STEP_TIME_NOISE = 0.01


_STATE = "state.json"
"""The bytes that a simulated save writes."""


@dataclass
class VirtualClock:
    """Time that passes only when something advances it."""

    seconds: float
    """Seconds since the epoch."""

    def now(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedPace:
    """How long things take, in seconds."""

    init: float = 300.0
    open_data: float = 1.0
    step: float = 10.0
    """Mean of an optimizer step."""
    evaluation: float = 30.0
    save: float = 5.0
    """How long a save keeps training waiting."""
    load: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCurve:
    """Loss against samples trained on: an exponential decay from `initial` that meets `target` at `crossing`."""

    initial: float
    target: float
    crossing: float
    """Sequences."""

    def at(self, samples: float) -> float:
        decayed = (_DEPTH / (1 + _DEPTH)) ** (samples / self.crossing)
        return self.target + (self.initial - self.target) * ((1 + _DEPTH) * decayed - _DEPTH)


class SimulatedStep:
    """A Step that trains nothing: it advances the clock and reads its losses off a curve. A seed determines the run."""

    def __init__(self, config: RunConfig, clock: VirtualClock, log: EventLog, pace: SimulatedPace) -> None:
        self._random = Random(config.job.seed)
        self._batch = config.layout.global_batch_size
        self._schedule = config.schedule
        self._clock = clock
        self._log = log
        self._pace = pace
        self._curve = draw_curve(config.rules, config.schedule, self._random)
        self._taken = 0
        self._saved: Callable[[], None] | None = None

    def warm_up(self) -> None:
        self._clock.advance(self._pace.init)
        self._log.event("tracked_stats", MARK)

    def open_data(self) -> None:
        self._clock.advance(self._pace.open_data)

    def train(self, steps: int) -> Iterator[StepStats]:
        for _ in range(steps):
            # A save is written while one step is taken.
            self.finish_saving()
            # The loss of a step is that of the weights before it.
            loss = self._curve.at(self._taken * self._batch) + self._random.gauss(0, _TRAIN_NOISE)
            self._taken += 1
            self._clock.advance(self._pace.step * self._about_one(_STEP_TIME_NOISE))
            yield StepStats(
                loss=loss,
                grad_norm=self._about_one(_GRAD_NORM_NOISE),
                learning_rate=self._schedule.learning_rate(self._taken),
            )

    def evaluate(self, sequences: int) -> float:  # noqa: ARG002 - however many, they take the same time
        self._clock.advance(self._pace.evaluation)
        return self._curve.at(self._taken * self._batch) + self._random.gauss(0, _EVALUATION_NOISE)

    def save(self, folder: Path, complete: Callable[[], None], failed: Callable[[str], None]) -> None:
        del failed
        self.finish_saving()
        self._clock.advance(self._pace.save)
        folder.mkdir(parents=True)
        (folder / _STATE).write_text(json.dumps([self._taken, self._random.getstate()]), encoding="utf-8")
        self._saved = complete

    def finish_saving(self) -> None:
        if self._saved is not None:
            self._saved()
            self._saved = None

    def load(self, folder: Path) -> None:
        self._clock.advance(self._pace.load)
        self._taken, (version, numbers, spare) = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        self._random.setstate((version, tuple(numbers), spare))

    def _about_one(self, deviation: float) -> float:
        return self._random.lognormvariate(0, deviation)


def draw_curve(rules: Rules, schedule: Schedule, random: Random) -> LossCurve:
    """Return a curve that meets the target within half an evaluation interval of the reference's mean."""
    interval = schedule.eval_interval_steps * schedule.global_batch_size
    mean = expected_samples(rules, schedule)
    return LossCurve(
        initial=sum(benchmark_named(rules.benchmark).initial_train_loss) / 2,
        target=rules.target_log_perplexity,
        crossing=mean + interval * random.uniform(-0.5, 0.5),
    )


def simulate(config: RunConfig, clock: VirtualClock, pace: SimulatedPace) -> Outcome:
    """Rehearse one run, whose seed is set. It is logged to the configuration's result file, if that is set."""
    log = EventLog(config.process.result_file, clock)
    return run(
        config,
        lambda: SimulatedStep(config, clock, log, pace),
        log,
        clear_caches=lambda: "none, simulated",
        barrier=lambda: None,
    )


def planned(config: RunConfig) -> tuple[SimulatedPace, str]:
    """Return the planner's estimate of how long things take, and the same in words.

    For a GPU that the planner does not know, they are the defaults of SimulatedPace.
    """
    expected = expected_of(config)
    if expected is None:
        pace = SimulatedPace()
        return pace, f"{pace.step:g} s a step, assumed: the planner knows no GPU in the name {config.system}"
    pace = SimulatedPace(step=expected.pace.step, evaluation=expected.pace.evaluation, open_data=expected.pace.start)
    return pace, f"{pace.step:.2f} s a step and {pace.evaluation:.1f} s an evaluation, from `llama31 plan`"


def rehearse(resolved: Resolved, out: Path | None, *, step_seconds: float | None = None) -> int:
    """Rehearse all NEXP runs, one after the other on one clock, and check the logs like those of real runs.

    Args:
        out: the folder of the results, new or empty; if None, a new one below SIMULATED.
        step_seconds: seconds of a step; the planner's if None.

    Returns:
        Exit status: 0 a valid result, 1 no valid result.

    Raises:
        ConfigError: the folder cannot be made, or is not empty.
    """
    config, started = resolved.config, datetime.now(UTC)
    pace, pace_text = (
        planned(config) if step_seconds is None else (SimulatedPace(step=step_seconds), f"{step_seconds:g} s a step")
    )
    click.echo(f"SIMULATED, nothing is trained: {pace_text}")
    if config.benchmark_row.submittable and (unset := config.submission.unset):
        click.echo(f"{', '.join(unset)} not set: `package --rehearse` needs logs that name a submitter", err=True)
    folder = _folder_of_its_own(config, started) if out is None else _empty_folder(out)
    clock = VirtualClock(started.timestamp())
    experiments = []
    for index, seed in enumerate(config.seeds):
        log = folder / f"result_{index}.txt"
        began = clock.now() + pace.init
        outcome = simulate(config.for_experiment(seed=seed, result_file=log), clock, pace)
        minutes = round((clock.now() - began) / 60, 3)
        experiments.append(Experiment(result=log.name, seed=seed, status=outcome.status, minutes=minutes))
    write(folder, record(resolved, seen_here(config, MARK), started).with_experiments(experiments))
    return conclude(config, folder, {one.result: int(one.status != "success") for one in experiments})


def _folder_of_its_own(config: RunConfig, started: datetime) -> Path:
    path = SIMULATED / config.system / stamp(started)
    try:
        return new_folder(path)
    except OSError as error:
        raise ConfigError([f"cannot write results to {path}: {error.strerror}"]) from None


def _empty_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        used = any(folder.iterdir())
    except OSError as error:
        raise ConfigError([f"cannot write results to {folder}: {error.strerror}"]) from None
    if used:
        raise ConfigError([f"{folder} is not empty; name a new folder, since every set of runs has its own"])
    return folder
