"""Which checkpoint counts, how a run is identified, and what is refused: nothing is lost, nothing overwritten."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from benchmark.checkpoints import (
    Checkpoints,
    DamagedCheckpointError,
    SaveFailedError,
    complete_in,
    find_resumption,
    folder_of,
    identity,
    make_ready,
    put_aside,
    why_no_room,
)
from benchmark.config import ConfigError, RunConfig
from benchmark.eventlog import EventLog
from tests.fakes import EPOCH, FakeClock, configured, read_events


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., RunConfig]:
    def make(**overrides: str | int) -> RunConfig:
        given: dict[str, str | int] = {
            "SEED": 1,
            "SAVE_CHECKPOINT": str(tmp_path / "state"),
            "RESULT_FILE": str(tmp_path / "logs" / "result_0.txt"),
        }
        return configured(**{**given, **overrides})

    return make


class Run:
    """A run that has logged something, and saves."""

    def __init__(self, config: RunConfig) -> None:
        self.folder = folder_of(config) or Path()
        self.seed = config.job.seed or 0
        assert config.process.result_file is not None
        config.process.result_file.parent.mkdir(parents=True, exist_ok=True)
        self.clock = FakeClock()
        self.log = EventLog(config.process.result_file, self.clock)
        self.checkpoints = Checkpoints(self.folder, interval=10, run=identity(config, "data"))
        self.complete: Callable[[], None] = lambda: None
        self.failed: Callable[[str], None] = lambda fault: None

    def train(self, step: int) -> None:
        self.log.event("tracked_stats", {"train_step_time": 1.0, "reduced_train_loss": 1.0}, step=step, samples_count=0)

    def start_saving(self, step: int) -> None:
        def save(folder: Path, complete: Callable[[], None], failed: Callable[[str], None]) -> None:
            folder.mkdir(parents=True)
            (folder / "weights").write_text("")
            self.complete, self.failed = complete, failed

        self.checkpoints.save(save, self.log, step=step, samples=0)

    def save(self, step: int) -> None:
        self.start_saving(step)
        self.complete()

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


def refusal(config: RunConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        find_resumption(config, identity(config, "data"))
    return str(caught.value)


# Saving.


def test_saves_are_due_at_multiples_of_the_interval() -> None:
    """A save is due at every interval, and never without a folder or an interval."""
    every = Checkpoints(Path("state"), interval=10)
    assert [step for step in range(1, 31) if every.due(step)] == [10, 20, 30]
    assert not any(Checkpoints(Path("state")).due(step) or Checkpoints().due(step) for step in range(1, 31))


def test_a_save_says_how_long_it_kept_training_waiting(config: Callable[..., RunConfig]) -> None:
    """One event has the seconds that the call took, and training's clock continues from there."""
    run = Run(config())
    assert run.log.path is not None

    def save(folder: Path, complete: Callable[[], None], failed: Callable[[str], None]) -> None:
        run.clock.seconds += 2.5

    assert run.checkpoints.save(save, run.log, step=10, samples=11520) == EPOCH + 2.5
    (line,) = run.log.path.read_text().splitlines()
    assert '"value": {"save_time": 2.5}' in line
    assert '"step": 10' in line


def test_a_folder_is_complete_only_when_every_rank_has_written(config: Callable[..., RunConfig]) -> None:
    """Until then it has another name, which nobody takes for a checkpoint."""
    run = Run(config())
    run.start_saving(10)
    assert run.names == ["step_10.partial"]
    assert complete_in(run.folder) == []
    run.complete()
    assert run.names == ["step_10"]


def test_the_last_two_are_kept(config: Callable[..., RunConfig]) -> None:
    """The newest is in use, the one before it is the spare; they are ordered by step, not by name."""
    run = Run(config())
    for step in (90, 100, 110):
        run.save(step)
    assert run.names == ["step_100", "step_110"]
    assert [path.name for path in complete_in(run.folder)] == ["step_110", "step_100"]


def test_a_save_that_fails_costs_no_other_checkpoint(
    config: Callable[..., RunConfig], caplog: pytest.LogCaptureFixture
) -> None:
    """Its remains are removed, older ones stay; a line and an event say which step was not saved, and why."""
    run = Run(config())
    run.save(10)
    run.start_saving(20)
    run.failed("rank 3: no")
    run.checkpoints.settle(run.log)
    assert run.names == ["step_10"]
    assert caplog.messages == ["step 20 was not saved: rank 3: no"]
    assert run.log.path is not None
    last = read_events(run.log.path)[-1]
    assert (last.value, last.metadata["step"]) == ({"save_failed": "rank 3: no"}, 20)


def test_what_cannot_be_removed_costs_no_checkpoint(
    config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A complete checkpoint stays complete, and the run continues; a line says what is left behind."""
    run = Run(config())
    monkeypatch.setattr("shutil.rmtree", Mock(side_effect=OSError(errno.EBUSY, "Device or resource busy")))
    for step in (10, 20, 30):
        run.save(step)
    assert [path.name for path in complete_in(run.folder)] == ["step_30", "step_20"]
    assert caplog.messages == [f"left behind {run.folder}/step_10: Device or resource busy"]


def test_a_save_that_fails_ends_a_run_that_asks_for_it(config: Callable[..., RunConfig]) -> None:
    """With SAVE_FAILURE=stop it ends the run on every rank alike, after it is logged."""
    run = Run(config())
    run.checkpoints = Checkpoints(run.folder, writes=False, stop=True)
    run.start_saving(20)
    run.failed("no")
    with pytest.raises(SaveFailedError, match=r"^step 20 was not saved: no$"):
        run.checkpoints.settle(run.log)
    run.checkpoints.settle(run.log)


def test_room_is_asked_for_before_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal has the needed and the free bytes, of the folder or of its nearest existing parent."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=5_000 if path == tmp_path else 0))
    assert why_no_room(tmp_path / "state" / "run", 5_000) == ""
    assert (
        why_no_room(tmp_path / "state", 5_001) == f"{tmp_path}/state has 5,000 bytes free, and a checkpoint takes 5,001"
    )


def test_runs_that_share_a_folder_do_not_meet(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """Each run of a set, and each set, has a folder of its own below SAVE_CHECKPOINT."""
    logs = [tmp_path / name for name in ("a/result_0.txt", "a/result_1.txt", "b/result_0.txt")]
    assert len({folder_of(config(RESULT_FILE=str(log))) for log in logs}) == 3


# Going on.


def test_a_new_run_starts(config: Callable[..., RunConfig]) -> None:
    """A run without a log, or with an empty one, starts anew."""
    one = config()
    assert find_resumption(one, identity(one, "data")) is None
    Run(one).log.path.touch()  # type: ignore[union-attr]
    assert find_resumption(one, identity(one, "data")) is None


def test_a_run_goes_on_from_the_newest_complete_checkpoint(config: Callable[..., RunConfig]) -> None:
    """It has the log's length after the save, the steps to repeat, and the time of the last event."""
    one = config()
    run = Run(one)
    for step in (10, 20):
        run.train(step)
        run.save(step)
    length = run.log.sync()
    run.clock.seconds += 100
    run.train(25)
    run.start_saving(30)

    found = find_resumption(one, identity(one, "data"))
    assert found is not None
    assert (found.folder.name, found.step, found.log_bytes) == ("step_20", 20, length)
    assert (found.recomputed_steps, found.last_event) == (5, EPOCH + 100)


def test_another_layout_goes_on(config: Callable[..., RunConfig]) -> None:
    """A run continues when the same global batch is divided among ranks differently."""
    run = Run(config())
    run.train(10)
    run.save(10)
    other = config(TENSOR_MODEL_PARALLEL=2, MINIBS=288, MICRO_BATCH_SIZE=2)
    assert find_resumption(other, identity(other, "data")) is not None


@pytest.mark.parametrize(
    ("variables", "data", "named"),
    [
        ({"SEED": 2}, "data", "SEED is 1 there, but 2 here"),
        ({"PRECISION": "fp32"}, "data", "PRECISION is 'bf16' there, but 'fp32' here"),
        ({"RULESET": "5.1.0"}, "data", "RULESET is '6.0.0' there, but '5.1.0' here"),
        ({"MINIBS": 288}, "data", "schedule's global_batch_size is 1152 there, but 2304 here"),
        (
            {"MLPERF_SUBMISSION_DIVISION": "open", "ADAM_BETA_1": "0.5"},
            "data",
            "optimizer's beta_1 is 0.9 there, but 0.5",
        ),
        ({"MAX_STEPS": 600}, "data", "last step is 1000 there, but 600 here"),
        ({}, "other data", "dataset is 'data' there, but 'other data' here"),
    ],
)
def test_another_run_is_refused_by_every_difference(
    variables: dict[str, str | int], data: str, named: str, config: Callable[..., RunConfig]
) -> None:
    """A checkpoint of a run that differs names what differs, with both values."""
    run = Run(config())
    run.train(10)
    run.save(10)
    with pytest.raises(ConfigError) as caught:
        find_resumption(config(**variables), identity(config(**variables), data))
    assert any(named in fault for fault in caught.value.faults)


def test_a_log_without_a_checkpoint_is_refused(config: Callable[..., RunConfig]) -> None:
    """A log is not overwritten, and an unfinished save does not count as a checkpoint."""
    run = Run(config())
    run.train(1)
    run.start_saving(1)
    assert "has no complete checkpoint of it: move the log away" in refusal(config())


def test_a_log_without_a_folder_is_refused(config: Callable[..., RunConfig]) -> None:
    """A run that saves nothing does not append to an existing log."""
    Run(config()).train(1)
    assert "exists and SAVE_CHECKPOINT is not set" in refusal(config(SAVE_CHECKPOINT=""))


def test_a_checkpoint_without_its_log_is_refused(config: Callable[..., RunConfig]) -> None:
    """A result is one continuous log; a run whose log is gone has none."""
    run = Run(config())
    run.train(10)
    run.save(10)
    assert run.log.path is not None
    run.log.path.unlink()
    assert "but that log is not there" in refusal(config())


def test_a_run_that_has_reached_its_target_is_refused(config: Callable[..., RunConfig]) -> None:
    """It is over; continuing would cut off its end."""
    run = Run(config())
    run.train(10)
    run.save(10)
    run.log.end("run_stop", status="success")
    assert "has already reached its target" in refusal(config())


def test_the_log_of_another_seed_is_refused(config: Callable[..., RunConfig]) -> None:
    """A log with the same lines but another seed belongs to another run."""
    run = Run(config())
    run.log.event("seed", run.seed)
    run.save(10)
    assert run.log.path is not None
    said, other = f'"value": {run.seed}', f'"value": {run.seed + 1}'
    run.log.path.write_text(run.log.path.read_text().replace(said, other))
    assert f"is the log of seed {run.seed + 1}, not of {run.seed}" in refusal(config())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "does not describe a run: MalformedError"),
        ("{}", "does not describe a run: KeyError"),
        ("[]", "does not describe a run"),
        ('{"step": 1, "log_bytes": "x", "run": {}, "sha256": ""}', "does not describe a run"),
        ('{"step": 1, "log_bytes": 1, "run": {}, "sha256": ""}', "has changed since it was written"),
        (None, "No such file or directory"),
    ],
)
def test_a_record_that_is_not_as_it_was_written_is_damage(
    content: str | None, said: str, config: Callable[..., RunConfig]
) -> None:
    """The error names the file in one line; the checkpoint is put aside, and the run resumes from the one before."""
    run = Run(config())
    for step in (10, 20):
        run.train(step)
        run.save(step)
    record = run.folder / "step_20" / "resume.json"
    record.unlink() if content is None else record.write_text(content)
    with pytest.raises(DamagedCheckpointError, match=f"step_20/resume.json:? {said}") as caught:
        find_resumption(config(), identity(config(), "data"))
    assert put_aside(caught.value).startswith("step_20 is damaged: ")
    found = find_resumption(config(), identity(config(), "data"))
    assert found is not None
    assert found.step == 10
    assert run.names == ["step_10", "step_20.damaged-1"]


def test_a_run_without_a_whole_checkpoint_says_which_are_damaged(config: Callable[..., RunConfig]) -> None:
    """The error names them, so that somebody with a copy knows what to restore."""
    run = Run(config())
    run.train(10)
    run.save(10)
    put_aside(DamagedCheckpointError(run.folder / "step_10", "a disk"))
    assert "has no complete checkpoint of it (step_10.damaged-1 put aside): move the log away" in refusal(config())


def test_the_next_checkpoint_replaces_a_damaged_one(config: Callable[..., RunConfig]) -> None:
    """A damaged checkpoint stays for inspection until the next save takes its place."""
    run = Run(config())
    run.save(10)
    run.save(20)
    put_aside(DamagedCheckpointError(run.folder / "step_20", "a disk"))
    run.save(30)
    assert run.names == ["step_10", "step_30"]


@pytest.mark.parametrize("change", [lambda text: text[:-10], lambda text: "another log\n" + text])
def test_a_log_that_is_not_the_checkpoints_is_refused(
    change: Callable[[str], str], config: Callable[..., RunConfig]
) -> None:
    """The log was whole lines when it was saved, and has only grown."""
    run = Run(config())
    run.train(10)
    run.save(10)
    assert run.log.path is not None
    run.log.path.write_text(change(run.log.path.read_text()))
    assert "is not the log of" in refusal(config())


def test_the_record_is_json_for_people(config: Callable[..., RunConfig]) -> None:
    """The checkpoint itself says, readably, which run it belongs to."""
    run = Run(config())
    run.train(10)
    run.save(10)
    record = json.loads((run.folder / "step_10" / "resume.json").read_text())
    assert record["step"] == 10
    assert record["run"]["RESULT_FILE"] == "logs/result_0.txt"


def test_what_an_interrupted_save_left_is_removed(config: Callable[..., RunConfig]) -> None:
    """Remains of interrupted saves and removals go before the next save to that name; complete checkpoints stay."""
    run = Run(config())
    run.save(10)
    run.start_saving(20)
    (run.folder / "removed_1_step_5").mkdir()
    make_ready(run.folder)
    assert run.names == ["step_10"]


def test_a_folder_that_cannot_be_made_is_refused() -> None:
    """The error comes before anything is trained."""
    with pytest.raises(ConfigError, match="SAVE_CHECKPOINT: /dev/null/state cannot be written"):
        make_ready(Path("/dev/null/state"))
