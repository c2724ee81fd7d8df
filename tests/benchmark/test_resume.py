"""A run that is interrupted anywhere and started again has the log of an undisturbed run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.checkpoints import Checkpoints, find_resumption, folder_of, identity, make_ready
from benchmark.config import RunConfig
from benchmark.eventlog import EventLog
from benchmark.loop import Outcome, StepStats, run
from compliance.check import check_paths
from harness.simulate import SimulatedPace, SimulatedStep, VirtualClock
from tests.fakes import EPOCH, configured, read_events
from tests.official import accepts_log

# llama31_405b at a global batch size of 9216: evaluations are due after 72, 74, 76, ... steps.
GBS = 9216

HOUR = 3600


def config(**overrides: str | int) -> RunConfig:
    return configured(**{"DGXNGPU": 1, "MINIBS": GBS, "SEED": 1, **overrides})


class Interrupted(BaseException):
    """What ends a process in the middle of a step, with the log as it was then."""

    def __init__(self, log: bytes) -> None:
        super().__init__()
        self.log = log


class Interruptible(SimulatedStep):
    """A rehearsal that is interrupted in a step, or told to stop at its end."""

    def __init__(self, config: RunConfig, log: EventLog, at: int | None, how: str) -> None:
        clock = log.clock
        assert isinstance(clock, VirtualClock)
        super().__init__(config, clock, log, SimulatedPace())
        self._path = log.path
        self._at = at
        self._how = how

    def train(self, steps: int) -> Iterator[StepStats]:
        for stats in super().train(steps):
            if self._taken == self._at and self._how == "preempted":
                yield replace(stats, preempted=True)
                raise AssertionError("went on after it was told to stop")
            if self._taken == self._at:
                assert self._path is not None
                raise Interrupted(self._path.read_bytes())
            yield stats


def rehearse(config: RunConfig, clock: VirtualClock, at: int | None = None, how: str = "") -> Outcome | None:
    """Start or continue a run as a process of its own would; None if that process was killed."""
    assert config.process.result_file is not None
    run_identity = identity(config, "data")
    resumption = find_resumption(config, run_identity)
    folder = folder_of(config)
    assert folder is not None
    make_ready(folder)
    log = EventLog(config.process.result_file, clock)
    try:
        return run(
            config,
            lambda: Interruptible(config, log, at, how),
            log,
            clear_caches=lambda: "none",
            barrier=lambda: None,
            checkpoints=Checkpoints(folder, interval=config.job.save_interval, run=run_identity),
            resumption=resumption,
        )
    except Interrupted as interrupted:
        # SIGTERM leaves a run_stop; SIGKILL leaves nothing, or half a line.
        if how != "terminated":
            config.process.result_file.write_bytes(
                interrupted.log + (b':::MLLOG {"namespace"' if how == "half a line" else b"")
            )
        return None


def told(path: Path, interval: int) -> list[tuple[object, ...]]:
    """The content of a log without times, marks of a resumption, and saves that only a signal requested."""
    said: list[tuple[object, ...]] = []
    for event in read_events(path):
        value = event.value
        if isinstance(value, dict):
            if "resumed" in value or ("save_time" in value and event.metadata["step"] % interval):
                continue
            value = {name: each for name, each in value.items() if not name.endswith("_time")}
        where = {name: each for name, each in event.metadata.items() if name not in ("file", "lineno")}
        said.append((event.key, event.event_type, value, where))
    return said


@settings(max_examples=15, deadline=None)
@given(
    interval=st.integers(7, 30),
    interruptions=st.lists(
        st.tuples(st.integers(31, 80), st.sampled_from(["killed", "half a line", "terminated", "preempted"])),
        max_size=3,
    ),
    outage=st.integers(0, 100_000),
)
def test_an_interrupted_run_is_the_run_that_was_not(
    interval: int, interruptions: list[tuple[int, str]], outage: int
) -> None:
    """However often and wherever it is interrupted, its log has the events of an undisturbed run, in order."""
    with TemporaryDirectory() as folder:
        paths = {name: Path(folder) / name / "result_0.txt" for name in ("whole", "interrupted")}
        runs = {
            name: config(SAVE_CHECKPOINT=f"{folder}/state", SAVE_INTERVAL=interval, RESULT_FILE=str(path))
            for name, path in paths.items()
        }
        for path in paths.values():
            path.parent.mkdir()
        clock = VirtualClock(EPOCH)
        whole = rehearse(runs["whole"], VirtualClock(EPOCH))
        for at, how in sorted(interruptions):
            outcome = rehearse(runs["interrupted"], clock, at, how)
            if outcome is not None and outcome.status == "success":
                break
            assert outcome is None or outcome.status == "preempted"
            clock.advance(outage)
        else:
            outcome = rehearse(runs["interrupted"], clock)

        assert outcome == whole
        assert told(paths["interrupted"], interval) == told(paths["whole"], interval)
        times = [event.time_ms for event in read_events(paths["interrupted"])]
        assert times == sorted(times)


def test_checkers_accept_a_run_that_was_interrupted(tmp_path: Path) -> None:
    """Ours finds nothing in its log, the official one accepts it, and its time includes the outages."""
    log = tmp_path / "logs" / "result_0.txt"
    log.parent.mkdir()
    state: dict[str, str | int] = {"SAVE_CHECKPOINT": str(tmp_path / "state"), "SAVE_INTERVAL": 10}
    one = config(MINIBS=4608, RESULT_FILE=str(log), CONFIG_FILENAME="config_TEST.sh", **state)
    clock = VirtualClock(EPOCH)
    for at, how in ((45, "killed"), (71, "terminated"), (72, "preempted")):
        rehearse(one, clock, at, how)
        clock.advance(HOUR)
    rehearse(one, clock)

    assert [path.name for path in sorted(log.parent.iterdir())] == [
        *("result_0.txt", "result_0.txt.cut-1", "result_0.txt.cut-2")
    ]
    assert not check_paths([log]).findings
    assert accepts_log(log, "6.0.0")
    times = {event.key: event.time_ms for event in read_events(log)}
    assert times["run_stop"] - times["run_start"] > 3 * HOUR * 1000
