"""Convergence against the reference, with the official rcp_checker's own numbers."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from benchmark.benchmarks import LLAMA31_405B, benchmark_named, every_rules, find
from benchmark.convergence import Match, accepted_from, fastest_mean, find_record
from benchmark.files import RUN_JSON
from benchmark.rules import Rules
from compliance.check import find_logs, open_result
from compliance.convergence.olympic import olympic_mean
from compliance.convergence.pool import pooled
from compliance.convergence.rcp import Convergence, compare
from compliance.convergence.reference import references
from compliance.result import Result
from harness.__main__ import main
from harness.plan.time_to_target import Pace, outcome
from tests.launches import launch, llama31_405b, stop_after, stop_all_after
from tests.logs import LogFile, llama31_8b, make_log
from tests.official import needs_official

OFFICIAL = [rules for rules in every_rules() if benchmark_named(rules.benchmark).submittable]


def name_of(rules: Rules) -> str:
    return f"{rules.benchmark}-{rules.ruleset}"


@pytest.fixture(scope="module", params=OFFICIAL, ids=name_of)
def official(request: pytest.FixtureRequest) -> tuple[Rules, Any]:
    """The rules of a round, and the official tool's checker for them."""
    from mlperf_logging.rcp_checker.rcp_checker import RCP_Checker

    rules: Rules = request.param
    needs_official(rules.ruleset)
    return rules, RCP_Checker("training", rules.ruleset, rules.benchmark, verbose=False)


def batch_sizes(rules: Rules) -> list[int]:
    """Every reference point, sizes between them, and sizes beyond both ends."""
    sizes = sorted(point.global_batch_size for point in rules.reference_points)
    step = max(1, sizes[-1] // 60)
    return sorted({*sizes, *range(sizes[0] // 2, sizes[-1] * 2, step)})


def official_record(checker: Any, size: int) -> tuple[Match, dict[str, Any] | None]:
    """What check_directory of the official tool finds at a batch size."""
    exact = checker._find_rcp(size, "pruned_rcps")
    low = checker._find_top_min_rcp(size, "pruned_rcps")
    high = checker._find_bottom_max_rcp(size, "pruned_rcps")
    if exact is not None:
        return Match.FOUND, exact
    if low is not None and high is not None:
        return Match.INTERPOLATED, checker._create_interp_rcp(size, low, high)[1]
    return (Match.MISSING, None) if high is None else (Match.BELOW, checker._find_min_rcp("pruned_rcps"))


def test_records_are_the_official_ones(official: tuple[Rules, Any]) -> None:
    """At every batch size mean, deviation and t-test minimum equal the official ones to the last digit."""
    rules, checker = official
    for size in batch_sizes(rules):
        match, theirs = official_record(checker, size)
        assert find_record(rules, size)[0] is match
        ours = find_record(rules, size)[1]
        if theirs is None:
            assert ours is None
            continue
        assert ours is not None
        here = (ours.global_batch_size, ours.mean, ours.deviation, fastest_mean(ours, rules.runs))
        assert here == tuple(theirs[key] for key in ("BS", "RCP Mean", "RCP Stdev", "Min Epochs")), size


def test_official_limit_and_factor_are_the_official_ones(official: tuple[Rules, Any]) -> None:
    """A mean at the official limit passes the official tool, the next double below fails, and factors are equal."""
    rules, checker = official
    for size in batch_sizes(rules)[::7]:
        record, theirs = find_record(rules, size)[1], official_record(checker, size)[1]
        if record is None or theirs is None:
            continue
        limit = accepted_from(record, rules.runs, rules.convergence_allowance_official)
        for mean in (limit, math.nextafter(limit, 0)):
            passed, factor = checker._eval_submission_record(theirs, [mean] * rules.runs, "")
            assert (bool(passed), factor) == (mean >= limit, max(1.0, record.mean / mean)), size


# A result against its record.


@pytest.fixture(scope="module")
def runs_of_405b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rehearsals of 405B at a batch size of 1152."""
    return launch(tmp_path_factory.mktemp("rcp") / "runs", llama31_405b())


@pytest.fixture
def result(runs_of_405b: Path, tmp_path: Path) -> Path:
    """A copy of them."""
    return Path(shutil.copytree(runs_of_405b, tmp_path / "runs"))


def compared(directory: Path, ruleset: str | None = None) -> Convergence:
    (group,) = find_logs([directory])
    return compare(open_result(group, ruleset))


def test_mean_is_olympic(result: Path) -> None:
    """The fastest and the slowest run do not count."""
    for index, samples in enumerate((400_000, 100, 300_000)):
        stop_after(result / f"result_{index}.txt", samples)
    found = compared(result)
    assert (found.samples, found.mean) == ((400_000, 100, 300_000), 300_000)


def test_result_at_the_mean_is_not_normalised(result: Path) -> None:
    """A result that needs as much as the reference passes both limits, and its score stays."""
    found = compared(result)
    assert found.record is not None
    stop_all_after(result, int(found.record.mean))
    found = compared(result)
    assert found.passed
    assert (found.match, found.factor) == (Match.FOUND, 1.0)


def test_allowance_is_the_policys_in_5_0_0_only(result: Path) -> None:
    """One evaluation earlier than the t-test allows passes both limits in 5.0.0, later only the official tool's."""
    for ruleset, by_policy in (("5.0.0", True), ("5.1.0", False), ("6.0.0", False)):
        record = find_record(find("llama31_405b", ruleset), 1152)[1]
        assert record is not None
        stop_all_after(result, int(fastest_mean(record, 3)) - 10_000)
        found = compared(result, ruleset)
        assert found.policy is not None
        assert found.official is not None
        assert (found.policy.passed, found.official.passed, found.passed) == (by_policy, True, by_policy)
        assert found.factor == record.mean / (int(fastest_mean(record, 3)) - 10_000)


def test_margin_is_in_samples(result: Path) -> None:
    """The margin is what the mean is above the limit."""
    found = compared(result)
    assert found.policy is not None
    assert found.mean is not None
    assert found.policy.margin == found.mean - found.policy.minimum


PACE = Pace(step=10.0, evaluation=30.0, start=60.0, spread=0.05)


@pytest.mark.parametrize("size", [896, 1152, 1536, 2304, 4608])
def test_the_planner_has_the_same_margin_and_factor(size: int, result: Path) -> None:
    """`plan` gives outcomes at, between and below the reference points the margin and factor that `rcp` gives."""
    rules = find("llama31_405b", "6.0.0")
    for log in map(LogFile, sorted(result.glob("result_*.txt"))):
        log.set("global_batch_size", size)
        log.save()
    for steps in (ceil(280_000 / size), ceil(400_000 / size), ceil(488_448 / size)):
        planned = outcome(rules, rules.schedule(size), PACE, steps)
        stop_all_after(result, planned.samples)
        found = compared(result, "6.0.0")
        assert found.policy is not None
        assert (planned.margin, planned.factor) == (found.policy.margin, found.factor)


def _miss(result: Path, index: int) -> None:
    log = LogFile(result / f"result_{index}.txt")
    log.set("eval_accuracy", log.get("target_accuracy")["value"] + 1, nth=-1)
    log.save()


def test_one_run_may_miss_the_target(result: Path) -> None:
    """One run that missed counts as the slowest; two leave nothing to compare."""
    _miss(result, 0)
    assert compared(result).samples[0] is None
    assert compared(result).mean is not None
    _miss(result, 1)
    assert "2 runs missed the target" in compared(result).fault


def _fewer(result: Path) -> None:
    (result / "result_2.txt").unlink()


def _other_size(result: Path) -> None:
    log = LogFile(result / "result_2.txt")
    log.set("global_batch_size", 2304)
    log.save()


def _too_large(result: Path) -> None:
    for index in range(3):
        log = LogFile(result / f"result_{index}.txt")
        log.set("global_batch_size", 9216)
        log.save()


def _unknown(result: Path) -> None:
    for index in range(3):
        log = LogFile(result / f"result_{index}.txt")
        log.set("submission_benchmark", "bert")
        log.save()


FAULTS: list[tuple[str, Callable[[Path], None]]] = [
    ("2 of the 3 runs", _fewer),
    ("the same global batch size", _other_size),
    ("above global batch size 9216 (existing ones: 1152, 2304, 4608)", _too_large),
    ("does not have this benchmark", _unknown),
]


@pytest.mark.parametrize(("fault", "break_it"), FAULTS, ids=[fault for fault, _ in FAULTS])
def test_what_cannot_be_compared_says_why(result: Path, fault: str, break_it: Callable[[Path], None]) -> None:
    """A result without a record has neither limit nor factor, and a reason."""
    break_it(result)
    found = compared(result)
    assert fault in found.fault
    assert (found.policy, found.factor, found.passed) == (None, 1.0, False)


@given(st.lists(st.one_of(st.none(), st.integers(1, 10**9)), max_size=12))
def test_olympic_mean_drops_the_extremes(values: list[int | None]) -> None:
    """The mean of all but one smallest and one largest, where a missing value is the largest."""
    mean, present = olympic_mean(values), sorted(value for value in values if value is not None)
    kept = present[1:-1] if len(present) == len(values) else present[1:]
    complete = len(values) > 2 and len(values) - len(present) <= 1
    assert mean == (sum(kept) / len(kept) if complete else None)


# Launches of one system are one result.


@pytest.fixture(scope="module")
def launches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two launches of one system, whose runs need what those of the reference needed."""
    folder = tmp_path_factory.mktemp("launches")
    needed = iter(LLAMA31_405B.rules[-1].reference_points[0].samples)
    for hour in range(2):
        launch(folder / f"{hour}", llama31_405b(), seeds=range(3 * hour, 3 * hour + 3), hours=hour)
        for log in sorted((folder / f"{hour}").glob("result_*.txt")):
            stop_after(log, next(needed))
    return folder


@pytest.fixture
def two(launches: Path, tmp_path: Path) -> Path:
    """A copy of them."""
    return Path(shutil.copytree(launches, tmp_path / "launches"))


def opened(*folders: Path) -> list[Result]:
    return [open_result(group) for group in find_logs(folders)]


def test_launches_of_a_system_are_judged_as_one_folder(two: Path, tmp_path: Path) -> None:
    """Launches of one system, named apart, together or twice, are compared as if all logs lay in one folder."""
    (found,) = map(compare, pooled(opened(two / "0", two / "1", two, two / "1" / "result_1.txt")))
    for number, log in enumerate(sorted(two.glob("*/result_*.txt"))):
        (tmp_path / "one").mkdir(exist_ok=True)
        shutil.copy(log, tmp_path / "one" / f"result_{number}.txt")
    alone = compared(tmp_path / "one", "6.0.0")
    assert found == replace(alone, directory=str(two), logs=found.logs, ruleset_from=found.ruleset_from)
    assert found.logs == tuple(str(two / f"{hour}" / f"result_{run}.txt") for hour in range(2) for run in range(3))
    text = CliRunner().invoke(main, ["rcp", str(two)]).output
    assert f"6 runs of 2 launches of one system\n            3 of {two / '0'}\n            3 of {two / '1'}" in text


def _of_another_system(two: Path) -> None:
    file = two / "1" / RUN_JSON
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"system": "OTHER"}), encoding="utf-8")


def _of_another_size(two: Path) -> None:
    for file in (two / "1").glob("result_*.txt"):
        log = LogFile(file)
        log.set("global_batch_size", 2304)
        log.save()


def _of_no_system(two: Path) -> None:
    (two / "1" / RUN_JSON).unlink()


def _of_two_submitters(two: Path) -> None:
    for name in ("0", "1"):
        folder = two / name / "results" / "A" / "llama31_405b"
        folder.mkdir(parents=True)
        for log in (two / name).glob("result_*.txt"):
            log.rename(folder / log.name)


@pytest.mark.parametrize("part", [_of_another_system, _of_another_size, _of_no_system, _of_two_submitters])
def test_launches_that_differ_are_judged_apart(two: Path, part: Callable[[Path], None]) -> None:
    """Launches of another system or batch size, or of an unnamed system, are results of their own."""
    part(two)
    assert [len(result.runs) for result in pooled(opened(two))] == [3, 3]


# References made of runs.


def test_official_checker_reads_what_is_written(two: Path, tmp_path: Path) -> None:
    """`rcp --write` makes a file from which the official checker takes our numbers, here those of its own reference."""
    from mlperf_logging.rcp_checker import rcp_checker

    file = tmp_path / "rcp.json"
    done = CliRunner().invoke(main, ["rcp", "--write", str(file), str(two)])
    assert (done.exit_code, done.output.splitlines()[-1]) == (1, f"written to {file}")
    with file.open(encoding="utf-8") as stream:
        read = rcp_checker.RCP_Checker("training", "6.0.0", "llama31_405b", False, stream).rcp_data
    theirs = rcp_checker.RCP_Checker("training", "6.0.0", "llama31_405b", False).rcp_data
    (ours,) = references(opened(two))
    assert read == {ours.name: theirs[ours.name]}
    assert read[ours.name]["Hyperparams"] == theirs[ours.name]["Hyperparams"]
    assert (ours.record.mean, ours.record.deviation) == (read[ours.name]["RCP Mean"], read[ours.name]["RCP Stdev"])
    assert ours.accepted_from == pytest.approx(read[ours.name]["Min Epochs"], abs=1e-4)
    arguments = rcp_checker.get_parser().parse_args(["--custom_rcps", str(file), str(two / "0")])
    with arguments.custom_rcps as stream:
        said = rcp_checker.check_directory(arguments.dir, "training", "6.0.0", False, False, stream, arguments.rcp_pass)
    assert said == (True, "RCP found", 1.0)


def test_reference_says_what_it_is_made_of(two: Path) -> None:
    """A point names creator, platform, precision and days of its runs, and what it lacks of a full reference."""
    (point,) = references(opened(two / "0"))
    told = {name: point.fields[name] for name in ("Creator", "Platform", "Precision", "When")}
    when = "Ruleset 6.0.0, 2023-11-14 to 2023-11-15"
    assert told == {"Creator": "Example", "Platform": "1xTEST", "Precision": "BF16", "When": when}
    assert point.lacks == (
        "3 runs; the policy asks for 6, twice those of a result",
        "logs say that their runs do not count: simulated",
        f"2 of 3 logs break a rule; `llama31 check {two / '0' / 'result_0.txt'}` says which",
    )


def test_free_warmup_is_in_samples(tmp_path: Path) -> None:
    """If the submitter chooses the warm-up, a point gives it in samples, as the official files do."""
    for seed in range(3):
        (folder := tmp_path / str(seed)).mkdir()
        config = llama31_8b(SEED=seed, RULESET="6.0.0", WARMUP_STEPS=16)
        make_log(folder / "result_0.txt", config, [3.25 + seed / 100], initial_loss=12.5 + seed / 10)
    (point,) = references(opened(tmp_path))
    assert point.fields["Hyperparams"] == {
        "opt_base_learning_rate": 0.002,
        "gradient_accumulation_steps": 16,
        "opt_learning_rate_warmup_samples": 2048,
    }


def _misses(two: Path) -> None:
    _miss(two / "0", 1)


def _differs(two: Path) -> None:
    log = LogFile(two / "0" / "result_1.txt")
    log.set("opt_base_learning_rate", 1e-4)
    log.save()


def _shares_a_seed(two: Path) -> None:
    log = LogFile(two / "0" / "result_1.txt")
    log.set("seed", LogFile(two / "1" / "result_1.txt").get("seed")["value"])
    log.save()


def _is_alone(two: Path) -> None:
    for file in (two / "1").glob("result_[12].txt"):
        file.unlink()
    _of_another_size(two)


def _is_of_another_benchmark(two: Path) -> None:
    log = LogFile(two / "0" / "result_1.txt")
    log.set("submission_benchmark", "llama31_8b")
    log.save()


NO_REFERENCE: list[tuple[str, Callable[[Path], None]]] = [
    ("result_1.txt: the run did not reach the target", _misses),
    ("batch size 1152: the runs differ in opt_base_learning_rate: 8e-05 in ", _differs),
    ("batch size 1152: runs share a seed: seed 4 in ", _shares_a_seed),
    ("batch size 2304: 1 run;", _is_alone),
    ("runs of several benchmarks or rulesets (llama31_405b 6.0.0, llama31_8b 6.0.0)", _is_of_another_benchmark),
]


@pytest.mark.parametrize(("fault", "break_it"), NO_REFERENCE, ids=[fault for fault, _ in NO_REFERENCE])
def test_what_makes_no_reference_is_refused(
    two: Path, tmp_path: Path, fault: str, break_it: Callable[[Path], None]
) -> None:
    """Runs that cannot make a reference leave no file, and a reason for each."""
    break_it(two)
    done = CliRunner().invoke(main, ["rcp", "--write", str(tmp_path / "rcp.json"), str(two)])
    assert (done.exit_code, fault in done.output) == (2, True), done.output
    assert not (tmp_path / "rcp.json").exists()


# The command.


def test_command_prints_both_limits(result: Path) -> None:
    """`rcp` says how the record was found, both limits and the factor, and exits 0 where both pass."""
    stop_all_after(result, 313344)
    done = CliRunner().invoke(main, ["rcp", str(result)])
    assert done.exit_code == 0
    for text in (
        "found: mean 313344.0",
        "PASS: 27999.9 samples above the smallest accepted mean, 285344.1",
        "the smallest accepted mean, 239264.1",
        "x 1.0",
    ):
        assert text in done.output


def test_command_fails_beyond_the_policys_limit(result: Path) -> None:
    """`rcp --json` has every field, and exits 1 where the policy's limit is broken."""
    stop_all_after(result, 276480)
    done = CliRunner().invoke(main, ["rcp", "--json", str(result)])
    (found,) = json.loads(done.output)["results"]
    assert (done.exit_code, found["passed"]) == (1, False)
    assert (found["policy"]["passed"], found["official"]["passed"]) == (False, True)
    assert found["samples"] == [276480] * 3
