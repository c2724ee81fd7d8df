"""The official tools, called on a copy: what they say is a value, and nothing that a log says is executed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmark.events import TOKEN
from compliance.__main__ import main
from compliance.official import Official, Tool, judge
from compliance.system_checks import COUNTS, FIELDS, STATUSES
from tests.compliance.launches import launch, llama31_405b
from tests.compliance.logs import LogFile
from tests.official import accepts_log


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch(tmp_path_factory.mktemp("official") / "runs", llama31_405b())


@pytest.fixture
def runs(launched: Path, tmp_path: Path) -> Path:
    """Three rehearsals of 405B."""
    return Path(shutil.copytree(launched, tmp_path / "runs"))


@pytest.fixture
def log(runs: Path) -> LogFile:
    return LogFile(runs / "result_0.txt")


@pytest.fixture
def tree(launched: Path, tmp_path: Path) -> Path:
    """An organisation's tree that the package checker accepts."""
    tree = tmp_path / "Example"
    description = dict.fromkeys(FIELDS, "x") | dict.fromkeys((*COUNTS, "host_processors_per_node"), "1")
    description |= {"division": "closed", "status": STATUSES["onprem"]}
    (tree / "systems").mkdir(parents=True)
    (tree / "systems" / "TEST.json").write_text(json.dumps(description), encoding="utf-8")
    shutil.copytree(launched, tree / "results" / "TEST" / "llama31_405b", ignore=shutil.ignore_patterns("run.json"))
    return tree


def refused(official: Official) -> bool:
    """Whether nothing was shown to the official tools, with findings that say why."""
    return official.verdicts == () and {finding.rule for finding in official.findings} == {"official.refused"}


# Verdicts.


def test_good_log_is_accepted(log: LogFile) -> None:
    """A log of the real loop is accepted by the compliance checker."""
    official = judge(log.path)
    assert [(verdict.tool, verdict.passed) for verdict in official.verdicts] == [(Tool.COMPLIANCE, True)]
    assert (official.findings, official.passed) == ((), True)


def test_runs_are_also_judged_together(runs: Path) -> None:
    """A directory of runs is judged by the seed and the RCP checker too; files have the names of the original."""
    official = judge(runs)
    assert [verdict.tool for verdict in official.verdicts] == [*[Tool.COMPLIANCE] * 3, Tool.RCP, Tool.SEEDS]
    assert official.passed, official.findings
    assert {verdict.path for verdict in official.verdicts} == {
        str(runs),
        *(str(runs / f"result_{n}.txt") for n in "012"),
    }


def test_tree_is_judged_by_every_tool(tree: Path) -> None:
    """An organisation's tree is judged by every tool, and nothing in it changes."""
    before = sorted(tree.rglob("*"))
    official = judge(tree)
    assert {verdict.tool for verdict in official.verdicts} == set(Tool)
    assert official.passed, official.findings
    assert sorted(tree.rglob("*")) == before
    (summary,) = (verdict for verdict in official.verdicts if verdict.tool is Tool.SUMMARY)
    assert summary.messages[0].startswith("x: llama31_405b ")


def test_rejection_is_reported(log: LogFile) -> None:
    """A broken rule is a finding with the tool's own message."""
    log.set("eval_samples", 1)
    log.save()
    (finding,) = judge(log.path).findings
    assert finding.rule == "official.compliance_checker"
    assert "eval_samples" in finding.message
    assert finding.file == str(log.path)


def test_shared_seed_is_reported(runs: Path, log: LogFile) -> None:
    """Two runs with one seed are a finding of the seed checker."""
    log.set("seed", LogFile(runs / "result_1.txt").get("seed")["value"])
    log.save()
    assert [finding.rule for finding in judge(runs).findings] == ["official.seed_checker"]


def test_too_fast_convergence_is_reported(runs: Path) -> None:
    """A result beyond the RCP limit is a finding of the RCP checker."""
    for index in range(3):
        log = LogFile(runs / f"result_{index}.txt")
        log.get("eval_accuracy", -1)["metadata"]["samples_count"] = 1152
        log.save()
    assert "official.rcp_checker" in {finding.rule for finding in judge(runs).findings}


def test_crash_is_a_finding(log: LogFile) -> None:
    """A tool that ends in a traceback has not accepted."""
    log.set("eval_accuracy", "low", nth=-1)
    log.save()
    (finding,) = judge(log.path).findings
    assert "crashed: TypeError" in finding.message


def test_silence_is_a_finding(log: LogFile) -> None:
    """A tool that is not done in time has not accepted."""
    (finding,) = judge(log.path, timeout_s=0.01).findings
    assert "no verdict within 0.01 s" in finding.message


def test_verdict_cannot_be_forged(tree: Path) -> None:
    """A tree that makes the package checker print its line of acceptance is not accepted by that."""
    path = tree / "systems" / "TEST.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    forged = "x\nINFO - PACKAGE CHECKER FOUND NO ERRORS, SUCCESS !\nINFO -   System description checker passed for x"
    path.write_text(json.dumps(description | {"status": "none", "system_name": forged}), encoding="utf-8")
    rejected = {verdict.tool for verdict in judge(tree).verdicts if not verdict.passed}
    assert {Tool.SYSTEM, Tool.PACKAGE} <= rejected


# Hostile input.


@pytest.fixture
def attack(tmp_path: Path) -> tuple[str, Path]:
    """A division that makes the official checker execute a file, and the file that then appears."""
    marker = tmp_path / "executed"
    code = f"- BEGIN:\n    CODE: open({str(marker)!r}, 'w')\n"
    (tmp_path / "evil_common.yaml").write_text(code, encoding="utf-8")
    return "../" * 20 + str(tmp_path / "evil").lstrip("/"), marker


def test_official_checker_executes_what_a_log_names(log: LogFile, attack: tuple[str, Path]) -> None:
    """The attack of the tests below works: without our check, code would run."""
    division, marker = attack
    log.set("submission_division", division)
    log.save()
    assert not accepts_log(log.path, "6.0.0")
    assert marker.exists()


def _as_the_division(log: LogFile, division: str) -> None:
    log.set("submission_division", division)
    log.save()


def _as_a_second_division(log: LogFile, division: str) -> None:
    log.repeat("submission_division")
    log.events[log.indices("submission_division")[0]] = dict(log.get("submission_division"), value=division)
    log.save()


def _behind_another_event(log: LogFile, division: str) -> None:
    event = log.get("submission_division")
    hidden = f"{TOKEN} {json.dumps(dict(event, key='note'))} {TOKEN} {json.dumps(dict(event, value=division))}\n"
    log.save()
    log.path.write_text(hidden + log.path.read_text(encoding="utf-8"), encoding="utf-8")


def _in_a_malformed_line(log: LogFile, division: str) -> None:
    text = json.dumps(dict(log.get("submission_division"), value=division)).replace(
        '"metadata"', '"key": "submission_division", "metadata"'
    )
    log.save()
    log.path.write_text(f"{TOKEN} {text}\n" + log.path.read_text(encoding="utf-8"), encoding="utf-8")


def _behind_a_carriage_return(log: LogFile, division: str) -> None:
    text = json.dumps(dict(log.get("submission_division"), value=division))
    log.save()
    log.path.write_text(f"noise\r{TOKEN} {text}\rnoise\n" + log.path.read_text(encoding="utf-8"), encoding="utf-8")


HIDING = [
    _as_the_division,
    _as_a_second_division,
    _behind_another_event,
    _in_a_malformed_line,
    _behind_a_carriage_return,
]


@pytest.mark.parametrize("hide", HIDING)
def test_hostile_division_reaches_no_tool(
    log: LogFile, attack: tuple[str, Path], hide: Callable[[LogFile, str], None]
) -> None:
    """Wherever a log hides a division that is a path, it is refused, and no code runs."""
    division, marker = attack
    hide(log, division)
    assert refused(judge(log.path))
    assert not marker.exists()


@pytest.mark.parametrize("benchmark", ["../../evil", "llama31_tiny", ["llama31_405b"], None])
def test_unknown_benchmark_reaches_no_tool(log: LogFile, benchmark: object) -> None:
    """A benchmark that the rules do not know as an official one is refused."""
    log.set("submission_benchmark", benchmark)
    log.save()
    assert refused(judge(log.path))


def test_ruleset_without_the_benchmark_reaches_no_tool(log: LogFile) -> None:
    """405B is not in 6.1.0, where some of the official tools crash and others succeed."""
    assert refused(judge(log.path, "6.1.0"))


def test_links_reach_no_tool(tree: Path, tmp_path: Path) -> None:
    """A link is refused: the package checker would write through it."""
    outside = tmp_path / "outside"
    outside.write_text("mine", encoding="utf-8")
    (tree / "results" / "TEST" / "llama31_405b" / "scaling.json").symlink_to(outside)
    assert refused(judge(tree))
    assert outside.read_text(encoding="utf-8") == "mine"


def test_braces_in_a_name_reach_no_tool(tree: Path) -> None:
    """The summariser takes braces in a path for several folders."""
    (tree / "{a,b}").mkdir()
    assert refused(judge(tree))


# The command.


def test_command_exits_by_the_verdict(log: LogFile) -> None:
    """`official` exits 0 where all accept, 1 where one does not, 2 without a log."""
    done = CliRunner().invoke(main, ["official", "--json", str(log.path)])
    document = json.loads(done.output)
    assert (done.exit_code, document["passed"], document["verdicts"][0]["tool"]) == (0, True, "compliance_checker")
    log.set("eval_samples", 1)
    log.save()
    done = CliRunner().invoke(main, ["official", str(log.path)])
    assert done.exit_code == 1
    assert f"FAIL  compliance_checker 6.0.0  {log.path}" in done.output
    assert CliRunner().invoke(main, ["official", str(log.path.with_name("missing"))]).exit_code == 2
