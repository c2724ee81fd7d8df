"""The official checkers as programs: whether they accept the content of a folder."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from compliance.official import rulesets

# What their programs do, with many results; their import takes longer than many checks.
_SEEDS = """
import json, sys
from mlperf_logging.package_checker.seed_checker import SeedChecker
ruleset, results = sys.argv[1:]
sys.exit(not all(SeedChecker(ruleset).check_seeds(logs) for logs in json.loads(results)))
"""

_RCP = """
import sys
from mlperf_logging.rcp_checker.rcp_checker import check_directory as passes
ruleset, *directories = sys.argv[1:]
sys.exit(not all(passes(one, "training", ruleset, False, False, rcp_pass="pruned_rcps")[0] for one in directories))
"""


def package() -> Path:
    """The installed tools."""
    spec = find_spec("mlperf_logging")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def needs_official(ruleset: str) -> None:
    """Skip the test that calls this where the installed tools lack a ruleset, which may be in our rules first."""
    if ruleset not in rulesets():
        pytest.skip(f"the installed mlperf_logging has no ruleset {ruleset}")


def accepts_log(log: Path, ruleset: str) -> bool:
    """Whether compliance_checker passes one log."""
    done = _run("-m", "mlperf_logging.compliance_checker", "--ruleset", ruleset, "--log_output", "/dev/null", str(log))
    return done.returncode == 0 and "SUCCESS" in done.stderr


def rejections(log: Path, ruleset: str) -> list[str]:
    """What compliance_checker has against a log; asked in this process, because that takes milliseconds.

    Only for logs whose division and benchmark are known ones: it executes the files that they name.
    """
    from mlperf_logging.compliance_checker import mlp_compliance

    mlp_compliance.enqueued_configs.clear()
    checker = mlp_compliance.make_checker("training", ruleset, quiet=False, werror=False)
    try:
        checker.check_file(str(log), f"training_{ruleset}/common.yaml")
    except Exception as error:  # noqa: BLE001 - a crash is a rejection
        return [f"crashed: {error!r}"]
    return [*checker.overwritable.values(), *checker.not_overwritable]


def accepts_seeds(results: Sequence[Sequence[Path]], ruleset: str) -> bool:
    """Whether package_checker's seed checker passes the logs of each result."""
    return _run("-c", _SEEDS, ruleset, json.dumps([[str(log) for log in logs] for logs in results])).returncode == 0


def accepts_directories(directories: Sequence[Path], ruleset: str) -> bool:
    """Whether rcp_checker passes the logs result_*.txt in each directory."""
    return _run("-c", _RCP, ruleset, *map(str, directories)).returncode == 0


def accepts_package(tree: Path, ruleset: str) -> bool:
    """Whether package_checker passes an organisation's tree, which it may write to; asked in this process.

    Only for logs as `rejections` asks for.
    """
    from mlperf_logging.compliance_checker import mlp_compliance
    from mlperf_logging.package_checker import package_checker

    mlp_compliance.enqueued_configs.clear()
    try:
        systems = package_checker.check_systems(str(tree), "training", ruleset)
        switches = {"rcp_bypass": False, "rcp_bert_train_samples": False, "seed_checker_bypass": False}
        return systems and package_checker.check_training_result_files(
            str(tree), "training", ruleset, quiet=False, werror=False, **switches
        )
    except Exception:  # noqa: BLE001 - a crash is a rejection
        return False


def accepts_summary(tree: Path, ruleset: str) -> bool:
    """Whether result_summarizer makes a score of every result of a tree; asked as `accepts_package` is."""
    from mlperf_logging.compliance_checker import mlp_compliance
    from mlperf_logging.result_summarizer import result_summarizer

    mlp_compliance.enqueued_configs.clear()
    try:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            result_summarizer.summarize_results(str(tree), "training", ruleset)
    except Exception:  # noqa: BLE001 - a crash is a rejection
        return False
    return "ERROR" not in said.getvalue()


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
