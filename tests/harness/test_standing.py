"""A launcher knows of a run only what its log says."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.eventlog import EventLog
from harness.launch.standing import Standing, standing
from report.follower import LogFollower
from tests.fakes import FakeClock


def log_of_a_run(path: Path) -> EventLog:
    """A short log: two steps, one evaluation."""
    log = EventLog(path, FakeClock(tick=1.0))
    log.start("init_start")
    log.start("run_start")
    log.start("block_start", samples_count=0)
    for step in (1, 2):
        value = {"train_step_time": 2.0, "reduced_train_loss": 7.0 - step}
        log.event("tracked_stats", value, step=step, samples_count=step * 1152)
    log.event("eval_accuracy", 5.5, samples_count=2304)
    return log


def stands(path: Path) -> Standing:
    follower = LogFollower(path)
    follower.poll()
    return standing(follower.run)


def test_a_run_stands_where_its_log_says(tmp_path: Path) -> None:
    """Samples while it is on; status, reason and minutes when it is over; nothing before it has logged anything."""
    path = tmp_path / "result_0.txt"
    assert stands(path) == Standing()
    log = log_of_a_run(path)
    on = stands(path)
    assert (on.samples, on.status, on.minutes) == (2304, "", None)
    log.end("run_stop", status="aborted", reason="RuntimeError: x", error="RuntimeError")
    over = stands(path)
    assert (over.status, over.reason, over.error) == ("aborted", "RuntimeError: x", "RuntimeError")
    assert over.minutes == pytest.approx(5 / 60)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("eval_accuracy", "x"),
        ("eval_accuracy", None),
        ("tracked_stats", {"train_step_time": "x"}),
        ("tracked_stats", {"train_step_time": 1.0}),
        ("tracked_stats", {"train_step_time": 10**400}),
        ("tracked_stats", {"slowest_ranks": 5}),
        ("tracked_stats", {"slowest_ranks": [{}]}),
    ],
)
def test_an_event_that_is_not_ours_ends_no_run(key: str, value: object, tmp_path: Path) -> None:
    """The launcher skips what it cannot read, since the run may have cost hours."""
    path = tmp_path / "result_0.txt"
    log = log_of_a_run(path)
    before = stands(path)
    log.event(key, value)
    assert stands(path) == before


def test_a_run_whose_log_is_cut_back_is_not_over(tmp_path: Path) -> None:
    """An end that an interrupted process logged is gone when the next one resumes from a checkpoint."""
    path = tmp_path / "result_0.txt"
    log = log_of_a_run(path)
    length = log.sync()
    follower = LogFollower(path)
    log.end("run_stop", status="aborted", reason="Interrupted: SIGTERM")
    assert follower.poll()
    log.cut(length)
    assert follower.poll()
    assert standing(follower.run).status == ""
