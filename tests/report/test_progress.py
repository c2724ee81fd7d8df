"""The display: a log that grows is read event by event, and a line says where the run is."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.benchmarks import find
from benchmark.convergence import mean_samples
from benchmark.eventlog import EventLog
from benchmark.mllog import Event
from report.progress import LogFollower, PlainDisplay, Progress, advance, expected_samples, line
from tests.fakes import FakeClock, configured, read_events


def log_of_a_run(path: Path) -> None:
    """A short log: two steps, one evaluation, success."""
    log = EventLog(path, FakeClock(tick=1.0))
    log.start("init_start")
    log.start("run_start")
    log.start("block_start", samples_count=0)
    for step in (1, 2):
        value = {"train_step_time": 2.0, "reduced_train_loss": 7.0 - step}
        log.event("tracked_stats", value, step=step, samples_count=step * 1152)
    log.event("eval_accuracy", 5.5, samples_count=2304)
    log.end("run_stop", status="success")


def test_progress_is_what_the_log_says(tmp_path: Path) -> None:
    """Steps, loss, evaluation, status and minutes come from the events."""
    path = tmp_path / "result_0.txt"
    log_of_a_run(path)
    progress = Progress()
    for event in read_events(path):
        progress = advance(progress, event)

    assert (progress.step, progress.samples, progress.loss, progress.log_perplexity) == (2, 2304, 5.0, 5.5)
    assert (progress.phase, progress.status) == ("done", "success")
    assert progress.minutes == pytest.approx(5 / 60)


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ([], ""),
        ([1.05, 1.0], ""),
        ([1.31, 1.05], "slow: rank 7 on n2, 31% over the median"),
        ([1.5, 1.2, 1.2, 1.0], "slow: rank 7 on n2, 50% over the median, 2 more"),
    ],
)
def test_a_rank_far_slower_than_others_is_named(ratios: list[float], said: str, tmp_path: Path) -> None:
    """From a tenth on, the line names the slowest rank and its node, until the run is over."""
    log = EventLog(tmp_path / "result_0.txt", FakeClock())
    slowest = [{"rank": 7 - index, "node": "n2", "ratio": ratio} for index, ratio in enumerate(ratios)]
    log.event("tracked_stats", {"slowest_ranks": slowest}, step=1, samples_count=1152)
    (event,) = read_events(tmp_path / "result_0.txt")
    progress = advance(Progress(), event)

    assert progress.slow == said
    assert line(configured(), progress).endswith(said or "sequences")


def test_a_follower_yields_each_complete_line_once(tmp_path: Path) -> None:
    """Half a line is left for the next look; noise between events is passed over."""
    whole = tmp_path / "whole.txt"
    log_of_a_run(whole)
    content = b"noise\n" + whole.read_bytes()
    growing = tmp_path / "growing.txt"
    follower = LogFollower(growing)
    assert list(follower.poll()) == []

    seen = []
    for end in range(0, len(content) + 1, 97):
        growing.write_bytes(content[:end])
        seen += list(follower.poll())
    growing.write_bytes(content)
    seen += list(follower.poll())
    assert seen == read_events(whole)


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
def test_an_event_that_is_not_ours_ends_no_run(key: str, value: object) -> None:
    """The display watches a run that has cost hours: what it cannot read, it passes over."""
    before = Progress(step=7, log_perplexity=6.0)
    assert advance(before, Event(key, value, "POINT_IN_TIME", 1, "", {})) == before


def test_the_expected_end_is_the_first_evaluation_past_the_references_mean() -> None:
    """At GBS 1152 the reference's mean is 313,344 sequences, which is an evaluation; past it, the next one."""
    config = configured()

    assert expected_samples(config, 0) == 313_344
    assert expected_samples(config, 313_345) == 331_776


def test_a_line_holds_what_people_ask_for() -> None:
    """Step, sequences of those expected, loss, log perplexity and target, speed, time left."""
    progress = Progress(phase="training", step=100, samples=115_200, loss=6.5, log_perplexity=6.25, step_time=10.0)

    assert line(configured(), progress) == (
        "training      step  100  115,200/~313,344 sequences  loss 6.500  log perplexity 6.250 (target 5.6)  "
        "943,718 tokens/s  ETA 28:40"
    )


def test_plain_lines_come_every_ten_seconds_and_at_evaluations(capsys: pytest.CaptureFixture[str]) -> None:
    """A file that collects the output gets some lines, not one a step."""
    config, shown = configured(), PlainDisplay()
    for second in range(25):
        shown.update(config, Progress(phase="training", step=second), second)
    shown.update(config, Progress(phase="evaluating", step=25, log_perplexity=6.0), 24.5)

    lines = capsys.readouterr().out.splitlines()
    assert [text.split()[2] for text in lines] == ["0", "10", "20", "25"]
    assert "log perplexity 6.000" in lines[-1]


def test_between_the_references_batch_sizes_the_end_is_interpolated() -> None:
    """At GBS 80, between 64 and 96, it is the first evaluation past the line between their means."""
    rules = find("llama31_8b")
    config = configured(BENCHMARK="llama31_8b", MINIBS=10, LEARNING_RATE="1e-3", WARMUP_STEPS=10)
    interval = rules.eval_interval_steps(80) * 80
    smaller, larger = mean_samples(rules, 64), mean_samples(rules, 96)
    assert smaller is not None
    assert larger is not None

    assert 0 <= expected_samples(config, 0) - (smaller + larger) / 2 < interval


def test_a_follower_reads_a_log_again_that_was_cut_back(tmp_path: Path) -> None:
    """A run that goes on from a checkpoint rewrites the end of its log; half a line is never taken for one."""
    path = tmp_path / "result_0.txt"
    log_of_a_run(path)
    follower, lines = LogFollower(path), path.read_bytes().splitlines(keepends=True)
    list(follower.poll())
    path.write_bytes(b"".join(lines[:5]))
    assert list(follower.poll()) == read_events(path)


def test_a_run_that_goes_on_is_not_done(tmp_path: Path) -> None:
    """The end that an interrupted process had logged is forgotten when the next one goes on."""
    path = tmp_path / "result_0.txt"
    log = EventLog(path, FakeClock())
    log.end("run_stop", status="aborted", reason="Interrupted: SIGTERM")
    log.event("tracked_stats", {"resumed": True, "recomputed_steps": 1, "outage": 2.0}, step=1, samples_count=1152)
    progress = Progress()
    for event in read_events(path):
        progress = advance(progress, event)
    assert (progress.phase, progress.status, progress.reason, progress.stopped_ms) == ("resuming", "", "", None)
