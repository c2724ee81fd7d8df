"""The checks against the world: logs that MLCommons published, and its own checker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.config import ROOT
from compliance.check import check_paths, find_logs, open_result
from compliance.findings import Severity
from compliance.score import score
from tests.compliance.logs import llama31_405b, make_log, reaching

PUBLISHED = ROOT.parent / "shared" / "published"
ROUNDS = {"v5.0": "5.0.0", "v5.1": "5.1.0"}

published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published logs are not beside this checkout")


@published
@pytest.mark.parametrize("round_name", ROUNDS)
def test_published_logs_have_no_error(round_name: str) -> None:
    """What MLCommons accepted and published breaks no rule of its own round."""
    report = check_paths([PUBLISHED / round_name], ROUNDS[round_name])
    assert report.logs
    assert [finding for finding in report.findings if finding.severity is Severity.ERROR] == []


@published
@pytest.mark.parametrize("round_name", ROUNDS)
def test_published_results_have_a_score(round_name: str) -> None:
    """Every published result has a time for each run and an olympic mean."""
    scores = [score(open_result(group, ROUNDS[round_name])) for group in find_logs([PUBLISHED / round_name])]
    assert scores
    assert all(result.olympic_minutes in result.minutes for result in scores)


@pytest.mark.parametrize("ruleset", ["5.0.0", "5.1.0", "6.0.0"])
def test_official_checker_accepts_what_the_loop_logs(tmp_path: Path, ruleset: str) -> None:
    """The official compliance checker accepts a 405B log of the real loop, as ours does."""
    config = llama31_405b(RULESET=ruleset)
    log = make_log(tmp_path / "result_0.txt", config, reaching(config))
    command = [
        "-m",
        "mlperf_logging.compliance_checker",
        "--ruleset",
        ruleset,
        "--log_output",
        "official.log",
        str(log),
    ]
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "SUCCESS" in done.stdout + done.stderr, done.stderr[-2000:]
    assert done.returncode == 0
    assert check_paths([log], ruleset).findings == ()
