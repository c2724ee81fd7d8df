"""A log of an earlier round, submitted again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from compliance.checks.rule import Breach
from compliance.checks.sources import RESUBMISSION
from compliance.findings import Severity
from compliance.run import Run, rule


@rule(
    "run.resubmitted",
    source=RESUBMISSION,
    severity=Severity.INFO,
    example="a log of April 2025, when runs were for v5.0, judged by 5.1.0, as in Nebius' results of v5.1",
)
def resubmitted(run: Run) -> Iterator[Breach]:
    """A log of an earlier round may be submitted again: when it evaluates is judged by its own round, by its time.

    All else is judged by the new round, as the official checkers of that do; they do not look at when a log evaluates.
    No field of a submission says that its logs were submitted before, and the published ones (Nebius, v5.1) say so
    nowhere. Nothing is won by a wrong time: 5.0.0, whose cadence alone is another, asks for five evaluations more in
    the first 276,480 sequences, and then for one in 46,080 instead of 18,432, so that a run stops later on average.
    Whether the system is described as it was in that round cannot be seen in one tree.
    """
    own, start = run.own_round, run.first("run_start")
    if own is not None:
        day = datetime.fromtimestamp(start.event.time_ms / 1000, UTC).date()
        yield Breach(
            message=f"run for an earlier round and submitted again: its evaluations are judged by {own.ruleset}, "
            f"all else by {run.rules.ruleset}",
            line=start.line,
            actual=f"run_start on {day}",
        )
