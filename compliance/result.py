"""The runs of one result, as the rules in compliance.checks.results see them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.benchmarks import OTHER_BENCHMARKS
from benchmark.rules import Rules
from compliance.checks.rule import Rulebook
from compliance.run import Run

LOG_NAME = re.compile(r"result_.*\.txt", re.DOTALL)
"""Matches the name of a run's log. A name may hold a line break."""


@dataclass(frozen=True)
class Result:
    """The runs in one folder."""

    directory: Path
    runs: tuple[Run, ...]

    @property
    def file(self) -> str:
        return str(self.directory)

    @property
    def row(self) -> Rules | None:
        return next((run.row for run in self.runs if run.row is not None), None)

    @property
    def is_open(self) -> bool:
        """Whether any run is of the open division, where nobody judges how fast a run converges."""
        return any(run.is_open for run in self.runs)

    @property
    def is_of_another_benchmark(self) -> bool:
        """Whether its folder and all its logs name an MLPerf benchmark that is not judged here."""
        name = self.directory.name
        return name in OTHER_BENCHMARKS and all(
            run.has("submission_benchmark") and run.value("submission_benchmark") == name for run in self.runs
        )

    @property
    def ruleset(self) -> str | None:
        """The ruleset that judges it; None if none was chosen and none has the benchmark."""
        return self.row.ruleset if self.row is not None else self.runs[0].chosen.ruleset

    @property
    def ruleset_from(self) -> str:
        """Why this ruleset was chosen, in words."""
        return self.runs[0].chosen.origin

    @property
    def marks(self) -> tuple[str, ...]:
        """The marks by which logs say that their runs do not count, such as `simulated`; empty if all runs count."""
        return tuple(sorted({mark for run in self.runs for mark in run.log.not_a_run}))


def in_capitals(marks: Sequence[str]) -> str:
    """Return marks as every screen and page shows them."""
    return ", ".join(mark.upper() for mark in marks)


RESULT_RULES: Rulebook[Result] = Rulebook()
rule = RESULT_RULES.rule
