"""The clock never runs backwards, and the timed region begins as one act."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.clock import SystemClock
from benchmark.eventlog import EventLog
from benchmark.loop import start_run
from benchmark.mllog import END, START
from tests.fakes import FakeClock, read_events


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clocks of a host, set by hand: `wall` since the epoch, `up` since its start, in seconds."""
    clocks = SimpleNamespace(wall=1.75e9, up=1000.0)
    monkeypatch.setattr("benchmark.clock.time", SimpleNamespace(time=lambda: clocks.wall, monotonic=lambda: clocks.up))
    return clocks


def test_system_clock_tells_the_time() -> None:
    """A fresh clock agrees with the wall clock."""
    before = time.time()
    now = SystemClock().now()
    # The wall clock itself is adjusted by milliseconds.
    assert before - 1 <= now <= time.time() + 1


@given(passed=st.floats(0, 1e6), step=st.floats(-1e6, 1e6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_system_clock_goes_on_whatever_the_wall_clock_does(host: SimpleNamespace, passed: float, step: float) -> None:
    """The clock shows the time that has passed, even if NTP sets the wall clock back an hour in mid-run."""
    clock = SystemClock()
    before = clock.now()
    host.up += passed
    host.wall += step
    assert clock.now() - before == pytest.approx(passed, abs=1e-5)


def test_a_clock_that_goes_on_is_not_before_the_log(host: SimpleNamespace) -> None:
    """On a host whose clock is behind, time continues from the last event of the log, to the millisecond."""
    last = host.wall + 3600
    now = SystemClock(after=last).now()
    assert int(now * 1000) >= int(last * 1000)
    assert now - last < 1.0
    assert SystemClock(after=host.wall - 3600).now() == pytest.approx(host.wall)


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
