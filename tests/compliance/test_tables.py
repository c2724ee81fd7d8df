"""Our tables of keys and names against the files of the installed official checker, so that none goes stale."""

from __future__ import annotations

import ast
import re
from typing import Any

import pytest
import yaml

from benchmark.benchmarks import BENCHMARKS
from benchmark.rules import Rules
from compliance.checks.clock import DIVISIONS_WITH_LIMIT
from compliance.checks.events import ONCE, PRECISION, required
from compliance.checks.hyperparameters import number_formats
from tests.official import needs_official, package

SUBMITTABLE = [row for benchmark in BENCHMARKS.values() if benchmark.submittable for row in benchmark.rules]

ASKED_FOR_BY_OTHERS = {
    "seed": "the official seed_checker",
    "submission_org": "the official files from 5.1.0 on",
    "submission_platform": "the same",
    "submission_status": "the system's description repeats it",
    "eval_start": "the official file is content with blocks alone; without it nobody can tell an evaluation's time",
    "eval_stop": "the same",
    "block_stop": "the official file is content with epoch_stop",
}
"""Key -> who asks for it, or why we do, where no official rule file does."""

rulesets = pytest.mark.parametrize("row", SUBMITTABLE, ids=lambda row: f"{row.benchmark}-{row.ruleset}")


def keys(row: Rules) -> dict[str, dict[str, Any]]:
    """What the official checker asks of each key of a log of the closed division; the last file wins, as there."""
    needs_official(row.ruleset)
    folder = package() / "compliance_checker" / f"training_{row.ruleset}"
    found: dict[str, dict[str, Any]] = {}
    for name in ("common", "closed_common", f"closed_{row.benchmark}"):
        entries = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
        found |= {entry["KEY"]["NAME"]: entry["KEY"] for entry in entries if "KEY" in entry}
    return found


@rulesets
def test_what_official_files_ask_for_is_asked_for_here(row: Rules) -> None:
    """A key that the official checker wants once, or at least once, is required; what is more has a written reason."""
    official = {key for key, entry in keys(row).items() if entry.get("REQ") in ("EXACTLY_ONE", "AT_LEAST_ONE")}
    assert official <= set(required(row))
    alternatives = {key for key, entry in keys(row).items() if "_OR(" in entry.get("REQ", "")}
    assert set(required(row)) - official - alternatives <= set(ASKED_FOR_BY_OTHERS)


@rulesets
def test_what_official_files_ask_for_once_is_looked_for_once(row: Rules) -> None:
    """A key that the official checker wants exactly once may not be logged twice."""
    assert {key for key, entry in keys(row).items() if entry.get("REQ") == "EXACTLY_ONE"} <= ONCE


@rulesets
def test_names_are_those_of_the_official_files(row: Rules) -> None:
    """Numerical formats, divisions and the names of benchmarks are the official checker's, in each ruleset."""
    entries = keys(row)
    assert _choices(entries["submission_division"]) == set(DIVISIONS_WITH_LIMIT)
    assert row.benchmark in _choices(entries["submission_benchmark"])
    for key in filter(entries.__contains__, PRECISION):
        assert _choices(entries[key]) == set(number_formats(row)), key


def _choices(entry: dict[str, Any]) -> set[str]:
    """The list that an official check looks a value up in."""
    found = re.search(r"in (\[.*\])", str(entry["CHECK"]))
    assert found is not None
    return set(ast.literal_eval(found[1]))
