"""A run that is interrupted and started again, with real ranks: every loss bit for bit, one continuous log."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pytest

# So that ranks are forked after one import.
import reference_impl.step  # noqa: F401
from benchmark.checkpoints import bytes_of_one, complete_in, folder_of
from benchmark.config import ConfigError, RunConfig
from benchmark.mllog import Event
from benchmark.rules import Rules, Schedule
from reference_impl import pretrain
from tests.fakes import read_events
from tests.reference_impl.conftest import run_ranks, start_ranks
from tests.waiting import wait_until

Tiny = Callable[..., RunConfig]

LAST = 6
"""Steps of a run here: evaluations after 2, 4 and 6, with a target that none reaches."""

TWO_RANKS = {"DGXNGPU": 2, "MINIBS": 2}


class Short(RunConfig):
    """A run that evaluates often, of little, and does not get where it should."""

    @cached_property
    def rules(self) -> Rules:
        return replace(
            super().rules,
            eval_every_sequences=8,
            skip_slope=Fraction(0),
            skip_intercept=0,
            eval_sequences=8,
            target_log_perplexity=1.0,
        )

    @cached_property
    def schedule(self) -> Schedule:
        return replace(super().schedule, max_steps=LAST)


@pytest.fixture(scope="module")
def make_short(make_tiny: Tiny) -> Tiny:
    """Makes a run of a few steps that saves after every second."""

    def make(folder: Path, name: str, **variables: object) -> RunConfig:
        (folder / name).mkdir()
        config = make_tiny(
            RESULT_FILE=folder / name / "result_0.txt",
            NPY_INDEX_DIR=folder / "index",
            SAVE_CHECKPOINT=folder / "state",
            **{"SAVE_INTERVAL": 2, **variables},
        )
        return Short.from_environment(config.to_environment())

    return make


def told_to_stop_in(step: int, config: RunConfig) -> int:
    """Train; the last rank gets SIGUSR1 in the middle of a step."""
    from reference_impl.step import MegatronStep

    train_once = MegatronStep.train_once

    def signalled(self: MegatronStep, batches: Any) -> Any:
        if self._done + 1 == step and config.process.rank == config.layout.world_size - 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return train_once(self, batches)

    with patch.object(MegatronStep, "train_once", signalled):
        return pretrain.train(config)


def in_a_group_of_its_own(config: RunConfig) -> int:
    """Train; what this rank starts can be killed with it."""
    os.setpgid(0, 0)
    return pretrain.train(config)


def kill_ranks(config: RunConfig, *, checkpoints: int) -> None:
    """Train until there are so many complete checkpoints; then kill every rank, wherever it is."""
    with TemporaryDirectory() as folder:
        ranks = start_ranks(config, in_a_group_of_its_own, Path(folder, "rendezvous"))
        pids = [pid for process in ranks.values() if (pid := process.pid) is not None]
        try:
            wait_until(lambda: len(complete_in(checkpoints_of(config))) >= checkpoints, pids, "a checkpoint")
        finally:
            for pid, process in zip(pids, ranks.values(), strict=True):
                os.killpg(pid, signal.SIGKILL)
                process.join()
    assert [process.exitcode for process in ranks.values()] == [-signal.SIGKILL] * config.layout.world_size


def checkpoints_of(config: RunConfig) -> Path:
    folder = folder_of(config)
    assert folder is not None
    return folder


def told(config: RunConfig) -> list[tuple[object, ...]]:
    """What the log says of training and evaluations, without times and what only one of two runs can have."""
    assert config.process.result_file is not None
    said: list[tuple[object, ...]] = []
    for event in read_events(config.process.result_file):
        value = event.value
        if isinstance(value, dict):
            if "reduced_train_loss" not in value:
                continue
            value = {name: each for name, each in value.items() if not name.endswith("_time")}
        said.append((event.key, value, event.metadata.get("samples_count"), event.metadata.get("reason")))
    return said


def resumed(config: RunConfig) -> list[dict[str, Any]]:
    assert config.process.result_file is not None
    events = read_events(config.process.result_file)
    return [event.value for event in events if isinstance(event.value, dict) and "resumed" in event.value]


@dataclass
class Runs:
    """One run from start to end, and one with the same seed in three pieces."""

    whole: RunConfig
    interrupted: RunConfig
    statuses: list[list[int]]
    """How the ranks of the second and the third piece ended."""
    stopped: list[Event]
    """The log after the second."""


@pytest.fixture(scope="module")
def runs(make_short: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Two ranks: killed at any place after a save, told to stop in step 5, and continued to the end.

    Before the last piece, a disk loses the newest checkpoint.
    """
    folder = tmp_path_factory.mktemp("runs")
    whole, interrupted = make_short(folder, "whole", **TWO_RANKS), make_short(folder, "interrupted", **TWO_RANKS)
    run_ranks(whole, pretrain.train)

    kill_ranks(interrupted, checkpoints=1)
    second = run_ranks(interrupted, partial(told_to_stop_in, 5))
    assert interrupted.process.result_file is not None
    stopped = read_events(interrupted.process.result_file)
    (complete_in(checkpoints_of(interrupted))[0] / ".metadata").unlink()
    return Runs(whole, interrupted, [second, run_ranks(interrupted, pretrain.train)], stopped)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_bit_for_bit(runs: Runs) -> None:
    """Losses, gradient norms, learning rates and evaluations are those of the undisturbed run, in one log."""
    assert told(runs.interrupted) == told(runs.whole)


@pytest.mark.slow
def test_a_checkpoint_takes_the_bytes_that_preflight_counts(runs: Runs) -> None:
    """They are a parameter's weight, fp32 copy and moments, without headers."""
    saved = complete_in(checkpoints_of(runs.whole))[0]
    size = sum(path.stat().st_size for path in saved.iterdir())
    assert size == pytest.approx(bytes_of_one(runs.whole)[0], rel=0.01)


@pytest.mark.slow
def test_a_run_that_is_told_to_stop_is_to_be_continued(runs: Runs) -> None:
    """Both ranks stop after the same step, with status 75, without a run_stop; the last piece ends as a run does."""
    assert runs.statuses == [[os.EX_TEMPFAIL] * 2, [1, 1]]
    assert "run_stop" not in {event.key for event in runs.stopped}
    assert runs.stopped[-1].metadata["step"] == 5


@pytest.mark.slow
def test_the_log_says_what_an_interruption_cost(runs: Runs) -> None:
    """A kill and a lost checkpoint cost the steps since the remaining one; their log lines are kept."""
    killed, stopped = resumed(runs.interrupted)
    assert killed["recomputed_steps"] == steps_cut_off(runs.interrupted)
    assert stopped["recomputed_steps"] == 1
    assert [said.partition(":")[0] for said in stopped["damaged"]] == ["step_5 is damaged"]
    assert min(killed["outage"], stopped["outage"]) > 0
    assert runs.interrupted.process.result_file is not None
    assert sorted(path.name for path in runs.interrupted.process.result_file.parent.iterdir()) == [
        *("result_0.txt", "result_0.txt.cut-1", "result_0.txt.cut-2")
    ]


def steps_cut_off(config: RunConfig) -> int:
    assert config.process.result_file is not None
    return config.process.result_file.with_name("result_0.txt.cut-1").read_text().count("train_step_time")


def test_a_save_that_was_not_finished_is_not_used(make_short: Tiny, tmp_path: Path) -> None:
    """After a kill during the second save, the first one counts and the remains are removed."""
    config = make_short(tmp_path, "killed", SAVE_INTERVAL=1)
    kill_ranks(config, checkpoints=2)
    newest, older = complete_in(checkpoints_of(config))
    newest.rename(newest.with_suffix(".partial"))

    assert run_ranks(config.changed(SAVE_INTERVAL=None), pretrain.train) == [1]
    (mark,) = resumed(config)
    assert mark["recomputed_steps"] == steps_cut_off(config)
    assert list(checkpoints_of(config).iterdir()) == [older]


def refused(config: RunConfig) -> str:
    try:
        pretrain.train(config)
    except ConfigError as error:
        return str(error)
    except SystemExit as error:
        return f"exit {error.code}"
    return "trained"


def test_a_log_with_nothing_to_go_on_from_is_refused_by_all_ranks(make_short: Tiny, tmp_path: Path) -> None:
    """Rank 0 reports why, the others end with the same status, and the log is unchanged."""
    config = make_short(tmp_path, "there", **TWO_RANKS)
    assert config.process.result_file is not None
    config.process.result_file.write_text("a log\n")

    said, other = run_ranks(config, refused)
    assert "has no complete checkpoint of it" in said
    assert other == "exit 2"
    assert config.process.result_file.read_text() == "a log\n"


def test_a_signal_without_a_folder_is_ignored_with_a_word(tiny: Tiny, capfd: pytest.CaptureFixture[str]) -> None:
    """Without SAVE_CHECKPOINT the run could not be continued."""
    preempted = pretrain.listen_for_preemption(tiny())
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert not preempted()
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    assert "SIGUSR1 ignored: SAVE_CHECKPOINT is not set" in capfd.readouterr().err
