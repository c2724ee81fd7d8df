"""Tests of comparing two results, and of curves for other programs."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harness.__main__ import main
from report.diff import compare, open_one
from report.results import gather
from tests.launches import launch, llama31_405b


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two rehearsed results: the second with other seeds, slower steps and another parallel layout."""
    folder = tmp_path_factory.mktemp("diff")
    other = llama31_405b(TENSOR_MODEL_PARALLEL=8, DGXNNODES=2, DGXNGPU=8)
    return (
        launch(folder / "one", llama31_405b()),
        launch(folder / "other", other, seeds=range(3, 6), step_seconds=12.0),
    )


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def test_what_differs_is_told(both: tuple[Path, Path]) -> None:
    """Variables, logged values and step times that differ are listed with both values; the rest is counted."""
    parts = {part.title: part for part in compare(*map(open_one, both))}
    different = {pair.name: (pair.one, pair.other) for pair in parts["configuration (run.json)"].different}
    assert different["TENSOR_MODEL_PARALLEL"] == ("1", "8")
    logged = [pair.name for pair in parts["configuration (logs)"].different]
    assert "tensor_parallelism" in logged
    assert "seed" not in logged
    steps = {pair.name: (float(pair.one), float(pair.other)) for pair in parts["step times, mean of the runs"].pairs}
    assert steps["median step, s"] == pytest.approx((10, 12), rel=0.01)
    assert not parts["versions"].different
    done = invoke("diff", *both)
    assert done.exit_code == 0
    assert "TENSOR_MODEL_PARALLEL" in done.output
    assert "identical: " in done.output
    assert "versions (" in done.output


def test_a_result_is_like_itself(both: tuple[Path, Path]) -> None:
    """A result compared with itself differs in nothing, not even a curve."""
    one = open_one(both[0])
    assert [part.title for part in compare(one, one) if part.different] == []


def test_diff_wants_one_result_of_each(both: tuple[Path, Path]) -> None:
    """A folder of several results is refused, with their names."""
    done = invoke("diff", both[0].parent, both[1])
    assert done.exit_code == 2
    assert "holds 2 results (one, other); expected one" in done.output


def test_csv_has_every_point_in_full(both: tuple[Path, Path], tmp_path: Path) -> None:
    """The CSV has all evaluations, losses and step times of each run."""
    out = tmp_path / "curves.csv"
    assert invoke("curves", both[0], "--csv", out).exit_code == 0
    rows = list(csv.DictReader(out.read_text(encoding="utf-8").splitlines()))
    (result,) = gather([both[0]])
    run = result.runs[1]
    found = [row for row in rows if row["log"] == run.name and row["curve"] == "log_perplexity"]
    assert [float(row["value"]) for row in found] == run.evaluations.values.tolist()
    assert [float(row["samples"]) for row in found] == run.evaluations.samples.tolist()


def test_tensorboard_has_a_run_for_each_log(both: tuple[Path, Path], tmp_path: Path) -> None:
    """Each log gets an event file below the folder; without the library one line names the command to install it."""
    done = invoke("curves", both[0], "--tensorboard", tmp_path / "events")
    if done.exit_code:
        assert "mlperf-llama31[tensorboard]" in done.output
        return
    assert len(list((tmp_path / "events").glob("*/*/events.out.tfevents.*"))) == 3


def test_curves_want_to_know_where(both: tuple[Path, Path]) -> None:
    """`curves` without --csv and --tensorboard is refused."""
    assert invoke("curves", both[0]).exit_code == 2


def test_markdown_on_a_terminal_of_latin_1(both: tuple[Path, Path]) -> None:
    """Characters that the terminal cannot encode are replaced."""
    done = CliRunner(charset="latin-1").invoke(main, ["report", str(both[0]), "--md"])
    assert done.exit_code == 0
    assert "| - |" in done.output
