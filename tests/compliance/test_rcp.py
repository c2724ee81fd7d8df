"""Convergence against the reference, with the official rcp_checker's own numbers."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from benchmark.benchmarks import benchmark_named, every_rules, find
from benchmark.convergence import Match, accepted_from, fastest_mean, find_record
from benchmark.rules import Rules
from compliance.check import find_logs, open_result
from compliance.convergence.olympic import olympic_mean
from compliance.convergence.rcp import Convergence, compare
from harness.__main__ import main
from harness.plan.time_to_target import Pace, outcome
from tests.launches import launch, llama31_405b, stop_after, stop_all_after
from tests.logs import LogFile
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
    """At every batch size the same record, with mean, deviation and t-test minimum equal to the last digit."""
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
    """What `plan` says of an outcome, at, between and below the reference points, is what `rcp` says of such runs."""
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
    assert "2 runs did not reach the target" in compared(result).fault


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
    ("one global batch size", _other_size),
    ("above global batch size 9216 (there are: 1152, 2304, 4608)", _too_large),
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


# The command.


def test_command_prints_both_limits(result: Path) -> None:
    """`rcp` says how the record was found, both limits and the factor, and exits 0 where both pass."""
    stop_all_after(result, 313344)
    done = CliRunner().invoke(main, ["rcp", str(result)])
    assert done.exit_code == 0
    for text in ("found: mean 313344.0", "PASS from 285344.1", "PASS from 239264.1", "x 1.0"):
        assert text in done.output


def test_command_fails_beyond_the_policys_limit(result: Path) -> None:
    """`rcp --json` has every field, and exits 1 where the policy's limit is broken."""
    stop_all_after(result, 276480)
    done = CliRunner().invoke(main, ["rcp", "--json", str(result)])
    (found,) = json.loads(done.output)["results"]
    assert (done.exit_code, found["passed"]) == (1, False)
    assert (found["policy"]["passed"], found["official"]["passed"]) == (False, True)
    assert found["samples"] == [276480] * 3
