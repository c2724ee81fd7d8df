"""One job of the endurance command, whose thirty faults are more than a test has time for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmark.checkout import ROOT


@pytest.mark.slow
def test_a_job_that_is_broken_again_and_again_ends_as_an_undisturbed_one(slurm: None) -> None:
    """Each fault has its honest end, and the evaluations are those of an undisturbed job, bit for bit."""
    del slurm  # installed
    command = [sys.executable, "-m", "tests.slurm.endurance", "--slow"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
