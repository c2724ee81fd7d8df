"""The official checkers as programs: whether they accept what is in a folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_SEEDS = """
import sys
from mlperf_logging.package_checker.seed_checker import SeedChecker
sys.exit(not SeedChecker(sys.argv[1]).check_seeds(sys.argv[2:]))
"""


def accepts_log(log: Path, ruleset: str) -> bool:
    """Whether compliance_checker passes one log."""
    done = _run("-m", "mlperf_logging.compliance_checker", "--ruleset", ruleset, "--log_output", "/dev/null", str(log))
    return done.returncode == 0 and "SUCCESS" in done.stderr


def accepts_seeds(logs: Sequence[Path], ruleset: str) -> bool:
    """Whether package_checker's seed checker passes the logs of one result."""
    return _run("-c", _SEEDS, ruleset, *map(str, logs)).returncode == 0


def accepts_directory(directory: Path, ruleset: str) -> bool:
    """Whether rcp_checker passes the logs result_*.txt in a directory."""
    arguments = ("--rcp_version", ruleset, "--log_output", "/dev/null", str(directory))
    return "RCP test PASSED" in _run("-m", "mlperf_logging.rcp_checker", *arguments).stderr


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
