"""Which ruleset a log is judged by, and who says so: asked here by every command that judges."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from benchmark.benchmarks import every_rules
from benchmark.files import RUN_JSON
from benchmark.refusal import Refused

# Names of others' folders end in a version too, so that an unknown one is a round only in the name of its repository.
_REPOSITORY = re.compile(r"training_results_v(\d+\.\d+)")
_ROUND = re.compile(r"(?:.*[^A-Za-z])?v(\d+\.\d+)(?:\.0)?", re.DOTALL)
_VERSION = re.compile(r"v?(\d+\.\d+)(?:\.0)?")

PUBLISHED = {
    "4.1.0": date(2024, 11, 13),
    "5.0.0": date(2025, 6, 4),
    "5.1.0": date(2025, 11, 12),
    "6.0.0": date(2026, 6, 16),
}
"""The day on which MLCommons published the results of a round, the oldest first. A run is of the first round that was
published after it: all 109 logs of v5.0, v5.1 and v6.0 that we have are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A ruleset, and why it is the one."""

    ruleset: str | None = None
    """The latest that has the benchmark if None."""
    origin: str = "the latest that has the benchmark"
    """In words."""
    fault: str = ""
    """Why the run.json beside the log cannot be read, if it cannot."""


LATEST = Chosen()


class WithRuleset(Protocol):
    """What was judged by a ruleset."""

    @property
    def ruleset(self) -> str | None: ...

    @property
    def ruleset_from(self) -> str: ...


def judged_by(what: WithRuleset) -> str:
    """The ruleset and why it is that one: 5.0.0 (from the folder v5.0)."""
    return f"{what.ruleset or 'unknown'} ({what.ruleset_from})"


def asked_for(ruleset: str) -> Chosen:
    """One that the caller names."""
    return Chosen(ruleset=ruleset, origin="as asked for")


def choose(folder: Path, ruleset: str | None = None) -> Chosen:
    """The ruleset for the logs in a folder; raises nothing.

    It is `ruleset` if given, else what the run.json beside the logs says, else that of the round that a folder of the
    path is named after, the nearest one: training_results_v5.1, v5.1. Else it is the latest that has the benchmark.
    """
    if ruleset is not None:
        return asked_for(ruleset)
    try:
        recorded, fault = _recorded(folder / RUN_JSON), ""
    except (OSError, Refused) as error:
        recorded, fault = None, str(error)
    if recorded is not None:
        return Chosen(ruleset=recorded, origin=f"from {RUN_JSON}")
    # As it was typed, and then where its links lead.
    named = _named(Path(os.path.abspath(folder))) or _named(Path(os.path.realpath(folder)))
    if named is None:
        return replace(LATEST, fault=fault)
    name, found = named
    return Chosen(ruleset=found, origin=f"from the folder {name}", fault=fault)


def _recorded(path: Path) -> str | None:
    if not path.is_file():
        return None
    # pydantic takes a tenth of a second, which logs of others, without a run.json, need not.
    from benchmark.run_record import read

    return read(path).ruleset or None


def _named(folder: Path) -> tuple[str, str] | None:
    """The nearest folder that is named after a round, and the ruleset of that."""
    known = {row.ruleset for row in every_rules()}
    for above, name in reversed(list(pairwise(folder.parts))):
        # Systems are called as they like, so that below results/ a version has to be the whole name.
        found = (_VERSION if above == "results" else _ROUND).fullmatch(name)
        if found and (f"{found[1]}.0" in known or _REPOSITORY.fullmatch(name)):
            return name, f"{found[1]}.0"
    return None


def round_at(time_ms: float) -> str | None:
    """The ruleset of the round that a time in milliseconds since 1970 falls into; None before the first and after the
    last that are known here, and for no time at all."""
    try:
        day = datetime.fromtimestamp(time_ms / 1000, UTC).date()
    except (OverflowError, OSError, ValueError):
        return None
    rounds = [ruleset for ruleset, published in PUBLISHED.items() if day < published]
    # What was run before the first day was run for a round that has none of these benchmarks.
    return rounds[0] if 0 < len(rounds) < len(PUBLISHED) else None
