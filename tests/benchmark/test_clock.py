"""The clock never runs backwards, and the timed region begins as one act."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmark.clock import SystemClock, start_run
from benchmark.events import END, START, EventLog
from tests.fakes import FakeClock, read_events


def test_system_clock_tells_the_time() -> None:
    """A fresh clock agrees with the wall clock."""
    assert SystemClock().now() == pytest.approx(time.time(), abs=1.0)


def test_system_clock_ignores_steps_of_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """When NTP sets the wall clock back an hour in the middle of a run, the run's clock goes on."""
    clock = SystemClock()
    before = clock.now()
    monkeypatch.setattr(time, "time", lambda: before - 3600)
    assert 0 <= clock.now() - before < 1.0


def test_system_clock_advances_with_time() -> None:
    """Time that passes is time that the clock shows."""
    clock = SystemClock()
    before = clock.now()
    time.sleep(0.02)
    assert 0.02 <= clock.now() - before < 5.0


def test_a_clock_that_goes_on_is_not_before_the_log() -> None:
    """On a host whose clock is behind, time goes on from the last event of the log, in milliseconds, too."""
    last = time.time() + 3600
    now = SystemClock(after=last).now()
    assert int(now * 1000) >= int(last * 1000)
    assert now - last < 1.0
    assert SystemClock(after=time.time() - 3600).now() == pytest.approx(time.time(), abs=1.0)


def test_start_run_is_one_instant_between_two_barriers(tmp_path: Path) -> None:
    """All ranks wait, both events carry one time, and all ranks wait again before any touches data."""
    path = tmp_path / "result_0.txt"
    at_barrier: list[list[str]] = []

    start_run(
        EventLog(path, FakeClock(tick=1.0)),
        barrier=lambda: at_barrier.append([event.key for event in read_events(path)]),
    )

    stop, start = read_events(path)
    assert at_barrier == [[], ["init_stop", "run_start"]]
    assert (stop.event_type, start.event_type) == (END, START)
    assert stop.time_ms == start.time_ms
