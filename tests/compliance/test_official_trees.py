"""Whole trees: what ours and the official package_checker, rcp_checker and result_summarizer say of the same one."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmark.mllog import TOKEN
from compliance.bypass import PARAMETERS
from compliance.check import check_paths, find_logs, open_result
from compliance.checks.systems import COUNTS, FIELDS, NOTES, TEXTS, check_system
from compliance.convergence.rcp import compare
from compliance.convergence.score import score
from compliance.findings import Finding, Severity
from compliance.run import EVALUATION
from tests.fakes import EPOCH
from tests.official import accepts_package, accepts_summary, needs_official
from tests.trees import BASES, Tree, make_tree

APRIL_2025 = 1_744_000_000.0

ERROR, WARNING = Severity.ERROR, Severity.WARNING


@pytest.fixture(scope="module", params=BASES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    made = make_tree(tmp_path_factory.mktemp("made") / "Example", request.param)
    needs_official(made.ruleset)
    return made


@pytest.fixture(scope="module")
def made_405b(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return make_tree(tmp_path_factory.mktemp("made") / "Example", "405b")


@pytest.fixture
def tree_405b(made_405b: Tree, tmp_path: Path) -> Tree:
    """A valid tree of 405B, whose three logs are judged sooner."""
    return made_405b.copy(tmp_path / "Example")


@pytest.fixture
def tree(made: Tree, tmp_path: Path) -> Tree:
    """A valid tree of each benchmark."""
    return made.copy(tmp_path / "Example")


def found(tree: Tree, *severities: Severity) -> list[Finding]:
    report = check_paths([tree.organisation], tree.ruleset)
    return [finding for finding in report.findings if finding.severity in (severities or (ERROR, WARNING))]


def officially_accepted(tree: Tree) -> bool:
    """Whether both the package checker and, after it, the summariser take a tree."""
    return accepts_package(tree.organisation, tree.ruleset) and accepts_summary(tree.organisation, tree.ruleset)


# Runs that did not reach the target.


def test_one_run_may_be_killed(tree_405b: Tree) -> None:
    """A run that was killed before it could log its end may be the one that is dropped, here and there."""
    tree_405b.kill(1)
    assert [finding.rule for finding in found(tree_405b)] == ["result.converged"]
    assert officially_accepted(tree_405b)


@pytest.mark.parametrize("missed", [0, 1, 2])
def test_one_run_may_miss_the_target(tree: Tree, missed: int) -> None:
    """One run of a result may: check, score, rcp and the official package checker agree on 0, 1 and 2 of them."""
    for run in range(missed):
        tree.miss(run)
    allowed, names = missed < 2, [f"result_{run}.txt" for run in range(missed)]
    (group,) = find_logs([tree.result])
    result = open_result(group, tree.ruleset)
    assert officially_accepted(tree) == allowed
    assert (score(result).olympic_minutes is not None, not compare(result).fault) == (allowed, allowed)

    findings = found(tree)
    expected = [*([] if allowed else [("eval.target", name) for name in names]), ("result.converged", tree.benchmark)]
    assert [(finding.rule, Path(finding.file).name) for finding in findings] == (expected if missed else [])
    assert {finding.severity for finding in findings} <= {WARNING if allowed else ERROR}
    assert all(", ".join(names) in f"{finding.message} {finding.actual}" for finding in findings[-1:])


def test_a_log_alone_has_to_reach_the_target(tree_405b: Tree) -> None:
    """The one run that a result may miss is an ERROR where its log is asked for by name, or the result has too few."""
    tree_405b.miss(0)
    log = tree_405b.log(0).path
    (error,) = (finding for finding in check_paths([log], tree_405b.ruleset).findings if finding.severity is ERROR)
    assert error.rule == "eval.target"
    tree_405b.log(1).path.unlink()
    assert {finding.rule for finding in found(tree_405b, ERROR)} == {"eval.target", "package.file_count"}


# Convergence, and what leaves its comparison out.


def stop_all_after(tree: Tree, samples: int) -> None:
    """Say that every run's last evaluation, and the first, came after so many sequences."""
    for run in range(tree.runs):
        log = tree.log(run)
        for key in EVALUATION:
            log.events = [event for event in log.events if event["key"] != key or event is log.get(key, -1)]
            log.get(key)["metadata"]["samples_count"] = samples
        log.save()


# Sequences, whether the official tool accepts them, and ours.
CONVERGENCE = {
    "405b": [(294912, True, []), (276480, True, [ERROR]), (221184, False, [ERROR])],
    "8b": [(344064, True, []), (319488, False, [ERROR])],
}


def test_convergence_is_judged_by_the_stricter_limit(tree: Tree, subtests: pytest.Subtests) -> None:
    """A mean below the policy's limit is an ERROR, and so is whatever the official tool refuses."""
    (name,) = (name for name, (configure, _) in BASES.items() if configure().benchmark == tree.benchmark)
    for samples, accepted, severities in CONVERGENCE[name]:
        stop_all_after(tree, samples)
        with subtests.test(samples=samples):
            assert accepts_package(tree.organisation, tree.ruleset) == accepted
            assert convergence_of(tree) == severities


def test_bypass_is_read_as_the_official_checker_reads_it(tree_405b: Tree) -> None:
    """rcp-bypass makes it accept a result that is too fast, where not even a line break follows it; ours does not."""
    stop_all_after(tree_405b, 18432)
    for text, bypassed in (("rcp-bypass\n", False), ("rcp-bypass", True)):
        (tree_405b.result.parent / PARAMETERS).write_text(text, encoding="utf-8")
        assert accepts_package(tree_405b.organisation, tree_405b.ruleset) == bypassed
        (finding,) = (finding for finding in found(tree_405b) if finding.rule == "result.convergence")
        assert ("refused officially" not in finding.message, finding.severity) == (bypassed, ERROR)


def test_convergence_of_logs_of_v50_is_judged_as_it_was_accepted(tree_405b: Tree) -> None:
    """Logs that v5.0 allowed are a WARNING when they are submitted again, as Nebius's were in v5.1."""
    stop_all_after(tree_405b, 276480)
    for run in range(tree_405b.runs):
        log = tree_405b.log(run)
        for event in log.events:
            event["time_ms"] += (APRIL_2025 - EPOCH) * 1000
        # v5.0 evaluated from the start, and is known by that, too.
        start = log.indices("eval_start")[0]
        early = [event | {"metadata": event["metadata"] | {"samples_count": 46080}} for event in log.events[start:][:3]]
        early[1]["value"] = 6.5
        log.events[start:start] = early
        log.save()
    assert convergence_of(tree_405b) == [WARNING]


def test_convergence_is_not_judged_in_the_open_division(tree_405b: Tree) -> None:
    """The reference does not apply to the open division, here or officially."""
    stop_all_after(tree_405b, 18432)
    for run in range(tree_405b.runs):
        log = tree_405b.log(run)
        log.set("submission_division", "open")
        log.save()
    assert convergence_of(tree_405b) == []


def convergence_of(tree: Tree) -> list[Severity]:
    return [finding.severity for finding in found(tree) if finding.rule == "result.convergence"]


# Power logs.

PLACE = {"namespace": "", "event_type": "POINT_IN_TIME", "metadata": {"file": "power.py", "lineno": 1}}


def power_log(*events: tuple[str, object, int]) -> str:
    return "".join(
        f"{TOKEN} {json.dumps(PLACE | {'key': key, 'value': value, 'time_ms': time_ms})}\n"
        for key, value, time_ms in events
    )


START, READING = ("power_measurement_start", None, 1000), ("power_reading", 9000.0, 2000)
NODE = power_log(START, READING, ("power_measurement_stop", None, 3000))
SWITCH = power_log(("interconnect_power_est", 90.0, 1000))


def add_power(tree: Tree, names: Sequence[str] = ("node_0.txt", "node_1.txt", "sw_0.txt")) -> Path:
    """Power logs of all runs; returns their folder."""
    for run in range(tree.runs):
        folder = tree.result / "power" / f"result_{run}"
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_text(SWITCH if name.startswith("sw") else NODE, encoding="utf-8")
    return tree.result / "power"


def without_power(*runs: int, missed: int | None = None) -> Callable[[Tree], object]:
    def edit(tree: Tree) -> None:
        power = add_power(tree)
        for run in runs:
            shutil.rmtree(power / f"result_{run}")
        if missed is not None:
            tree.miss(missed)

    return edit


def with_file(name: str, text: str = NODE) -> Callable[[Tree], object]:
    return lambda tree: (add_power(tree) / "result_1" / name).write_text(text, encoding="utf-8")


def in_turn(*edits: Callable[[Tree], object]) -> Callable[[Tree], object]:
    return lambda tree: [edit(tree) for edit in edits]


# Accepted or refused, here and there.
POWER: dict[str, Callable[[Tree], object]] = {
    "all": add_power,
    "nodes alone": lambda tree: add_power(tree, ["node_0.txt"]),
    "a folder more": lambda tree: (add_power(tree) / "result_77").mkdir(),
    "a file more": with_file("README"),
    "one missing": without_power(1),
    "two missing": without_power(0, 1),
    "missing of the run that missed": without_power(1, missed=1),
    "missing, and another run missed": without_power(1, missed=0),
    "nothing in it": lambda tree: (tree.result / "power").mkdir(),
    "a file": lambda tree: (tree.result / "power").touch(),
    "other folders": lambda tree: [path.rename(f"{path}_") for path in add_power(tree).iterdir()],
    "a file for a folder": in_turn(without_power(1), lambda tree: (tree.result / "power" / "result_1").touch()),
    "numbered from 1": lambda tree: add_power(tree, ["node_1.txt"]),
    "a letter": with_file("node_a.txt"),
    "a switch more": with_file("sw_1.txt", SWITCH),
    "a switch more, and another run missed": in_turn(with_file("sw_1.txt", SWITCH), lambda tree: tree.miss(0)),
    "switches alone": lambda tree: add_power(tree, ["sw_0.txt"]),
    "an empty node": with_file("node_0.txt", ""),
    "an empty switch": with_file("sw_0.txt", ""),
    "no stop": with_file("node_0.txt", power_log(START, READING)),
    "no time": with_file("node_0.txt", power_log(START, ("power_measurement_stop", None, 1000))),
    "a text": with_file("node_0.txt", NODE.replace("9000.0", '"9000"')),
}


@pytest.mark.parametrize("kind", POWER)
def test_power_is_judged_as_the_official_tools_do(tree_405b: Tree, kind: str) -> None:
    """Power logs that package_checker or result_summarizer refuses are an ERROR, and others are not."""
    POWER[kind](tree_405b)
    about_power = [finding for finding in found(tree_405b, ERROR) if finding.rule.startswith("power.")]
    assert (not about_power) == officially_accepted(tree_405b)


def test_power_of_one_run_that_is_let_go_is_a_warning(tree_405b: Tree) -> None:
    """The power log that package_checker would excuse as the one non-compliant file is reported."""
    POWER["a switch more"](tree_405b)
    assert [(finding.rule, finding.severity) for finding in found(tree_405b)] == [("power.files", WARNING)]


# Descriptions of systems.

ODD: tuple[object, ...] = ("", "two", "2.0", "2 ", 2, 2.5, None, [], ["a"], {}, {"a": 1})
GOOD = dict.fromkeys(FIELDS, "") | dict.fromkeys(COUNTS, "2") | {"division": "closed", "status": "Preview"}


@pytest.fixture
def description(tmp_path: Path) -> Path:
    """A valid one, of a system whose results nobody asks for."""
    (tmp_path / "results" / "A").mkdir(parents=True)
    (tmp_path / "systems").mkdir()
    return described(tmp_path / "systems" / "A.json", json.dumps(GOOD))


def described(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def officially_read(description: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Whether the official tools read the description, without any results."""
    # Half a second each.
    from mlperf_logging.package_checker import package_checker
    from mlperf_logging.result_summarizer import result_summarizer

    ruleset = "6.0.0"
    needs_official(ruleset)

    def no_scores(*_: object, **__: object) -> tuple[dict[str, Any], dict[str, Any]]:
        scores: dict[str, Any] = {}
        result_summarizer._fill_empty_benchmark_scores(scores, "training", ruleset)
        return scores, {}

    monkeypatch.setattr(package_checker, "check_training_result_files", lambda *_, **__: True)
    monkeypatch.setattr(result_summarizer, "_compute_strong_scaling_scores", no_scores)
    tree = description.parents[1]
    return lambda: accepts_package(tree, ruleset) and accepts_summary(tree, ruleset)


def has_error(description: Path) -> bool:
    return any(finding.severity is ERROR for finding in check_system(description, ()))


def test_field_is_judged_as_the_official_tools_do(
    description: Path, officially_read: Callable[[], bool], subtests: pytest.Subtests
) -> None:
    """A field that no official tool can read is an ERROR, even half a node; one that they can read is not."""
    for field in (*TEXTS, *NOTES, *COUNTS, "other_software_stack", "cooling"):
        for value in ODD:
            described(description, json.dumps(GOOD | {field: value}))
            with subtests.test(field=field, value=value):
                assert has_error(description) == (not officially_read() or (field in COUNTS and value == 2.5))


FILES = {
    "empty": "",
    "list": "[]",
    "cut off": json.dumps(GOOD)[:-1],
    "byte order mark": "\ufeff" + json.dumps(GOOD),
    "not a number": json.dumps(GOOD | {"hw_notes": math.nan}),
    "other letters": json.dumps(GOOD | {"cooling": "água 水"}, ensure_ascii=False),
    "nested": json.dumps(GOOD | {"other_software_stack": {"a": [{"b": [1]}]}}),
}


@pytest.mark.parametrize("kind", FILES)
def test_file_is_judged_as_the_official_tools_do(
    description: Path, officially_read: Callable[[], bool], kind: str
) -> None:
    """A description that no official tool can read is an ERROR; one that they can read is not."""
    described(description, FILES[kind])
    assert has_error(description) == (not officially_read())
