"""Reports for other programs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from compliance.formats import printable
from harness.__main__ import main
from tests.logs import LogFile


def run(form: str, *paths: Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["check", "--format", form, *map(str, paths)])
    return result.exit_code, result.output


@pytest.fixture
def broken(log: LogFile) -> LogFile:
    """A log with one ERROR, which has no line, and one WARNING, which has one."""
    log.delay("run_stop", 5)
    log.drop("train_samples")
    log.save()
    return log


def findings(log: LogFile) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("json", log.path)[1])["findings"]
    return found


@pytest.mark.parametrize("form", ["text", "all", "summary", "json", "junit", "sarif"])
def test_every_format_has_the_same_exit_status(valid: Callable[[str], LogFile], form: str) -> None:
    """The exit status is the verdict, in whichever format it is printed."""
    log = valid("tiny")
    assert run(form, log.path)[0] == 0
    log.drop("seed")
    log.save()
    assert run(form, log.path)[0] == 1


def test_json_has_a_short_option(log: LogFile) -> None:
    """--json means the same as --format json."""
    assert CliRunner().invoke(main, ["check", "--json", str(log.path)]).output == run("json", log.path)[1]


def test_junit_has_a_failure_for_each_error(broken: LogFile) -> None:
    """JUnit has a case for each finding, and of them the ERRORs fail."""
    found = findings(broken)
    root = ElementTree.fromstring(run("junit", broken.path)[1])
    (suite,) = root
    cases = [(case.get("name"), case[0].tag == "failure") for case in suite]
    assert cases == [(finding["rule"], finding["severity"] == "ERROR") for finding in found]
    failures = [failed for _, failed in cases].count(True)
    assert (suite.get("tests"), suite.get("failures")) == (str(len(found)), str(failures))
    assert 0 < failures < len(found)


def test_junit_has_a_case_that_passes_for_a_valid_log(log: LogFile) -> None:
    """A log without findings is one case, so that a report of valid logs is not an empty one."""
    ((case,),) = ElementTree.fromstring(run("junit", log.path)[1])
    assert (case.tag, len(case)) == ("testcase", 0)


def test_sarif_has_what_the_standard_requires(broken: LogFile) -> None:
    """SARIF 2.1.0 has its version, the tool with a rule for each result, and for each result a level and a place."""
    found = findings(broken)
    document = json.loads(run("sarif", broken.path)[1])
    assert document["version"] == "2.1.0"
    (once,) = document["runs"]
    assert once["tool"]["driver"]["name"]
    assert {rule["id"] for rule in once["tool"]["driver"]["rules"]} == {finding["rule"] for finding in found}
    levels = {"ERROR": "error", "WARNING": "warning", "INFO": "note"}
    assert [(result["ruleId"], result["level"]) for result in once["results"]] == [
        (finding["rule"], levels[finding["severity"]]) for finding in found
    ]
    assert all(result["message"]["text"] for result in once["results"])


def test_sarif_points_at_the_line(broken: LogFile) -> None:
    """A result has the line of its finding, and none where the finding is about the whole file."""
    found = findings(broken)
    (once,) = json.loads(run("sarif", broken.path)[1])["runs"]
    places = [result["locations"][0]["physicalLocation"] for result in once["results"]]
    assert [place.get("region", {}).get("startLine") for place in places] == [finding["line"] for finding in found]
    assert {place["artifactLocation"]["uri"] for place in places} == {broken.path.as_uri()}


def test_relative_path_stays_relative_in_sarif(log: LogFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A viewer resolves a relative path in its own checkout."""
    log.drop("seed")
    log.save().rename(log.path.with_name("result_%.txt"))
    monkeypatch.chdir(log.path.parent)
    (once,) = json.loads(run("sarif", Path("result_%.txt"))[1])["runs"]
    assert once["artifacts"] == [{"location": {"uri": "result_%25.txt"}}]


@pytest.mark.parametrize("text", ["\x1b[31m", "\ud800", "\x00", "\u202e", "\r", "\x85"])
def test_what_does_not_print_is_escaped(text: str) -> None:
    """Control characters, half characters and marks that reorder text are escaped; letters and line breaks are not."""
    assert printable(f"é{text}\n").isascii() is False
    assert all(char.isprintable() or char == "\n" for char in printable(f"é{text}\n"))


# Text, grouped.


@pytest.fixture
def three(broken: LogFile, tmp_path: Path) -> Path:
    """A folder of three logs with the same ERROR and the same WARNING."""
    folder = tmp_path / "runs"
    folder.mkdir()
    for number in range(3):
        shutil.copy(broken.path, folder / f"result_{number}.txt")
    return folder


def test_findings_of_one_rule_and_result_are_one_line(three: Path) -> None:
    """A line says how many logs have a finding, and of one of them what and where; the worst come first."""
    lines = run("text", three)[1].splitlines()
    heading, *of_rules = (line for line in lines if str(three) in line or line.startswith("  "))
    assert heading.startswith(f"FAIL  {three}  3 logs, ")
    assert heading.endswith("ruleset 6.0.0 (the latest that has the benchmark)")
    missing, late = (next(line for line in of_rules if rule in line) for rule in ("event.missing", "clock.prompt_stop"))
    assert missing.startswith("  ERROR    event.missing  in 3 of 3 logs: train_samples is missing; expected ")
    assert late.startswith("  WARNING  clock.prompt_stop  ")
    assert re.search(r"\(result_0\.txt, line \d+\)$", late)
    assert of_rules == sorted(of_rules, key=lambda line: "ERROR WARNING INFO".index(line.split()[0]))


def test_every_finding_is_behind_all(three: Path) -> None:
    """--all lists each finding, and says the rest as the grouped text does."""
    found = json.loads(run("json", three)[1])["findings"]
    every, grouped = (run(form, three)[1].splitlines() for form in ("all", "text"))
    assert sum(line.startswith(("ERROR", "WARNING", "INFO")) for line in every) == len(found)
    assert every[-1] == grouped[-1]
    assert len(grouped) < len(every) / 3


def test_summary_is_a_line_for_each_result(three: Path) -> None:
    """--summary has a line for each result, with its score, what did not run, and the verdict of all."""
    result, not_run, verdict = run("summary", three)[1].splitlines()
    assert result.startswith(f"FAIL  {three}  3 logs, ")
    assert result.endswith(" min")
    assert not_run.startswith("not run  system and package checks: ")
    assert verdict.startswith("FAIL  3 logs, ")
