"""Time to target: the printed outcomes, their arithmetic, and the ends of published runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.benchmarks import find
from benchmark.config import RunConfig
from benchmark.convergence import find_record, likely_samples, mean_samples
from benchmark.eventlog import EventLog
from benchmark.loop import StepStats, run
from harness.plan import calibration
from harness.plan.time_to_target import (
    Pace,
    evaluation_steps,
    expected_steps,
    outcome,
    outcomes,
    walltime,
)
from perf.plan_accuracy import target_outcomes
from tests.fakes import FakeClock, configured, read_events
from tests.harness.plan_data import published

PACE = Pace(step=10.0, evaluation=7.0, start=20.0, spread=0.05)
BATCHES = st.integers(64, 4608)


@given(BATCHES, st.sampled_from(["5.0.0", "5.1.0", "6.0.0"]))
def test_outcomes_are_evaluations_of_the_rules(gbs: int, ruleset: str) -> None:
    """Each is a step at which the rules evaluate, in order, with every evaluation before it counted."""
    rules = find("llama31_405b", ruleset)
    schedule = rules.schedule(gbs)
    due = list(schedule.evaluation_steps(schedule.first_eval_step + 100 * schedule.eval_interval_steps))
    found = outcomes(rules, schedule, PACE)
    assert [due[each.evaluations - 1] for each in found] == [each.steps for each in found]
    assert found == sorted(found, key=lambda each: each.samples)


@given(BATCHES)
def test_the_references_mean_is_likely(gbs: int) -> None:
    """The first evaluation past the reference's mean is always among the outcomes, at the factor of its record.

    That is 1 but for a step between the mean of all its seeds and the olympic one of the record, which is higher.
    """
    rules = find("llama31_405b", "6.0.0")
    mean = mean_samples(rules, gbs)
    assert mean is not None
    found = [each for each in outcomes(rules, rules.schedule(gbs), PACE) if each.samples >= mean]
    record = find_record(rules, gbs)[1]
    assert record is not None
    assert found[0].factor == max(1.0, record.mean / found[0].samples)
    assert found[0].samples - mean < rules.schedule(gbs).eval_interval_steps * gbs or found[0].evaluations == 1


def test_a_fast_result_is_scored_as_the_references() -> None:
    """v5.0 let results converge 46,080 sequences early, and multiplied their score: 276,480 by 322,560 / 276,480."""
    rules = find("llama31_405b", "5.0.0")
    early = outcome(rules, rules.schedule(1152), PACE, 240)
    assert early.samples == 276_480
    assert early.margin == pytest.approx(0)
    assert early.factor == pytest.approx(7 / 6)


class TimedStep:
    """A trainer that takes the times of PACE and reaches the target at its third evaluation."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.evaluations = clock, 0

    def warm_up(self) -> None: ...

    def open_data(self) -> None:
        self.clock.seconds += PACE.start

    def train(self, steps: int) -> Iterator[StepStats]:
        for _ in range(steps):
            self.clock.seconds += PACE.step
            yield StepStats(loss=6.0, grad_norm=1.0, learning_rate=1e-5)

    def evaluate(self, sequences: int) -> float:
        self.clock.seconds += PACE.evaluation
        self.evaluations += 1
        return 5.5 if self.evaluations == 3 else 5.7

    def save(self, folder: Path, complete: Callable[[], None], failed: Callable[[str], None]) -> None: ...

    def finish_saving(self) -> None: ...

    def load(self, folder: Path) -> None: ...


def test_minutes_are_those_of_the_real_loop(tmp_path: Path) -> None:
    """The real loop, timed by a fake clock, takes what the outcome at its last evaluation says."""
    config: RunConfig = configured(SEED=1)
    clock, path = FakeClock(), tmp_path / "result_0.txt"
    run(config, lambda: TimedStep(clock), EventLog(path, clock), clear_caches=lambda: "none", barrier=lambda: None)
    at = {event.key: event.time_ms for event in read_events(path)}
    samples = next(event.value for event in read_events(path) if event.key == "train_samples")
    expected = outcome(config.rules, config.schedule, PACE, samples // config.layout.global_batch_size)
    assert expected.evaluations == 3
    assert expected.minutes == pytest.approx((at["run_stop"] - at["run_start"]) / 60_000)


def test_an_evaluation_fills_whole_batches() -> None:
    """5760 sequences are five batches of 1152 and six of 1151."""
    rules = find("llama31_405b", "6.0.0")
    assert evaluation_steps(rules, 1152, 0.35) == pytest.approx(1.75)
    assert evaluation_steps(rules, 1151, 0.35) == pytest.approx(2.1)


@given(BATCHES)
def test_the_expectation_lies_between_the_outcomes(gbs: int) -> None:
    """The number that ranks layouts is between the fastest and the slowest outcome."""
    rules = find("llama31_405b", "6.0.0")
    schedule = rules.schedule(gbs)
    pace = Pace(step=10, evaluation=10 * evaluation_steps(rules, gbs, 0.35), start=0.0, spread=0.0)
    expected = expected_steps(rules, schedule, 0.35) * pace.step / 60
    found = outcomes(rules, schedule, pace)
    assert found[0].minutes - 1e-9 <= expected <= found[-1].minutes + 1e-9


def test_walltime_holds_every_run_at_its_slowest() -> None:
    """Three runs, each with its start-up and the step's spread, in tens of minutes."""
    rules = find("llama31_405b", "6.0.0")
    slowest = outcomes(rules, rules.schedule(1152), PACE)[-1]
    asked = walltime(slowest, PACE, 3)
    assert asked % 10 == 0
    assert 0 <= asked - 3 * (slowest.minutes * 1.05 + 20) < 10


def test_without_reference_points_the_first_evaluations_are_shown() -> None:
    """Rules without reference points still have a cadence."""
    rules = replace(find("llama31_405b", "6.0.0"), reference_points=())
    found = outcomes(rules, rules.schedule(1152), PACE)
    assert [each.evaluations for each in found] == [1, 2, 3, 4]
    assert {each.margin for each in found} == {None}
    assert likely_samples(rules, 1152) == (0, 0)


def test_published_runs_ended_at_printed_outcomes() -> None:
    """All did, except one that stopped at its step limit, between two evaluations."""
    whole = calibration.load().sizes["405b"]
    ends = [
        end for pair in zip(published().runs, published().columns, strict=True) for end in target_outcomes(*pair, whole)
    ]
    assert len(ends) > 50
    assert [end.samples for end in ends if not end.printed] == [288_000]
