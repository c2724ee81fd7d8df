"""Choose the ruleset that judges a log, and say why. Every command that judges asks here."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from benchmark.benchmarks import every_rules
from benchmark.errors import RefusedError
from benchmark.files import RUN_JSON

# Other folders have names that end in a version too, so an unknown version counts only in the name of a repository.
_REPOSITORY = re.compile(r"training_results_v(\d+\.\d+)")
_ROUND = re.compile(r"(?:.*[^A-Za-z])?v(\d+\.\d+)(?:\.0)?", re.DOTALL)
_VERSION = re.compile(r"v?(\d+\.\d+)(?:\.0)?")

PUBLISHED = {
    "4.1.0": date(2024, 11, 13),
    "5.0.0": date(2025, 6, 4),
    "5.1.0": date(2025, 11, 12),
    "6.0.0": date(2026, 6, 16),
}
"""Ruleset -> the day on which MLCommons published the results of its round, the oldest first.

A run belongs to the first round that was published after it. That holds for all 109 published logs of v5.0, v5.1 and
v6.0 that this was tried on.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenRuleset:
    """A ruleset, and why it was chosen."""

    ruleset: str | None = None
    """None for the latest that has the benchmark."""
    origin: str = "the latest that has the benchmark"
    """Why it was chosen, in words."""
    fault: str = ""
    """Why the run.json in the folder of the log cannot be read; empty if it can, or if there is none."""


LATEST = ChosenRuleset()


class WithRuleset(Protocol):
    """Anything that a ruleset has judged."""

    @property
    def ruleset(self) -> str | None: ...

    @property
    def ruleset_from(self) -> str: ...


def judged_by(what: WithRuleset) -> str:
    """Return the ruleset and why it was chosen: 5.0.0 (from the folder v5.0)."""
    return f"{what.ruleset or 'unknown'} ({what.ruleset_from})"


def asked_for(ruleset: str) -> ChosenRuleset:
    """Return the choice of a ruleset that the caller names."""
    return ChosenRuleset(ruleset=ruleset, origin="as asked for")


def choose(folder: Path, ruleset: str | None = None) -> ChosenRuleset:
    """Choose the ruleset for the logs in a folder; raises nothing.

    It is `ruleset` if given; else the one in the folder's run.json; else that of the nearest folder in the path that is
    named after a round, such as training_results_v5.1 or v5.1; else the latest that has the benchmark.
    """
    if ruleset is not None:
        return asked_for(ruleset)
    try:
        recorded, fault = _recorded(folder / RUN_JSON), ""
    except (OSError, RefusedError) as error:
        recorded, fault = None, str(error)
    if recorded is not None:
        return ChosenRuleset(ruleset=recorded, origin=f"from {RUN_JSON}")
    # Ask the path as it was typed, then the one to which its links lead.
    named = _named(Path(os.path.abspath(folder))) or _named(Path(os.path.realpath(folder)))
    if named is None:
        return replace(LATEST, fault=fault)
    name, of_round = named
    return ChosenRuleset(ruleset=of_round, origin=f"from the folder {name}", fault=fault)


def _recorded(path: Path) -> str | None:
    if not path.is_file():
        return None
    # Importing pydantic takes 0.1 s, which logs without a run.json need not pay.
    from benchmark.run_record import read

    return read(path).ruleset or None


def _named(folder: Path) -> tuple[str, str] | None:
    """Return the name of the nearest folder that is named after a round, and the ruleset of that round."""
    known = {row.ruleset for row in every_rules()}
    for above, name in reversed(list(pairwise(folder.parts))):
        # A system may have any name, so below results/ the whole name has to be a version.
        version = (_VERSION if above == "results" else _ROUND).fullmatch(name)
        if version and (f"{version[1]}.0" in known or _REPOSITORY.fullmatch(name)):
            return name, f"{version[1]}.0"
    return None


def round_at(time_ms: float) -> str | None:
    """Return the ruleset of the round that a run at a time belongs to.

    Args:
        time_ms: milliseconds since 1970.

    Returns:
        None for a time before the first round or after the last one that is known here, and for an impossible time.
    """
    try:
        day = datetime.fromtimestamp(time_ms / 1000, UTC).date()
    except (OverflowError, OSError, ValueError):
        return None
    rounds = [ruleset for ruleset, published in PUBLISHED.items() if day < published]
    # A run before the first day was made for a round that has none of these benchmarks.
    return rounds[0] if 0 < len(rounds) < len(PUBLISHED) else None
