"""The runs of one result, as the rules look at them together; compliance.checks.results has the rules."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmark.rules import Rules
from compliance.checks.rule import Rulebook
from compliance.run import Run


@dataclass(frozen=True)
class Result:
    """The runs in one directory."""

    directory: Path
    runs: tuple[Run, ...]

    @property
    def file(self) -> str:
        return str(self.directory)

    @property
    def row(self) -> Rules | None:
        return next((run.row for run in self.runs if run.row is not None), None)


RESULT_RULES: Rulebook[Result] = Rulebook()
rule = RESULT_RULES.rule
