"""The runs of one result, as the rules look at them together; compliance.checks.results has the rules."""

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
"""What the file of a run is called. A name may hold a line break."""


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

    @property
    def is_open(self) -> bool:
        """Whether some run is of the open division, of which nobody judges how fast it converges."""
        return any(run.is_open for run in self.runs)

    @property
    def is_of_another_benchmark(self) -> bool:
        """Whether it is of a benchmark of MLPerf that is not judged here, as its folder and all its logs say."""
        name = self.directory.name
        return name in OTHER_BENCHMARKS and all(
            run.has("submission_benchmark") and run.value("submission_benchmark") == name for run in self.runs
        )

    @property
    def ruleset(self) -> str | None:
        """What it is judged by; None where no ruleset that could be meant has the benchmark."""
        return self.row.ruleset if self.row is not None else self.runs[0].chosen.ruleset

    @property
    def ruleset_from(self) -> str:
        """Why by this one, in words."""
        return self.runs[0].chosen.origin

    @property
    def marks(self) -> tuple[str, ...]:
        """Why its runs do not count, as their logs say (`simulated`); empty for runs that do."""
        return tuple(sorted({mark for run in self.runs for mark in run.log.not_a_run}))


def in_capitals(marks: Sequence[str]) -> str:
    """Marks as every screen and page has them."""
    return ", ".join(mark.upper() for mark in marks)


RESULT_RULES: Rulebook[Result] = Rulebook()
rule = RESULT_RULES.rule
