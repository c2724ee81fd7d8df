"""Scores to the last digit: of the published results, and as the official summariser computes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from compliance.check import find_logs, open_result
from compliance.convergence.score import Score, score
from harness.__main__ import main
from tests.compliance.test_against_official import PUBLISHED, ROUNDS, published
from tests.launches import launch, llama31_405b, stop_all_after

RESULTS = [
    pytest.param(folder, ruleset, id=f"{round_name}-{folder.parent.name}")
    for round_name, ruleset in ROUNDS.items()
    for folder in sorted(PUBLISHED.glob(f"{round_name}/*/results/*/llama31_405b"))
]


def scored(folder: Path, ruleset: str | None = None) -> Score:
    (group,) = find_logs([folder])
    return score(open_result(group, ruleset))


def officially_scored(folder: Path, ruleset: str, factor: float) -> float:
    """The official summariser's own arithmetic over the times of a result's logs."""
    from mlperf_logging.compliance_checker.mlp_parser import parse_file
    from mlperf_logging.result_summarizer import result_summarizer as official

    logs = [parse_file(str(log), ruleset=ruleset)[0] for log in folder.glob("result_*.txt")]
    minutes = [official._query_mlperf_strong_scaling_score(log) for log in logs]
    return float(official._compute_olympic_average(minutes, 0, 1) * factor)


@published
@pytest.mark.parametrize(("folder", "ruleset"), RESULTS)
def test_published_factor_and_score(folder: Path, ruleset: str) -> None:
    """The factor is the published one (none is a factor of 1), and so is the score, to the last digit."""
    scaling = folder / "scaling.json"
    factor = json.loads(scaling.read_text(encoding="utf-8"))["scaling_factor"] if scaling.exists() else 1.0
    ours = scored(folder, ruleset)
    assert ours.factor == factor
    assert ours.normalised_minutes == officially_scored(folder, ruleset, factor)


@published
def test_published_results_are_all_there() -> None:
    """The test above has something to compare."""
    assert len(RESULTS) == 16


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs that converge faster than the reference's mean."""
    folder = launch(tmp_path_factory.mktemp("score") / "runs", llama31_405b())
    stop_all_after(folder, 294912)
    return folder


def test_faster_convergence_makes_the_score_longer(runs: Path) -> None:
    """The score is the olympic mean times how much faster the runs converged than the reference."""
    found = scored(runs)
    assert found.olympic_minutes is not None
    assert found.factor is not None
    assert found.factor == 313344 / 294912
    assert found.normalised_minutes == found.olympic_minutes * found.factor


def test_command_prints_raw_and_normalised(runs: Path) -> None:
    """`score` prints both means, as text and as JSON."""
    found = scored(runs)
    text = CliRunner().invoke(main, ["score", str(runs)]).output
    assert f"{found.olympic_minutes:.3f} min  {runs} (olympic mean)" in text
    assert f"{found.normalised_minutes:.3f} min  {runs} (normalised, x {found.factor})" in text
    (document,) = json.loads(CliRunner().invoke(main, ["score", "--json", str(runs)]).output)["results"]
    assert (document["factor"], document["normalised_minutes"]) == (found.factor, found.normalised_minutes)
