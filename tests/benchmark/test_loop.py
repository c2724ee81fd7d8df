"""The run itself, with a trainer that computes nothing: what happens when, what is logged, how it ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmark.announce import announce
from benchmark.checkpoints import Checkpoints, Resumption
from benchmark.config import RunConfig
from benchmark.eventlog import EventLog
from benchmark.loop import Outcome, StepStats, run
from benchmark.mllog import END, START, Event
from benchmark.stragglers import SlowRank
from tests.fakes import EPOCH, FakeClock, FakeStep, configured, read_events

# llama31_405b at a global batch size of 9216: evaluations are due after 72, 74, 76, ... steps.
GBS = 9216
DUE = (72, 74, 76)
ABOVE, AT = 5.6 + 1e-9, 5.6


def config(**overrides: str | int) -> RunConfig:
    return configured(DGXNGPU=1, MINIBS=GBS, SEED=1, **overrides)


@dataclass
class Run:
    step: FakeStep
    path: Path
    outcome: Outcome | None = None

    @property
    def events(self) -> list[Event]:
        return read_events(self.path)

    @property
    def keys(self) -> list[str]:
        return [event.key for event in self.events]

    def all(self, key: str) -> list[Event]:
        return [event for event in self.events if event.key == key]

    def one(self, key: str) -> Event:
        (event,) = self.all(key)
        return event

    def finish(self, config: RunConfig, clock: FakeClock) -> Run:
        log = EventLog(self.path, clock)
        self.outcome = run(config, self.step.build, log, clear_caches=lambda: "not needed", barrier=self.step.barrier)
        return self


@pytest.fixture
def ran(tmp_path: Path) -> Callable[..., Run]:
    """Runs to the end with these log perplexities; keyword arguments are variables of the configuration."""

    def go(
        *log_perplexities: float,
        stats: Callable[[int], StepStats] | None = None,
        tick: float = 0.0,
        **variables: str | int,
    ) -> Run:
        path = tmp_path / "result_0.txt"
        step = FakeStep(path, log_perplexities=log_perplexities, stats=stats)
        return Run(step, path).finish(config(**variables), FakeClock(tick=tick))

    return go


@pytest.fixture
def broke(tmp_path: Path) -> Callable[[str, BaseException], Run]:
    """Runs with a trainer that raises in the named call."""

    def go(call: str, error: BaseException) -> Run:
        path = tmp_path / "result_0.txt"
        broken = Run(FakeStep(path, log_perplexities=[AT], failing={call: error}), path)
        with pytest.raises(type(error)) as caught:
            broken.finish(config(), FakeClock())
        assert caught.value is error
        return broken

    return go


# The order of things.


def test_caches_are_cleared_before_initialisation(ran: Callable[..., Run]) -> None:
    """The log opens with cache_clear, which says how, and then init_start."""
    first, second = ran(AT).events[:2]
    assert (first.key, first.value, first.metadata["method"]) == ("cache_clear", True, "not needed")
    assert (second.key, second.event_type) == ("init_start", START)


def test_every_call_comes_at_its_time(ran: Callable[..., Run]) -> None:
    """The model is built and warmed up inside initialisation, and data is opened only after run_start."""
    assert ran(AT).step.calls == [
        ("build", "init_start"),
        ("warm_up", "init_start"),
        ("barrier", "init_checkpoint_step"),
        ("barrier", "run_start"),
        ("open_data", "run_start"),
        ("train", "block_start"),
        ("evaluate", "eval_start"),
    ]


def test_announcement_is_logged_within_initialisation(ran: Callable[..., Run]) -> None:
    """Everything announced stands between init_start and init_stop, in its order."""
    finished = ran(AT)
    inside = finished.events[finished.keys.index("init_start") + 1 : finished.keys.index("init_stop")]
    assert [(event.key, event.value) for event in inside] == list(announce(config()))


def test_initialisation_ends_where_the_clock_starts(ran: Callable[..., Run]) -> None:
    """init_stop and run_start are one instant, even if every reading of the clock takes a second."""
    finished = ran(AT, tick=1.0)
    start = finished.keys.index("run_start")
    assert finished.keys[start - 1] == "init_stop"
    assert finished.one("init_stop").time_ms == finished.one("run_start").time_ms


def test_block_of_training_and_its_evaluation(ran: Callable[..., Run]) -> None:
    """After run_start: a block with one event a step, then the evaluation with its value between start and stop."""
    finished = ran(AT)
    start = finished.keys.index("run_start")
    assert finished.keys[start:] == [
        *("run_start", "block_start", *["tracked_stats"] * 72, "block_stop"),
        *("eval_start", "eval_accuracy", "eval_stop"),
        *("run_stop", "train_samples"),
    ]


def test_intervals_are_balanced(ran: Callable[..., Run]) -> None:
    """Each block and evaluation that starts also stops before the next."""
    finished = ran(ABOVE, ABOVE, AT)
    intervals = [
        (event.key, event.event_type) for event in finished.events if event.key.startswith(("block", "eval_st"))
    ]
    once = [("block_start", START), ("block_stop", END), ("eval_start", START), ("eval_stop", END)]
    assert intervals == once * 3


def test_time_never_runs_backwards_in_the_log(ran: Callable[..., Run]) -> None:
    """Times are in the order of the lines."""
    times = [event.time_ms for event in ran(ABOVE, AT, tick=0.01).events]
    assert times == sorted(times)


# Training and evaluating.


def test_slow_ranks_are_logged_where_a_step_names_them(ran: Callable[..., Run]) -> None:
    """They are logged after the step's own event, at the same time, and never if there are none."""
    slow = SlowRank(rank=3, node="n2", ratio=1.25)

    def stats(step: int) -> StepStats:
        return StepStats(loss=6.0, grad_norm=1.0, learning_rate=1e-5, slowest=(slow,) if step == 72 else ())

    events = ran(ABOVE, AT, stats=stats).all("tracked_stats")
    (index,) = (index for index, event in enumerate(events) if "slowest_ranks" in event.value)
    assert events[index].value == {"slowest_ranks": [{"rank": 3, "node": "n2", "ratio": 1.25}]}
    assert events[index].metadata["step"] == events[index - 1].metadata["step"] == 72


def test_evaluates_exactly_when_due(ran: Callable[..., Run]) -> None:
    """Evaluations come after the scheduled steps and no other, over exactly the rules' sequences."""
    step = ran(ABOVE, ABOVE, AT).step
    assert step.evaluated_at == list(DUE)
    assert step.sequences == [5760] * 3


def test_sample_counts_are_positions(ran: Callable[..., Run]) -> None:
    """Blocks and evaluations carry the sequences trained on so far."""
    finished = ran(ABOVE, AT)
    counts = {
        key: [event.metadata["samples_count"] for event in finished.all(key)]
        for key in ("block_start", "block_stop", "eval_start", "eval_accuracy", "eval_stop")
    }
    positions = [72 * GBS, 74 * GBS]
    assert counts == {
        "block_start": [0, 72 * GBS],
        **dict.fromkeys(("block_stop", "eval_start", "eval_accuracy", "eval_stop"), positions),
    }


def test_every_step_is_logged(ran: Callable[..., Run]) -> None:
    """Each step has its number, its position, its loss and the time it took."""
    finished = ran(AT, stats=lambda step: StepStats(loss=7 - step / 100, grad_norm=2.0, learning_rate=1e-6), tick=0.5)
    steps = finished.all("tracked_stats")
    assert [event.metadata["step"] for event in steps] == list(range(1, 73))
    assert [event.metadata["samples_count"] for event in steps] == [n * GBS for n in range(1, 73)]
    assert steps[9].value == {
        "train_step_time": 0.5,
        "reduced_train_loss": 6.9,
        "grad_norm": 2.0,
        "learning_rate": 1e-6,
    }


# Ending.


def test_stops_at_the_first_evaluation_that_reaches_the_target(ran: Callable[..., Run]) -> None:
    """The run ends at the first value at or below the target; a value just above it does not end the run."""
    finished = ran(ABOVE, AT, 1.0)
    assert [event.value for event in finished.all("eval_accuracy")] == [ABOVE, AT]
    assert finished.outcome == Outcome(status="success", samples=74 * GBS, log_perplexity=AT, reason="")


def test_clock_stops_right_after_the_passing_evaluation(ran: Callable[..., Run]) -> None:
    """run_stop follows eval_stop at once, with its status, and train_samples is last."""
    finished = ran(AT)
    *_, evaluated, stop, samples = finished.events
    assert evaluated.key == "eval_stop"
    assert (stop.key, stop.event_type) == ("run_stop", END)
    assert {name: stop.metadata[name] for name in ("status", "samples_count")} == {
        "status": "success",
        "samples_count": 72 * GBS,
    }
    assert "reason" not in stop.metadata
    assert (samples.key, samples.value) == ("train_samples", 72 * GBS)


def test_missed_target_aborts_with_the_reason(ran: Callable[..., Run]) -> None:
    """A run out of steps is aborted, and says how close it came."""
    finished = ran(6.0, 5.7, MAX_STEPS=74)
    reason = "log perplexity 5.7 after 74 steps, target 5.6 not reached"
    assert finished.outcome == Outcome(status="aborted", samples=74 * GBS, log_perplexity=5.7, reason=reason)
    assert finished.one("run_stop").metadata["status"] == "aborted"
    assert finished.one("run_stop").metadata["reason"] == reason


@pytest.mark.parametrize("max_steps", [74, 75])
def test_step_limit_never_ends_a_run_between_evaluations(ran: Callable[..., Run], max_steps: int) -> None:
    """With a limit between two evaluations, the run ends at the one before it and trains no step beyond."""
    finished = ran(ABOVE, ABOVE, MAX_STEPS=max_steps)
    assert (finished.step.steps, finished.step.evaluated_at) == (74, [72, 74])
    assert finished.keys[-3:] == ["eval_stop", "run_stop", "train_samples"]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("field", "words"), [("loss", "training loss"), ("grad_norm", "gradient norm")])
def test_step_that_is_not_finite_aborts(ran: Callable[..., Run], field: str, words: str, number: float) -> None:
    """A loss or gradient that is not a number ends the run at that step; the reason names it, and none of it is
    logged.
    """

    def stats(step: int) -> StepStats:
        values: dict[str, Any] = {"loss": 6.0, "grad_norm": 1.0, "learning_rate": 1e-5}
        if step == 3:
            values[field] = number
        return StepStats(**values)

    finished = ran(stats=stats)
    assert finished.outcome is not None
    assert (finished.outcome.status, finished.outcome.samples) == ("aborted", 3 * GBS)
    assert f"{words} is {number} at step 3" in finished.outcome.reason
    assert len(finished.all("tracked_stats")) == 2
    assert finished.one("run_stop").metadata["reason"] == finished.outcome.reason


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_evaluation_that_is_not_finite_aborts(ran: Callable[..., Run], number: float) -> None:
    """A log perplexity that is not a finite number is not a result, least of all minus infinity."""
    finished = ran(ABOVE, number)
    assert finished.outcome is not None
    assert (finished.outcome.status, finished.outcome.log_perplexity) == ("aborted", ABOVE)
    assert f"log perplexity is {number} at step 74" in finished.outcome.reason
    assert len(finished.all("eval_accuracy")) == 1


@pytest.mark.parametrize("call", ["open_data", "train", "evaluate"])
@pytest.mark.parametrize(
    "error", [RuntimeError("lost a rank"), KeyboardInterrupt(), SystemExit(143)], ids=lambda error: type(error).__name__
)
def test_failure_in_the_timed_region_is_logged_and_goes_on(
    broke: Callable[[str, BaseException], Run], call: str, error: BaseException
) -> None:
    """Whatever the trainer raises, the log ends as aborted with the reason, and the error reaches the caller."""
    broken = broke(call, error)
    stop = broken.one("run_stop")
    assert broken.keys[-2:] == ["run_stop", "train_samples"]
    assert stop.metadata["status"] == "aborted"
    assert stop.metadata["reason"] == f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("call", ["build", "warm_up", "barrier"])
def test_failure_before_the_clock_starts_leaves_no_run(broke: Callable[[str, BaseException], Run], call: str) -> None:
    """A failure during initialisation never started the clock, so nothing stops it."""
    broken = broke(call, RuntimeError("no checkpoint"))
    assert not {"run_start", "run_stop", "train_samples"} & set(broken.keys)


def test_other_ranks_run_the_same_page(tmp_path: Path) -> None:
    """On a rank that does not log, the calls and the outcome are the same."""
    nowhere = tmp_path / "none.txt"
    step = FakeStep(nowhere, log_perplexities=[ABOVE, AT])
    log = EventLog(None, FakeClock())
    outcome = run(config(), step.build, log, clear_caches=lambda: "not needed", barrier=step.barrier)
    assert outcome == Outcome(status="success", samples=74 * GBS, log_perplexity=AT, reason="")
    assert [call for call, _ in step.calls] == [
        *("build", "warm_up", "barrier", "barrier", "open_data"),
        *("train", "evaluate", "train", "evaluate"),
    ]
    assert not nowhere.exists()


# Saving.


class Saved(Checkpoints):
    """Notes the steps after which training was saved."""

    def __init__(self, folder: Path, interval: int | None) -> None:
        super().__init__(folder, interval=interval)
        self.steps: list[int] = []

    def save(self, *arguments: Any, step: int, samples: int) -> float:
        self.steps.append(step)
        return super().save(*arguments, step=step, samples=samples)


def saving(tmp_path: Path, interval: int | None, **given: Any) -> tuple[Run, Saved]:
    path = tmp_path / "result_0.txt"
    step = FakeStep(path, log_perplexities=[ABOVE, AT])
    step.preempted_after = given.pop("preempted_after", None)
    checkpoints = Saved(tmp_path / "state", interval)
    run_of = Run(step, path)
    log = EventLog(path, FakeClock())
    given |= {"clear_caches": lambda: "not needed", "barrier": step.barrier, "checkpoints": checkpoints}
    run_of.outcome = run(config(), step.build, log, **given)
    return run_of, checkpoints


def test_saves_come_after_a_step_and_before_an_evaluation(tmp_path: Path) -> None:
    """A save comes at every interval; one that coincides with an evaluation comes before it, in its block."""
    finished, checkpoints = saving(tmp_path, 36)
    assert checkpoints.steps == [36, 72]
    assert finished.keys[finished.keys.index("block_stop") - 1] == "tracked_stats"
    assert "save_time" in finished.events[finished.keys.index("block_stop") - 1].value


def test_the_last_save_is_finished_after_the_clock_has_stopped(tmp_path: Path) -> None:
    """It is not part of the result, but must not be left half done."""
    saving(tmp_path, 36)
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["step_36", "step_72"]


@pytest.mark.parametrize("interval", [None, 10])
def test_a_run_that_is_told_to_stop_saves_and_stops_there(tmp_path: Path, interval: int | None) -> None:
    """It completes one save at the end of that step; the clock runs on, so there is no run_stop."""
    stopped, checkpoints = saving(tmp_path, interval, preempted_after=10)
    assert stopped.outcome == Outcome(
        status="preempted", samples=10 * GBS, log_perplexity=None, reason="told to stop after step 10"
    )
    assert checkpoints.steps == [10]
    assert (tmp_path / "state" / "step_10").is_dir()
    assert stopped.keys[-1] == "tracked_stats"
    assert not {"run_stop", "train_samples"} & set(stopped.keys)


def test_time_that_a_save_takes_is_no_steps_time(tmp_path: Path) -> None:
    """The next step begins when training continues."""
    path, clock = tmp_path / "result_0.txt", FakeClock()

    class Slow(FakeStep):
        def save(self, folder: Path, complete: Callable[[], None], failed: Callable[[str], None]) -> None:
            super().save(folder, complete, failed)
            clock.seconds += 60

        def train(self, steps: int) -> Iterator[StepStats]:
            for stats in super().train(steps):
                clock.seconds += 1
                yield stats

    step = Slow(path, log_perplexities=[AT])
    checkpoints = Checkpoints(tmp_path / "state", interval=10)
    log = EventLog(path, clock)
    run(config(), step.build, log, clear_caches=lambda: "", barrier=step.barrier, checkpoints=checkpoints)
    values = [event.value for event in read_events(path) if event.key == "tracked_stats"]
    assert {value["train_step_time"] for value in values if "train_step_time" in value} == {1.0}
    assert [value["save_time"] for value in values if "save_time" in value] == [60.0] * 7


class Failing(FakeStep):
    """Reports, during the step after a save, that the save has failed."""

    def finish_saving(self) -> None:
        if self._complete is not None:
            self._complete = None
            self._failed("the disk")

    def save(self, folder: Path, complete: Callable[[], None], failed: Callable[[str], None]) -> None:
        super().save(folder, complete, failed)
        self._failed = failed

    def train(self, steps: int) -> Iterator[StepStats]:
        for stats in super().train(steps):
            self.finish_saving()
            yield stats


@pytest.mark.parametrize("preempted_after", [None, 10])
@pytest.mark.parametrize("stop", [False, True])
def test_a_save_that_fails(stop: bool, preempted_after: int | None, tmp_path: Path) -> None:
    """By default training continues as if no save had been due; with SAVE_FAILURE=stop the run ends as aborted."""
    path = tmp_path / "result_0.txt"
    step = Failing(path, log_perplexities=[AT])
    step.preempted_after = preempted_after
    ended = Run(step, path)
    outcome = run(
        config(),
        step.build,
        EventLog(path, FakeClock()),
        clear_caches=lambda: "",
        barrier=step.barrier,
        checkpoints=Checkpoints(tmp_path / "state", interval=10, stop=stop),
    )
    failures = [event.metadata["step"] for event in ended.all("tracked_stats") if "save_failed" in event.value]
    assert failures == ([10] if stop or preempted_after else [10, 20, 30, 40, 50, 60, 70])
    assert outcome.status == ("aborted" if stop else "preempted" if preempted_after else "success")
    if stop:
        assert outcome.reason == "SaveFailedError: step 10 was not saved: the disk"
        assert ended.one("run_stop").metadata["status"] == "aborted"
        assert "error" not in ended.one("run_stop").metadata


# Going on.


def test_a_run_that_goes_on_is_not_initialised_again(tmp_path: Path) -> None:
    """It builds, loads, waits for every rank and cuts the log; it neither warms up nor logs a second start."""
    saving(tmp_path, None, preempted_after=10)
    path = tmp_path / "result_0.txt"
    length = path.stat().st_size
    EventLog(path, FakeClock()).end("run_stop", status="aborted")
    resumption = Resumption(
        folder=tmp_path / "state" / "step_10", step=10, log_bytes=length, recomputed_steps=3, last_event=EPOCH - 100
    )
    finished, _ = saving(tmp_path, None, resumption=resumption)

    assert [call for call, _ in finished.step.calls][:5] == ["build", "load", "barrier", "open_data", "train"]
    assert finished.outcome == Outcome(status="success", samples=74 * GBS, log_perplexity=AT, reason="")
    for key in ("init_start", "init_stop", "run_start", "run_stop", "seed"):
        assert len(finished.all(key)) == 1
    assert [event.metadata["samples_count"] for event in finished.all("block_start")] == [0, 72 * GBS]
    (mark,) = [event for event in finished.all("tracked_stats") if "resumed" in event.value]
    assert mark.value == {"resumed": True, "recomputed_steps": 3, "outage": 100.0}
    assert (mark.metadata["step"], mark.metadata["samples_count"]) == (10, 10 * GBS)


@pytest.mark.parametrize("call", ["build", "load", "barrier"])
def test_a_resumption_that_fails_leaves_the_log_alone(tmp_path: Path, call: str) -> None:
    """The log is unchanged, so the resumption can be tried again."""
    path = tmp_path / "result_0.txt"
    path.write_bytes(b"what was logged\nand what was not saved\n")
    step = FakeStep(tmp_path / "none", failing={call: RuntimeError("no")})
    resumption = Resumption(folder=tmp_path, step=10, log_bytes=16, recomputed_steps=0, last_event=EPOCH)
    (tmp_path / "steps").write_text("10")
    with pytest.raises(RuntimeError, match="no"):
        run(
            config(),
            step.build,
            EventLog(path, FakeClock()),
            clear_caches=lambda: "",
            barrier=step.barrier,
            resumption=resumption,
        )
    assert path.read_bytes() == b"what was logged\nand what was not saved\n"
