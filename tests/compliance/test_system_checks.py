"""The description of a system beside its logs, and every kind of tree that a check can be given."""

from __future__ import annotations

import inspect
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlperf_logging.system_desc_checker import system_desc_checker

from compliance.check import Report, check_paths
from compliance.checks.systems import FIELDS, MAX_DESCRIPTION, STATUSES, SYSTEM_RULES, TEXTS, place_of
from compliance.findings import Severity
from tests.compliance.test_against_official import PUBLISHED, ROUNDS, published
from tests.logs import LogFile, llama31_405b, make_log, reaching

BENCHMARK = "llama31_405b"
SYSTEM = "test_system"


@dataclass
class Tree:
    """The tree of an organisation with one system and its three runs."""

    root: Path
    """Of a results repository; the organisation's tree is below it."""

    @property
    def organisation(self) -> Path:
        return self.root / "reference"

    @property
    def runs(self) -> Path:
        return self.organisation / "results" / SYSTEM / BENCHMARK

    @property
    def log(self) -> LogFile:
        return LogFile(self.runs / "result_0.txt")

    @property
    def description(self) -> Path:
        return self.organisation / "systems" / f"{SYSTEM}.json"

    def describe(self, **fields: Any) -> None:
        """Change fields of the description, or remove those that are `...`."""
        changed = json.loads(self.description.read_text(encoding="utf-8")) | fields
        text = json.dumps({name: value for name, value in changed.items() if value is not ...})
        self.description.write_text(text, encoding="utf-8")

    def announce(self, **values: Any) -> None:
        """Change what the logs announce."""
        for path in self.runs.iterdir():
            log = LogFile(path)
            for key, value in values.items():
                log.set(key, value)
            log.save()

    def found(self) -> list[tuple[str, Severity]]:
        """Rules of systems that are broken, with their severity; what several logs break alike, once."""
        found = check_paths([self.organisation]).findings
        assert not [finding for finding in found if "crashed" in finding.message]
        about = {
            (finding.rule, finding.severity, finding.expected, finding.actual): None
            for finding in found
            if finding.rule in SYSTEM_RULES.rules
        }
        return [(rule, severity) for rule, severity, *_ in about]


@pytest.fixture
def tree(valid: Callable[[str], LogFile], tmp_path: Path) -> Tree:
    """A valid tree."""
    tree = Tree(tmp_path / "repository")
    tree.runs.mkdir(parents=True)
    shutil.move(valid("405b").path, tree.runs / "result_0.txt")
    for seed in (1, 2):
        other = llama31_405b(SEED=seed)
        curve = [value - seed / 1000 for value in reaching(other)]
        make_log(tree.runs / f"result_{seed}.txt", other, curve, initial_loss=7.7 + seed / 1000)
    log = tree.log
    platform = log.get("submission_platform")["value"]
    tree.description.parent.mkdir()
    tree.description.write_text(json.dumps(dict.fromkeys(FIELDS, "")), encoding="utf-8")
    tree.describe(
        submitter=log.get("submission_org")["value"],
        division=log.get("submission_division")["value"],
        status=STATUSES[log.get("submission_status")["value"]],
        number_of_nodes=platform.partition("x")[0],
        host_processors_per_node="2",
        accelerators_per_node="8",
        accelerator_model_name="NVIDIA H100-SXM5-80GB",
    )
    return tree


def passes(report: Report, logs: int = 3) -> bool:
    """Whether so many logs were checked, without an ERROR or a finding about a system."""
    about_systems = [finding for finding in report.findings if finding.rule in SYSTEM_RULES.rules]
    return report.passed and len(report.logs) == logs and not about_systems


# Rules.


def test_valid_tree_has_no_finding(tree: Tree) -> None:
    """A description that agrees with its logs breaks no rule."""
    assert tree.found() == []


def _a_pipe(tree: Tree) -> None:
    tree.description.unlink()
    os.mkfifo(tree.description)


ERROR, WARNING = Severity.ERROR, Severity.WARNING
BREAKS: list[tuple[str, Severity, Callable[[Tree], object]]] = [
    ("system.missing", ERROR, lambda tree: tree.description.unlink()),
    ("system.unreadable", ERROR, lambda tree: tree.description.write_text('{"submitter": ')),
    ("system.unreadable", ERROR, lambda tree: tree.description.write_text('{"cooling": "", "cooling": "air"}')),
    ("system.unreadable", ERROR, lambda tree: tree.description.write_text("[" * 100_000)),
    ("system.unreadable", ERROR, lambda tree: tree.description.write_text(" " * (MAX_DESCRIPTION + 1))),
    ("system.unreadable", ERROR, lambda tree: tree.description.write_text("[]")),
    ("system.unreadable", ERROR, lambda tree: tree.description.write_bytes(b'{"cooling": "\xff"}')),
    ("system.unreadable", ERROR, _a_pipe),
    ("system.fields", ERROR, lambda tree: tree.describe(cooling=..., framework=...)),
    ("system.text", ERROR, lambda tree: tree.describe(accelerators_per_node=8)),
    ("system.text", ERROR, lambda tree: tree.describe(hw_notes=["a"])),
    ("system.counts", ERROR, lambda tree: tree.describe(number_of_nodes="one")),
    ("system.counts", ERROR, lambda tree: tree.describe(host_processors_per_node="")),
    ("system.status", ERROR, lambda tree: tree.describe(status="onprem")),
    ("system.status", ERROR, lambda tree: tree.describe(status=[])),
    ("system.submitter", WARNING, lambda tree: tree.describe(submitter="another")),
    ("system.availability", WARNING, lambda tree: tree.describe(status=STATUSES["cloud"])),
    ("system.platform", WARNING, lambda tree: tree.announce(submission_platform="2xTEST")),
    ("system.platform", WARNING, lambda tree: tree.announce(submission_platform="1xNVIDIA B200")),
    ("system.division", ERROR, lambda tree: tree.describe(division="open")),
    ("system.layout", ERROR, lambda tree: tree.announce(tensor_parallelism=3)),
    ("system.batch", ERROR, lambda tree: tree.announce(micro_batch_size=2)),
    ("system.batch", ERROR, lambda tree: tree.describe(accelerators_per_node="16")),
]


@pytest.mark.parametrize(
    ("rule", "severity", "break_it"), BREAKS, ids=[f"{number}-{rule}" for number, (rule, *_) in enumerate(BREAKS)]
)
def test_rule_finds_what_breaks_it(
    tree: Tree, rule: str, severity: Severity, break_it: Callable[[Tree], object]
) -> None:
    """A tree that is valid but for one thing has exactly that thing's finding."""
    break_it(tree)
    assert tree.found() == [(rule, severity)]


def test_division_in_capitals_is_an_error(tree: Tree) -> None:
    """ "Closed" is an ERROR, though the official checker of systems accepts it, and it is not what the logs say."""
    tree.describe(division="Closed")
    assert tree.found() == [("system.division", ERROR)] * 2


def test_folder_of_another_benchmark_is_an_error(tree: Tree) -> None:
    """Logs in the folder of another benchmark are an ERROR."""
    tree.runs.rename(tree.runs.with_name("llama31_8b"))
    assert tree.found() == [("system.benchmark", ERROR)]


def test_joint_submitters_have_no_order(tree: Tree) -> None:
    """Organisations that submit together may be named in any order, as in published results."""
    tree.announce(submission_org="A+B")
    tree.describe(submitter="B + A")
    assert tree.found() == []


def test_every_rule_has_a_tree_that_breaks_it() -> None:
    """No rule over systems is without a test of what it finds."""
    assert {rule for rule, _, _ in BREAKS} | {"system.benchmark"} == set(SYSTEM_RULES.rules)


@pytest.mark.parametrize("value", [10**400, -1, 1e308, True, None, [], {}, "9" * 5000, "\x00", "¹"])
@pytest.mark.parametrize("field", ["submitter", "division", "status", "number_of_nodes", "accelerator_model_name"])
def test_no_value_makes_a_check_raise(tree: Tree, field: str, value: object) -> None:
    """Whatever a field holds, it is judged without a crash."""
    tree.describe(**{field: value})
    assert tree.found() or isinstance(value, str)


# The names are the official ones.


def test_fields_are_the_official_ones() -> None:
    """The fields and statuses asked for are those that the official checker asks for."""
    source = inspect.getsource(system_desc_checker)
    required = source.split("required_fields = [")[1].split("]")[0]
    options = source.split("availability_options = [")[1].split("]")[0]
    joined = source.split("table_csv_prefix")[1].split("])")[0]
    assert json.loads(f"[{required.strip().rstrip(',')}]") == list(FIELDS)
    assert json.loads(f"[{options}]") == list(STATUSES.values())
    assert {name for name in FIELDS if f'"{name}"' in joined} == set(TEXTS)


# What a check can be given.


def test_log_by_name_is_checked_alone(tree: Tree) -> None:
    """A log that is asked for by name is judged by itself, whatever its system's description."""
    tree.description.unlink()
    assert passes(check_paths([tree.log.path]), logs=1)


@pytest.mark.parametrize("level", [0, 1, 2, 3, 4], ids=["runs", "system", "results", "organisation", "repository"])
def test_every_level_of_a_tree_can_be_checked(tree: Tree, level: int) -> None:
    """Runs, a system, an organisation and a whole repository are checked with the descriptions they belong to."""
    path = [tree.runs, *tree.runs.parents][level]
    assert passes(check_paths([path]))
    tree.description.unlink()
    assert [finding.rule for finding in check_paths([path]).findings if finding.severity is ERROR] == ["system.missing"]


def test_repository_of_many_organisations(tree: Tree) -> None:
    """In a repository each system is judged by its own organisation's description."""
    other = tree.root / "another"
    shutil.copytree(tree.organisation, other)
    assert passes(check_paths([tree.root]), logs=6)
    (other / "systems" / f"{SYSTEM}.json").write_text("{}", encoding="utf-8")
    (finding,) = (finding for finding in check_paths([tree.root]).findings if finding.severity is ERROR)
    assert (finding.rule, Path(finding.file).parents[1]) == ("system.fields", other)


def test_tree_is_checked_from_inside(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path relative to a folder of the tree, such as `.`, finds the same description."""
    monkeypatch.chdir(tree.runs)
    assert passes(check_paths([Path()]))
    tree.description.unlink()
    assert "system.missing" in {finding.rule for finding in check_paths([Path()]).findings}


@pytest.mark.parametrize(
    "directory", ["results/logs/SYSTEM/stamp", "runs", "results/A/B", "/", "A/llama31_405b"], ids=str
)
def test_other_directories_have_no_system(tmp_path: Path, directory: str) -> None:
    """Folders of the harness's own runs, and any others, are not submissions that lack a description."""
    assert place_of(tmp_path / directory) is None


def test_an_organisation_is_checked_as_a_whole(tree: Tree) -> None:
    """A result that lacks a log is an ERROR of the organisation's tree, and no finding about its first log alone."""
    (tree.runs / "result_2.txt").unlink()
    found = [finding.rule for finding in check_paths([tree.organisation]).findings if finding.severity is ERROR]
    assert found == ["package.file_count"]
    assert passes(check_paths([tree.log.path]), logs=1)


def test_description_without_results_is_judged_too(tree: Tree) -> None:
    """The official checker reads every description, even without results; a good one is not an ERROR."""
    spare = tree.description.with_name("spare.json")
    shutil.copy(tree.description, spare)
    assert passes(check_paths([tree.organisation]))
    spare.write_text("{}", encoding="utf-8")
    (finding,) = (finding for finding in check_paths([tree.organisation]).findings if finding.severity is ERROR)
    assert (finding.rule, finding.file) == ("system.fields", str(spare))


def test_description_that_differs_by_case_is_named(tree: Tree) -> None:
    """A description of another spelling than the folder of results is missing, and named."""
    tree.description.rename(tree.description.with_name(f"{SYSTEM.upper()}.json"))
    (finding,) = (finding for finding in check_paths([tree.organisation]).findings if finding.severity is ERROR)
    assert (finding.rule, finding.actual) == ("system.missing", f"{SYSTEM.upper()}.json")


@published
@pytest.mark.parametrize("round_name", ROUNDS)
def test_published_systems_are_found(round_name: str) -> None:
    """The description of every published result is found, and breaks no rule."""
    found = [place_of(path) for path in (PUBLISHED / round_name).glob("*/results/*/*")]
    assert found
    assert all(place is not None and place.system is not None and place.system.is_file() for place in found)
    report = check_paths([PUBLISHED / round_name], ROUNDS[round_name])
    assert not [finding for finding in report.findings if finding.severity is ERROR]
