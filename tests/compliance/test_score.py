"""Scores to the last digit: of the published results, and as the official summariser computes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmark.benchmarks import BENCHMARKS
from benchmark.files import RUN_JSON
from compliance.check import check_paths, find_logs, open_result
from compliance.convergence.rcp import compare
from compliance.convergence.scaling import FILE
from compliance.convergence.score import Score, score
from compliance.findings import Severity
from harness.__main__ import main
from tests.compliance.test_against_official import PUBLISHED, ROUNDS, published
from tests.launches import launch, llama31_405b, stop_all_after
from tests.logs import LogFile


def complete(folder: Path) -> bool:
    """Whether a published result has all its logs here."""
    return len(list(folder.glob("result_*.txt"))) == BENCHMARKS[folder.name].rules[-1].runs


RESULTS = [
    pytest.param(folder, ruleset, id=f"{round_name}-{folder.parent.name}-{folder.name}")
    for round_name, ruleset in ROUNDS.items()
    for tree in (PUBLISHED, PUBLISHED.with_name("published-8b"))
    for folder in sorted(tree.glob(f"{round_name}/*/results/*/llama31_*"))
    if complete(folder)
]
ASKED = ("run_start", "run_stop", "eval_accuracy", "global_batch_size", "submission_benchmark")
"""Keys of the events that decide a score; logs of these alone are read in a tenth of the time."""


def scored(folder: Path, ruleset: str | None = None) -> Score:
    (group,) = find_logs([folder])
    return score(open_result(group, ruleset))


def officially_scored(folder: Path, ruleset: str) -> float:
    """The official summariser's own arithmetic over the times of a result's logs, and its scaling.json."""
    from mlperf_logging.compliance_checker.mlp_parser import parse_file
    from mlperf_logging.result_summarizer import result_summarizer as official

    logs = [parse_file(str(log), ruleset=ruleset)[0] for log in folder.glob("result_*.txt")]
    minutes = [official._query_mlperf_strong_scaling_score(log) for log in logs]
    return float(official._compute_olympic_average(minutes, 0, 1) * official._get_scaling_factor(str(folder)))


@published
@pytest.mark.parametrize(("folder", "ruleset"), RESULTS)
def test_published_factor_and_score(folder: Path, ruleset: str, tmp_path: Path) -> None:
    """Verdict, factor (the published one; none is a factor of 1) and score are the official ones, to the last digit."""
    from mlperf_logging.rcp_checker.rcp_checker import check_directory

    for log in folder.glob("result_*.txt"):
        lines = log.read_text(encoding="latin-1").splitlines(keepends=True)
        kept = (line for line in lines if any(key in line for key in ASKED))
        (tmp_path / log.name).write_text("".join(kept), encoding="latin-1")
    passed, _, factor = check_directory(str(tmp_path), "training", ruleset, False, False, rcp_pass="pruned_rcps")
    if (folder / FILE).exists():
        shutil.copy(folder / FILE, tmp_path)
    (group,) = find_logs([folder])
    result = open_result(group, ruleset)
    ours, convergence = score(result), compare(result)
    stated = None if ours.scaling is None else ours.scaling.stated
    assert (convergence.passed, ours.factor, stated or 1.0) == (passed, factor, factor)
    assert ours.normalised_minutes == officially_scored(tmp_path, ruleset)


@published
def test_published_results_are_all_there() -> None:
    """The test above has something to compare."""
    assert len(RESULTS) == 22


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


# scaling.json.


@pytest.fixture
def result(runs: Path, tmp_path: Path) -> Path:
    """Those runs as a result of a submission."""
    folder = tmp_path / "Example" / "results" / "TEST" / "llama31_405b"
    return Path(shutil.copytree(runs, folder, ignore=shutil.ignore_patterns(RUN_JSON)))


def state(result: Path, factor: object) -> None:
    (result / FILE).write_text(json.dumps({"scaling_factor": factor}), encoding="utf-8")


def set_in_all(result: Path, key: str, value: object) -> None:
    for path in result.glob("result_*.txt"):
        log = LogFile(path)
        log.set(key, value)
        log.save()


OWN = 313344 / 294912
STATED: list[tuple[object, list[Severity]]] = [
    (OWN, []),
    (round(OWN, 10), []),
    (1.0, [Severity.ERROR]),
    (OWN - 1e-6, [Severity.ERROR]),
    (1.5, [Severity.WARNING]),
    ("1.0", [Severity.ERROR]),
    (None, [Severity.ERROR]),
]


@pytest.mark.parametrize(("factor", "severities"), STATED)
def test_stated_factor_is_compared(result: Path, factor: object, severities: list[Severity]) -> None:
    """A scaling.json that makes a score shorter than the runs do, or that no tool reads, is an ERROR; one that makes it
    longer is a WARNING. The score stays: the official tools write the file anew."""
    state(result, factor)
    findings = check_paths([result.parents[2]]).findings
    assert [finding.severity for finding in findings if finding.rule == "package.scaling"] == severities
    assert scored(result).factor == OWN
    warned = "scaling.json" in CliRunner().invoke(main, ["score", str(result)]).output
    assert warned == bool(severities)


def test_summarised_minutes_are_the_official_ones(result: Path) -> None:
    """The minutes attributed to the official summariser are those that it computes from the file as it is."""
    state(result, 1.5)
    assert scored(result).summarised_minutes == officially_scored(result, "6.0.0")


@pytest.mark.parametrize(("key", "value"), [("submission_division", "open"), ("global_batch_size", 9216)])
def test_stated_factor_counts_where_no_tool_makes_one(result: Path, key: str, value: object) -> None:
    """In the open division, and beyond the reference, the score is by the file, below 1 an ERROR."""
    set_in_all(result, key, value)
    for factor, severities in ((1.5, []), (0.5, [Severity.ERROR])):
        state(result, factor)
        assert scored(result).normalised_minutes == officially_scored(result, "6.0.0")
        findings = check_paths([result.parents[2]]).findings
        assert [finding.severity for finding in findings if finding.rule == "package.scaling"] == severities


def test_open_result_is_not_normalised(result: Path) -> None:
    """Without a file, the score of an open result is the mean, however fast it converges."""
    set_in_all(result, "submission_division", "open")
    found = scored(result)
    assert (found.factor, found.normalised_minutes) == (1.0, found.olympic_minutes)


# The command.


def test_command_prints_raw_and_normalised(runs: Path) -> None:
    """`score` prints both means, as text and as JSON."""
    found = scored(runs)
    text = CliRunner().invoke(main, ["score", str(runs)]).output
    assert f"{found.olympic_minutes:.3f} min  {runs} (olympic mean)" in text
    assert f"{found.normalised_minutes:.3f} min  {runs} (normalised, x {found.factor})" in text
    (document,) = json.loads(CliRunner().invoke(main, ["score", "--json", str(runs)]).output)["results"]
    assert (document["scaling"], document["summarised_minutes"]) == (None, None)
    assert (document["factor"], document["normalised_minutes"]) == (found.factor, found.normalised_minutes)
