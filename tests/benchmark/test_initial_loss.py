"""The first loss of a run from a checkpoint lies in the rules' range, or the run ends there."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.benchmarks import LLAMA31_8B, LLAMA31_TINY, Benchmark, random_first_loss
from benchmark.eventlog import EventLog
from benchmark.initial_loss import WrongInitialLossError, require_initial_loss
from benchmark.loop import Outcome, StepStats, run
from tests.fakes import FakeClock, FakeStep, configured, read_events


def ran(tmp_path: Path, *losses: float, **variables: str | int) -> tuple[Outcome, FakeStep]:
    """Runs 405B at a global batch size of 9216 with these losses, the last one for the rest of the run."""
    config = configured(DGXNGPU=1, MINIBS=9216, SEED=1, **variables)
    path = tmp_path / "result_0.txt"

    def stats(step: int) -> StepStats:
        return StepStats(loss=losses[min(step, len(losses)) - 1], grad_norm=1.0, learning_rate=1e-5)

    step = FakeStep(path, log_perplexities=[5.5], stats=stats)
    outcome = run(config, step.build, EventLog(path, FakeClock()), clear_caches=lambda: "", barrier=step.barrier)
    return outcome, step


@pytest.mark.parametrize("loss", [7.684, 7.789, 7.5, 8.0])
def test_a_right_start_goes_on(loss: float, tmp_path: Path) -> None:
    """The losses of all published runs pass, and so do the ends of the rules' range."""
    outcome, _ = ran(tmp_path, loss, 12.0, LOAD_CHECKPOINT="/data/405b")

    assert outcome.status == "success"


@pytest.mark.parametrize(("loss", "cause"), [(11.9, "wrong tokenizer"), (5.2, "trained on this data already")])
def test_a_wrong_start_ends_after_one_step(loss: float, cause: str, tmp_path: Path) -> None:
    """run_stop says aborted, with the number, the range, the likely causes, and how to continue anyway."""
    outcome, step = ran(tmp_path, loss, LOAD_CHECKPOINT="/data/405b")

    assert (outcome.status, step.steps) == ("aborted", 1)
    stop = next(event for event in read_events(tmp_path / "result_0.txt") if event.key == "run_stop")
    assert stop.metadata["status"] == "aborted"
    reason = stop.metadata["reason"]
    assert f"first training loss {loss:.4f} from LOAD_CHECKPOINT=/data/405b, expected 7.5 to 8.0" in reason
    assert cause in reason
    assert "INITIAL_LOSS_GATE=0" in reason


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"LOAD_CHECKPOINT": "/data/405b", "INITIAL_LOSS_GATE": "0"},
        {"LOAD_CHECKPOINT": "/data/70b", "MLPERF_SUBMISSION_DIVISION": "open", "MODEL_SIZE": "70b"},
    ],
)
def test_the_gate_is_for_the_benchmarks_own_start_and_can_be_opened(variables: dict[str, str], tmp_path: Path) -> None:
    """405B without its checkpoint, with INITIAL_LOSS_GATE=0, or as another network is not judged."""
    assert ran(tmp_path, 11.9, **variables)[0].status == "success"


def test_later_losses_are_not_judged(tmp_path: Path) -> None:
    """Only the first step shows what the run started from."""
    assert ran(tmp_path, 7.7, 9.0, LOAD_CHECKPOINT="/data/405b")[0].status == "success"


@pytest.mark.parametrize(
    ("benchmark", "expected", "published"), [(LLAMA31_8B, 12.58, (12.55, 12.58)), (LLAMA31_TINY, 10.40, ())]
)
def test_random_weights_start_at_the_loss_of_their_vocabulary(
    benchmark: Benchmark, expected: float, published: tuple[float, ...]
) -> None:
    """ln(V) + hidden x init_std^2 / 2, which published 8B logs have at step 1; 32,000 rows for 128,256 end the run."""
    low, high = benchmark.initial_train_loss
    assert (low + high) / 2 == pytest.approx(expected, abs=0.01)
    sizes = {"DGXNGPU": 1, "MINIBS": 16}
    config = configured(BENCHMARK=benchmark.name, RULESET=benchmark.rulesets[-1], **sizes)
    for loss in (expected, *published):
        require_initial_loss(config, loss)
    for wrong in (7.7, random_first_loss(benchmark.size, 160_256 - benchmark.vocabulary)[0]):
        with pytest.raises(
            WrongInitialLossError, match=rf"from random weights, expected {low} to {high} for {benchmark.name}"
        ):
            require_initial_loss(config, wrong)
