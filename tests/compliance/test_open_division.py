"""The open division: every command says what it does not judge there, and none judges it anyway."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from compliance import official
from compliance.check import check_paths, open_run
from compliance.official import Tool
from compliance.run import FREE_IN_OPEN
from harness.__main__ import main
from report.watch import WatchView, lines
from tests.launches import launch, llama31_405b, stop_all_after


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rehearsed runs of the open division, of another network under another schedule."""
    config = llama31_405b(
        MLPERF_SUBMISSION_DIVISION="open", LEARNING_RATE="1e-3", WARMUP_STEPS=10, MODEL_SIZE="70b", WEIGHT_DECAY="0"
    )
    return launch(tmp_path_factory.mktemp("open") / "runs", config)


def output(verb: str, *arguments: str | Path) -> str:
    done = CliRunner().invoke(main, [verb, *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


def test_check_says_what_it_does_not_judge(result: Path) -> None:
    """`check` passes the logs, and says which rules are of the closed division."""
    (said,) = [line for line in output("check", result).splitlines() if "open division" in line]
    assert said.startswith("not run")
    assert FREE_IN_OPEN in said
    assert [one.is_open for one in check_paths([result]).results] == [True]


def test_closed_results_need_no_such_word(tmp_path: Path) -> None:
    """A result of the closed division is judged in full, so the open division is not mentioned."""
    folder = launch(tmp_path / "runs", llama31_405b())
    for verb in ("check", "rcp", "score", "report"):
        assert "open division" not in output(verb, folder)


def test_rcp_compares_and_does_not_judge(result: Path, tmp_path: Path) -> None:
    """`rcp` of runs far below the closed division's limits shows the reference, no verdict, and exits with 0."""
    fast = Path(shutil.copytree(result, tmp_path / "runs"))
    stop_all_after(fast, 18432)
    said = output("rcp", fast)
    assert said.startswith("open")
    assert "convergence is not judged" in said
    assert "mean 313344.0" in said
    assert not {"PASS", "FAIL", "policy", "official"} & set(said.split())


def test_score_is_not_normalised(result: Path) -> None:
    """`score` says that convergence gives no factor."""
    assert "open division: convergence is not judged" in output("score", result)


@pytest.mark.parametrize("form", ["--md", None])
def test_report_says_what_nobody_judges(result: Path, form: str | None) -> None:
    """A page and Markdown name what is free in the open division."""
    assert FREE_IN_OPEN in output("report", result, *filter(None, [form]))


def test_report_counts_the_work_of_the_network_that_was_trained(result: Path) -> None:
    """TFLOP/s are those of the network that the logs name, not of the benchmark's."""
    assert "Training Llama 3.1 70b on a sample" in output("report", result)


def test_watch_promises_no_factor(result: Path) -> None:
    """`watch` does not mention a limit that does not bind the run."""
    (said,) = [one for one in lines(open_run(result / "result_0.txt"), WatchView()) if one.startswith("convergence")]
    assert said == "convergence  not judged in the open division"


def test_official_tools_are_asked_what_they_judge_there(result: Path) -> None:
    """For an open result neither rcp_checker nor seed_checker is asked, as in package_checker."""
    verdicts = official.judge(result).verdicts
    assert {verdict.tool for verdict in verdicts} == {Tool.COMPLIANCE}
    assert all(verdict.passed for verdict in verdicts)
