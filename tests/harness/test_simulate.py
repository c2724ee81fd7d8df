"""Rehearsals: how long they take, what they log, and that the official checkers accept it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmark.benchmarks import every_rules, find
from benchmark.checkout import ROOT
from benchmark.config import RunConfig, resolve
from benchmark.convergence import mean_samples
from benchmark.loop import StepStats
from benchmark.rules import Rules
from benchmark.stragglers import SlowRank
from compliance.check import check_paths
from harness.__main__ import main
from harness.plan.calibration import load
from harness.plan.planner import plan
from harness.simulate import MARK, LossCurve, SimulatedPace, VirtualClock, simulate
from tests.fakes import EPOCH, configured, read_events

ROWS = [pytest.param(rules, id=f"{rules.benchmark}-{rules.ruleset}") for rules in every_rules()]
LARGE = ROOT / "configs" / "config_GB200_2560x4x8xtp4pp8cp2.sh"

# The evaluations of a published v5.1 run of 405B (512 GB200, run 0): sequences, log perplexity.
PUBLISHED = ((276480, 5.7412), (294912, 5.6824), (313344, 5.6311), (331776, 5.5867))


def run_of(rules: Rules, **overrides: str | int) -> RunConfig:
    """A run at the largest reference point of `rules`, where it is shortest, or at a batch size of 16."""
    points = rules.reference_points
    variables: dict[str, str | int] = {
        "BENCHMARK": rules.benchmark,
        "RULESET": rules.ruleset,
        "DGXNGPU": 1,
        "MINIBS": points[-1].global_batch_size if points else 16,
        "SEED": 1,
        "CONFIG_FILENAME": "config_TEST.sh",
    }
    return configured(**(variables | overrides))


def rehearsed(path: Path, config: RunConfig, pace: SimulatedPace | None = None) -> Path:
    simulate(config.changed(RESULT_FILE=path), VirtualClock(EPOCH), pace or SimulatedPace())
    return path


# The verdicts.


@pytest.mark.parametrize("rules", ROWS)
def test_rehearsal_breaks_no_rule(tmp_path: Path, rules: Rules) -> None:
    """A rehearsal of any benchmark under any ruleset is a run without a finding."""
    log = rehearsed(tmp_path / "result_0.txt", run_of(rules))
    assert check_paths([log], rules.ruleset).findings == ()


def test_a_log_that_names_slow_ranks_breaks_no_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report of slow ranks is an additional event, which every rule accepts."""
    slow = SlowRank(rank=3, node="n2", ratio=1.25)
    monkeypatch.setattr("harness.simulate.StepStats", partial(StepStats, slowest=(slow,)))
    log = rehearsed(tmp_path / "result_0.txt", run_of(find("llama31_405b")))
    assert "slowest_ranks" in log.read_text()
    assert check_paths([log], None).findings == ()


# What is in the log.


def test_rehearsal_says_that_it_is_one(tmp_path: Path) -> None:
    """The mark is in the log before the run starts."""
    events = read_events(rehearsed(tmp_path / "log", run_of(find("llama31_405b"))))
    keys = [event.key for event in events]
    marked = [index for index, event in enumerate(events) if event.value == MARK]
    assert len(marked) == 1
    assert marked[0] < keys.index("run_start")


def test_one_seed_gives_one_run_and_another_gives_another(tmp_path: Path) -> None:
    """The same seed gives the same log; another seed gives other evaluations and losses."""
    rules = find("llama31_405b")
    first, again, other = (
        rehearsed(tmp_path / name, run_of(rules, SEED=seed)).read_text(encoding="utf-8")
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert first == again
    measured = [
        {line.split('"value"')[1].split('"metadata"')[0] for line in text.splitlines() if f'"{key}"' in line}
        for key in ("eval_accuracy", "tracked_stats")
        for text in (first, other)
    ]
    assert not measured[0] & measured[1]
    assert len(measured[2] & measured[3]) == 1, "only the mark is in both"


@pytest.mark.parametrize("seed", range(5))
def test_rehearsal_ends_about_where_the_reference_did(tmp_path: Path, seed: int) -> None:
    """The target is reached within an evaluation interval of the reference's mean."""
    config = run_of(find("llama31_405b"), SEED=seed)
    stop = next(e for e in read_events(rehearsed(tmp_path / "log", config)) if e.key == "run_stop")
    interval = config.schedule.eval_interval_steps * config.layout.global_batch_size
    mean = config.rules.reference_points[-1].mean
    assert abs(stop.metadata["samples_count"] - mean) <= interval
    assert stop.metadata["status"] == "success"


def test_time_is_what_the_pace_says(tmp_path: Path) -> None:
    """Initialisation, steps and evaluations take the seconds that they were given, on the log's clock."""
    pace = SimulatedPace(init=60, open_data=5, step=2, evaluation=7)
    events = read_events(rehearsed(tmp_path / "log", run_of(find("llama31_tiny")), pace))
    at = {
        key: next(e.time_ms for e in events if e.key == key) / 1000 for key in ("init_start", "run_start", "run_stop")
    }
    steps = sum("reduced_train_loss" in e.value for e in events if e.key == "tracked_stats")
    evaluations = sum(e.key == "eval_accuracy" for e in events)
    assert at["run_start"] - at["init_start"] == pytest.approx(60, abs=0.01)
    expected = 5 + 2 * steps + 7 * evaluations
    assert at["run_stop"] - at["run_start"] == pytest.approx(expected, rel=0.01)


# The curve.


def test_curve_goes_from_the_initial_loss_through_the_target() -> None:
    """It starts at the initial loss and meets the target at the crossing."""
    curve = LossCurve(initial=7.75, target=5.6, crossing=300_000)
    assert curve.at(0) == pytest.approx(7.75)
    assert curve.at(300_000) == pytest.approx(5.6)


def test_curve_is_like_a_published_one() -> None:
    """Around the target the curve is within 0.02 of a published run's evaluations."""
    curve = LossCurve(initial=7.75, target=5.6, crossing=326_000)
    assert [curve.at(samples) for samples, _ in PUBLISHED] == pytest.approx([value for _, value in PUBLISHED], abs=0.02)


def test_reference_is_interpolated_between_its_points() -> None:
    """At a reference point its mean is taken, halfway between two their average, below the smallest the smallest's."""
    rules = find("llama31_405b")
    first, second = rules.reference_points[:2]
    sizes = (
        first.global_batch_size // 2,
        first.global_batch_size,
        (first.global_batch_size + second.global_batch_size) // 2,
    )
    expected = [first.mean, first.mean, (first.mean + second.mean) / 2]
    assert [mean_samples(rules, size) for size in sizes] == expected


def test_reference_is_extended_beyond_its_points() -> None:
    """Above the largest reference point the line through the last two continues."""
    rules = find("llama31_405b")
    before, last = rules.reference_points[-2:]
    size = 2 * last.global_batch_size - before.global_batch_size
    assert mean_samples(rules, size) == 2 * last.mean - before.mean


# The command.


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["simulate", *(str(argument) for argument in arguments)])


def test_command_writes_a_set_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NEXP rehearsals with their own seeds and one run.json are in a folder of rehearsals, not in LOGDIR."""
    monkeypatch.setenv("NEXP", "2")
    monkeypatch.setenv("LOGDIR", str(tmp_path / "logs"))
    monkeypatch.setattr("harness.simulate.SIMULATED", tmp_path / "simulated")
    assert run(LARGE).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["simulated"]
    (folder,) = (tmp_path / "simulated" / LARGE.stem.removeprefix("config_")).iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "result_0.txt", "result_1.txt", "run.json"]
    seeds = {e.value for path in folder.glob("result_*.txt") for e in read_events(path) if e.key == "seed"}
    assert len(seeds) == 2


def test_a_rehearsal_takes_what_the_plan_says(tmp_path: Path) -> None:
    """It takes the planned minutes for the same samples."""
    made = plan(resolve(LARGE).config, load())
    minutes = {one.samples: one.minutes for one in (made.without_graph or made).outcomes}
    done = run(LARGE, "--out", tmp_path / "logs")
    assert done.stdout.startswith("SIMULATED, nothing is trained: ")
    events = {event.key: event for event in read_events(tmp_path / "logs" / "result_0.txt")}
    taken = (events["run_stop"].time_ms - events["run_start"].time_ms) / 60_000
    assert taken == pytest.approx(minutes[events["run_stop"].metadata["samples_count"]], rel=0.01)


def test_a_step_that_nobody_plans_is_said(tmp_path: Path) -> None:
    """A system whose GPU is unknown takes 10 seconds a step, or what is given, and says so."""
    tiny = ROOT / "config_tiny.sh"
    said = "nothing is trained: 10 s a step, assumed: the planner knows no GPU in the name tiny\n"
    assert said in run(tiny, "--out", tmp_path / "a").stdout
    assert "nothing is trained: 3 s a step\n" in run(tiny, "--out", tmp_path / "b", "--step-seconds", "3").stdout


def test_every_screen_and_page_says_that_it_is_simulated(tmp_path: Path) -> None:
    """Whoever sees a rehearsal is told that it is one."""
    folder = tmp_path / "logs"
    assert run(LARGE, "--out", folder).stdout.endswith("verdict   PASS, SIMULATED\n")
    for arguments in (
        *(("check",), ("check", "--summary"), ("check", "--all"), ("score",), ("rcp",)),
        *(("report",), ("report", "--md"), ("report", "--csv")),
    ):
        assert "SIMULATED" in CliRunner().invoke(main, [*arguments, str(folder)]).stdout, arguments
    assert "SIMULATED" in CliRunner().invoke(main, ["watch", "--once", str(folder / "result_0.txt")]).stdout
    document = json.loads(CliRunner().invoke(main, ["score", "--json", str(folder)]).stdout)
    assert document["results"][0]["marks"] == ["simulated"]


def test_command_fails_with_a_run_that_does_not_reach_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rehearsal that MAX_STEPS ends before the target exits 1."""
    monkeypatch.setenv("MAX_STEPS", "240")
    assert run(LARGE, "--out", tmp_path / "logs").exit_code == 1


def test_command_overwrites_nothing(tmp_path: Path) -> None:
    """A folder that holds something is refused."""
    (tmp_path / "result_0.txt").touch()
    result = run(LARGE, "--out", tmp_path)
    assert result.exit_code == 2
    assert "is not empty" in result.stderr
