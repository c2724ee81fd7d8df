"""`python -m compliance`: what it prints and how it exits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmark.checkout import ROOT
from harness.__main__ import main
from tests.logs import LogFile


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_valid_log_passes(log: LogFile) -> None:
    """A valid log exits 0 and says PASS in the last line."""
    result = run("check", log.path)
    assert result.exit_code == 0
    assert result.output.splitlines()[-1] == "PASS  1 log, 0 errors, 0 warnings"


def test_broken_log_fails_with_what_to_do(log: LogFile) -> None:
    """A broken log exits 1; --all says of a finding its rule, place, what was expected and read, and the source."""
    log.set("eval_samples", 1)
    log.save()
    result = run("check", "--all", log.path)
    assert result.exit_code == 1
    line = log.indices("eval_samples")[0] + 1
    first, *rest = result.output.splitlines()
    assert first == f"ERROR    hyperparameter.eval_samples  {log.path}:{line}"
    assert [text.split()[0] for text in rest[1:4]] == ["expected", "actual", "source"]
    assert rest[-1] == "FAIL  1 log, 1 error, 0 warnings"


def test_warning_passes(log: LogFile) -> None:
    """A WARNING is printed and does not fail."""
    log.delay("run_stop", 5)
    log.save()
    result = run("check", log.path)
    assert result.exit_code == 0
    assert "PASS  1 log, 0 errors, 1 warning" in result.output


def test_json_is_the_same_verdict(log: LogFile) -> None:
    """JSON holds the verdict, the logs, the counts and every field of every finding."""
    log.drop("run_stop")
    log.save()
    result = run("check", "--json", log.path)
    document = json.loads(result.output)
    assert (result.exit_code, document["format"], document["passed"]) == (1, 1, False)
    assert document["logs"] == [str(log.path)]
    assert document["counts"] == {"error": 1, "warning": 0, "info": 0}
    (finding,) = document["findings"]
    assert list(finding) == ["rule", "severity", "file", "line", "message", "expected", "actual", "source"]
    assert (finding["rule"], finding["severity"]) == ("event.missing", "ERROR")
    (judged,) = document["results"]
    assert (judged["ruleset"], judged["ruleset_from"]) == ("6.0.0", "the latest that has the benchmark")
    assert document["not_run"] == ["result, system and package checks: 1 log asked for alone, not as a folder"]


@pytest.mark.parametrize("given", ["6.0.0", "6.0", "v6.0", "v6.0.0"])
def test_ruleset_is_an_option(log: LogFile, given: str) -> None:
    """--ruleset also takes a version as rounds and their folders are called, and the heading names it in full."""
    result = run("check", "--ruleset", given, log.path)
    assert result.exit_code == 0
    assert "ruleset 6.0.0 (as asked for)" in result.output


@pytest.mark.parametrize("verb", ["check", "score", "rcp", "report", "watch", "official"])
def test_unknown_ruleset_is_wrong_usage(log: LogFile, verb: str) -> None:
    """An unknown ruleset is refused once, before a log is read, with the known ones."""
    result = run(verb, "--ruleset", "9.9", log.path)
    assert result.exit_code == 2
    assert "there is no ruleset '9.9'; valid are: 5.0.0, 5.1.0, 6.0.0, 6.1.0" in result.output


@pytest.mark.parametrize("command", ["check", "score"])
@pytest.mark.parametrize("arguments", [[], ["missing"], ["--unknown"]])
def test_wrong_usage_exits_2(command: str, arguments: list[str]) -> None:
    """No path, a path that does not exist and an unknown option exit 2 with one clear error."""
    result = run(command, *arguments)
    assert result.exit_code == 2
    assert "rror: " in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_hostile_text_is_printed_harmlessly(log: LogFile, as_json: list[str]) -> None:
    """Escape sequences and half characters in a log reach the terminal escaped."""
    log.set("submission_division", "\x1b[31m\ud800" + "x" * 10_000)
    log.path = log.path.with_name("result_\udcff.txt")
    log.save()
    result = run("check", *as_json, log.path)
    assert result.exit_code == 1
    assert "\x1b" not in result.output
    assert max(map(len, result.output.splitlines())) < 1000


def test_score_prints_minutes(log: LogFile) -> None:
    """`score` prints the minutes of a run, as text and as JSON."""
    minutes = (log.get("run_stop")["time_ms"] - log.get("run_start")["time_ms"]) / 60 / 1000
    assert f"{minutes:.3f} min  {log.path}" in run("score", log.path).output
    document = json.loads(run("score", "--json", log.path).output)
    assert document["results"][0]["minutes"] == [minutes]


def test_score_of_a_missed_target_is_none(log: LogFile) -> None:
    """A run that missed the target has no time."""
    log.set("eval_accuracy", log.get("target_accuracy")["value"] + 1, nth=-1)
    log.save()
    assert "no result" in run("score", log.path).output


def test_import_is_free() -> None:
    """Importing the checks loads neither the engine nor the command line."""
    heavy = ("torch", "megatron", "click", "rich", "pydantic", "numpy")
    code = f"import sys, compliance, compliance.check; sys.exit(str([m for m in {heavy} if m in sys.modules] or ''))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
