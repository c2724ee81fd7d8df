"""The runs of one result together, the score, and finding logs in a tree."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable
from itertools import repeat
from pathlib import Path

import pytest
from mlperf_logging.package_checker.seed_checker import SeedChecker

from compliance.check import NoLogsError, check_paths, find_logs, open_result
from compliance.convergence.score import Score, score
from compliance.findings import Finding, Severity
from compliance.result import RESULT_RULES
from tests.logs import LogFile, make_log, reaching, tiny

RUNS = 3
assert tiny().rules.runs == RUNS


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A directory of as many valid runs as make a result, of different lengths."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    for run in range(RUNS):
        config = tiny(SEED=run)
        values = [value - 0.001 * run for value in reaching(config, evaluations=run + 2)]
        values[:-1] = [value + 0.01 for value in values[:-1]]
        make_log(folder / f"result_{run}.txt", config, values)
    for run in range(RUNS):
        _shift_losses(LogFile(folder / f"result_{run}.txt"), 0.01 * run)
    return folder


def _shift_losses(log: LogFile, by: float) -> None:
    for index in log.indices("tracked_stats"):
        log.events[index]["value"]["reduced_train_loss"] -= by
    log.save()


def found(result: Path) -> list[tuple[str, Severity]]:
    return [(finding.rule, finding.severity) for finding in check_paths([result]).findings]


def edit(log: Path, key: str, value: object) -> None:
    changed = LogFile(log)
    changed.set(key, value)
    changed.save()


def edit_last(log: Path, key: str, value: object) -> None:
    changed = LogFile(log)
    changed.set(key, value, nth=-1)
    changed.save()


def test_valid_result_has_no_finding(result: Path) -> None:
    """Three runs of one configuration with their own seeds break no rule."""
    report = check_paths([result])
    assert (report.findings, len(report.logs), report.passed) == ((), RUNS, True)


def _same_seed(result: Path) -> None:
    edit(result / "result_1.txt", "seed", 0)


def _same_log(result: Path) -> None:
    shutil.copy(result / "result_0.txt", result / "result_1.txt")
    edit(result / "result_1.txt", "seed", 77)


def _same_losses(result: Path) -> None:
    _same_log(result)
    log = LogFile(result / "result_1.txt")
    log.get("eval_accuracy")["value"] += 0.001
    log.save()


def _other_parallelism(result: Path) -> None:
    edit(result / "result_2.txt", "tensor_parallelism", 2)


def _other_end_of_a_long_name(result: Path) -> None:
    """Names that are too long to be shown in full, and differ where nothing of them is shown."""
    for run in range(RUNS):
        edit(result / f"result_{run}.txt", "submission_platform", "x" * 100 + "AB"[run == 2] + "x" * 100)


def _a_folder_for_a_log(result: Path) -> None:
    (result / "result_9.txt").mkdir()


BREAKS: list[tuple[str, Callable[[Path], None]]] = [
    ("result.seeds", _same_seed),
    ("result.distinct", _same_log),
    ("result.distinct", _same_losses),
    ("result.same_configuration", _other_parallelism),
    ("result.same_configuration", _other_end_of_a_long_name),
    ("result.layout", _a_folder_for_a_log),
]


@pytest.mark.parametrize(("rule", "break_it"), BREAKS)
def test_rule_finds_what_breaks_it(result: Path, rule: str, break_it: Callable[[Path], None]) -> None:
    """A result that is valid but for one thing has exactly that thing's finding."""
    break_it(result)
    assert found(result) == [(rule, Severity.ERROR)]


def test_run_that_was_aborted_may_be_the_one_that_misses(result: Path) -> None:
    """A run that gave up, or that failed on its way, is the one run without the target; its log breaks no rule."""
    config = tiny(SEED=1)
    short = config.changed(MAX_STEPS=2 * config.schedule.first_eval_step)
    for curve in (repeat(9.0), iter([9.0, math.nan]), iter([9.0])):
        log = result / "result_1.txt"
        log.unlink()
        with contextlib.suppress(StopIteration):
            make_log(log, short, curve, initial_loss=sum(config.benchmark_row.initial_train_loss) / 2 - 0.1)
        assert LogFile(log).get("run_stop")["metadata"]["status"] == "aborted"
        assert found(result) == [("result.converged", Severity.WARNING)]


def test_two_runs_that_missed_make_no_result(result: Path) -> None:
    """Each of them is an ERROR of its log, and together they are one of the result."""
    for index in (0, 2):
        edit_last(result / f"result_{index}.txt", "eval_accuracy", 9.0)
    assert found(result) == [("eval.target", Severity.ERROR)] * 2 + [("result.converged", Severity.ERROR)]


def test_too_few_runs_is_information(valid: Callable[[str], LogFile]) -> None:
    """A single run of a benchmark that can be submitted passes, and says how many runs make a result."""
    report = check_paths([valid("405b").path.parent])
    assert [(finding.rule, finding.severity) for finding in report.findings] == [("result.count", Severity.INFO)]
    assert report.passed


# The last three in test_official_trees.py, beside the official tools.
TESTED_OTHERWISE = {"result.count", "result.converged", "result.convergence", "power.files", "power.readings"}


def test_every_rule_has_a_result_that_breaks_it() -> None:
    """No rule over results is without a test of what it finds."""
    assert {rule for rule, _ in BREAKS} | TESTED_OTHERWISE == set(RESULT_RULES.rules)


# Seeds of run 2 with the lines that log them, and whether ours and the official seed_checker accept them.
SEVERAL_SEEDS = [
    ([(2, 10), (77, 20)], True, True),
    ([(2, 10), (77, 10)], True, True),
    ([(2, 10), (2, 20)], True, True),
    ([(2, 10), (2, 10)], False, False),
    ([(2, 10), ("1", 20)], False, False),
    # The words of the policy forbid the same line alone.
    ([(2, 10), (1, 30)], False, True),
]


@pytest.mark.parametrize(("seeds", "ours", "official"), SEVERAL_SEEDS)
def test_every_seed_of_every_run_is_compared(
    result: Path, seeds: list[tuple[object, int]], ours: bool, official: bool
) -> None:
    """Each seed of a run is another than all of other runs, and none is logged again in the same line."""
    logs = sorted(result.glob("*.txt"))
    of_runs: list[list[tuple[object, int]]] = [[(0, 20)], [(1, 20)], seeds]
    for path, places in zip(logs, of_runs, strict=True):
        log = LogFile(path)
        event = log.get("seed")
        index = log.indices("seed")[0]
        log.events[index : index + 1] = [
            event | {"value": value, "metadata": {"file": "a.py", "lineno": lineno}} for value, lineno in places
        ]
        log.save()
    assert (check_paths([result]).passed, SeedChecker("6.0.0").check_seeds(logs)) == (ours, official)


# Finding logs.


def test_one_log_is_not_judged_as_a_result(result: Path) -> None:
    """A file that is asked for by name is checked by itself."""
    report = check_paths([result / "result_0.txt"])
    assert (report.findings, report.logs) == ((), (str(result / "result_0.txt"),))


def test_tree_is_searched_in_a_fixed_order(tmp_path: Path) -> None:
    """Every result_*.txt of a tree is found, by directory, then by number."""
    names = ["b/result_10.txt", "b/result_2.txt", "a/x/result_0.txt", "a/result_0.txt"]
    for name in [*names, "a/run.log", "a/result_0.txt.bak"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    groups = find_logs([tmp_path])
    assert [str(path.relative_to(tmp_path)) for group in groups for path in group.paths] == [
        "a/result_0.txt",
        "a/x/result_0.txt",
        "b/result_2.txt",
        "b/result_10.txt",
    ]


def test_loop_of_links_ends(result: Path) -> None:
    """A link to a directory above is not followed."""
    (result / "again").symlink_to(result.parent, target_is_directory=True)
    assert len(check_paths([result]).logs) == RUNS


def test_log_given_twice_is_checked_once(result: Path) -> None:
    """Paths that overlap do not double findings."""
    assert len(check_paths([result, result]).logs) == RUNS


@pytest.mark.parametrize("deeper", ["results/A/llama31_tiny/run_0", "results/A", "results"])
@pytest.mark.parametrize("asked", [".", "results"])
def test_logs_where_no_checker_looks_are_an_error(result: Path, tmp_path: Path, deeper: str, asked: str) -> None:
    """Logs of a submission's tree anywhere but in results/<system>/<benchmark>/ fail, whatever part is asked for."""
    tree = tmp_path / "tree"
    (tree / "systems").mkdir(parents=True)
    (tree / deeper).parent.mkdir(parents=True, exist_ok=True)
    result.rename(tree / deeper)
    report = check_paths([tree / asked])
    assert "result.layout" in _errors(report.findings)
    assert len(report.logs) == RUNS
    assert "system checks: 1 folder of logs not in results/<system>/<benchmark>/" in report.not_run


def test_what_did_not_run_is_said(result: Path, tmp_path: Path) -> None:
    """For a folder of runs, one log, or a part of a tree, the output names the checks that did not run."""
    assert check_paths([result]).not_run == (
        "system and package checks: 1 folder of logs outside the tree of a submission, which `package` makes",
    )
    assert len(check_paths([result / "result_0.txt", result / "result_1.txt"]).not_run) == 1
    (tmp_path / "systems").mkdir()
    (tmp_path / "results/A").mkdir(parents=True)
    part = result.rename(tmp_path / "results/A/llama31_tiny")
    assert check_paths([part]).not_run == (f"package checks: only a part of {tmp_path} was asked for",)
    assert check_paths([tmp_path]).not_run == ()


def test_a_tree_without_logs_fails_beside_one_with_logs(result: Path, tmp_path: Path) -> None:
    """A submission of which nothing was found is an ERROR of its own, not passed over."""
    for folder in ("systems", "results"):
        (tmp_path / "other" / folder).mkdir(parents=True)
    (finding,) = check_paths([tmp_path]).findings
    assert (finding.rule, finding.file) == ("package.empty", str(tmp_path / "other"))


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_nothing_to_check_is_refused(tmp_path: Path, name: str) -> None:
    """A path that does not exist, or holds no log, is an error of the caller."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoLogsError, match=name):
        check_paths([tmp_path / name])


def _errors(findings: tuple[Finding, ...]) -> set[str]:
    return {finding.rule for finding in findings if finding.severity is Severity.ERROR}


# Scores.


def scored(path: Path) -> Score:
    (group,) = find_logs([path])
    return score(open_result(group))


def test_score_drops_the_fastest_and_the_slowest(result: Path) -> None:
    """With as many runs as the rules ask for, the score is the mean of all but the extremes."""
    times = scored(result)
    fastest, middle, slowest = (time for time in times.minutes if time is not None)
    assert fastest < middle < slowest
    assert times.olympic_minutes == middle


def test_one_run_that_missed_counts_as_the_slowest(result: Path) -> None:
    """One run without a result is dropped as the slowest; two leave no score."""
    for name, olympic in (("result_0.txt", True), ("result_1.txt", False)):
        log = LogFile(result / name)
        log.set("eval_accuracy", log.get("target_accuracy")["value"] + 1, nth=-1)
        log.save()
        times = scored(result)
        assert None in times.minutes
        assert (times.olympic_minutes is not None) == olympic


def test_too_few_runs_have_no_score(result: Path) -> None:
    """With fewer runs than the rules ask for there are only the times."""
    (result / "result_2.txt").unlink()
    assert scored(result).olympic_minutes is None


def test_time_is_from_run_start_to_run_stop(result: Path) -> None:
    """Minutes count from run_start to run_stop, without initialisation."""
    log = LogFile(result / "result_0.txt")
    elapsed = log.get("run_stop")["time_ms"] - log.get("run_start")["time_ms"]
    assert scored(log.path).minutes == (elapsed / 60 / 1000,)
