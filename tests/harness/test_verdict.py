"""The verdict on a set of runs: only runs and checks decide it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from harness import verdict
from tests.launches import launch, llama31_405b
from tests.logs import LogFile


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch(tmp_path_factory.mktemp("verdict") / "runs", llama31_405b())


def crash(*_: Any, **__: Any) -> None:
    raise ZeroDivisionError("no such thing")


def concluded(
    runs: Path, capsys: pytest.CaptureFixture[str], *statuses: int, interrupted: bool = False
) -> tuple[int, list[str]]:
    ended = {f"result_{run}.txt": status for run, status in enumerate(statuses or (0, 0, 0))}
    status = verdict.conclude(llama31_405b(), runs, ended, interrupted=interrupted)
    return status, capsys.readouterr().out.splitlines()


def test_good_runs_pass_with_score_and_report(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last lines have their folder, their page and the verdict."""
    status, lines = concluded(runs, capsys)
    last = [f"report    {runs}/report.html", f"results   {runs}", "verdict   PASS, SIMULATED"]
    assert (status, lines[-3:]) == (0, last)
    assert any("olympic mean" in line for line in lines)
    assert (runs / "report.html").exists()


@pytest.mark.parametrize("what", ["score", "report"])
def test_what_only_shows_them_cannot_fail_them(
    what: str, runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last lines name a score or a report that crashes, and the verdict stays."""
    monkeypatch.setattr(verdict, {"score": "_print_score", "report": "_write_report"}[what], crash)
    status, lines = concluded(runs, capsys)
    assert (status, lines[-1]) == (0, "verdict   PASS, SIMULATED")
    assert f"{what:9} not made: ZeroDivisionError: no such thing" in lines[-4:]


def test_a_check_that_crashes_has_not_passed(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verdict is FAIL, and names the crash as its cause."""
    monkeypatch.setattr(verdict, "check_paths", crash)
    status, lines = concluded(runs, capsys)
    assert (status, lines[-1]) == (1, "verdict   FAIL")
    assert "cause     compliance check crashed: ZeroDivisionError: no such thing" in lines


def test_a_run_that_was_stopped_by_a_signal_gives_its_status(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The status is 128 + n, however the other runs ended."""
    assert concluded(runs, capsys, 0, 143, 1)[0] == 143


def miss(folder: Path, *runs: int) -> None:
    for run in runs:
        log = LogFile(folder / f"result_{run}.txt")
        log.set("eval_accuracy", 6.0, nth=-1)
        log.get("run_stop")["metadata"]["status"] = "aborted"
        log.save()


def test_one_run_of_a_result_may_miss_the_target(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named, and the others decide, unless the job was told to end; two misses fail."""
    folder = tmp_path / "runs"
    shutil.copytree(runs, folder)
    miss(folder, 1)
    status, lines = concluded(folder, capsys, 0, 137, 0)
    assert (status, lines[-1]) == (0, "verdict   PASS, SIMULATED")
    assert any("result_1.txt did not reach the target" in line for line in lines)
    assert concluded(folder, capsys, 0, 143, 0, interrupted=True)[0] == 143
    assert concluded(folder, capsys, 0, 1, 1)[0] == 1
    miss(folder, 2)
    assert concluded(folder, capsys, 0, 1, 1)[0] == 1
