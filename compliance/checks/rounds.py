"""The rule about a log of an earlier round that is submitted again."""

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
    example="a log of April 2025, made for v5.0 and judged by 5.1.0, as in Nebius' results of v5.1",
)
def resubmitted(run: Run) -> Iterator[Breach]:
    """A log of an earlier round, known by its time, may be submitted again; its own round decides when it evaluates.

    The new round judges everything else, as its official checkers do: they do not look at when a log evaluates. No
    field of a submission states that its logs were submitted before, and the published ones (Nebius, v5.1) do not say
    so. A false time gains nothing. Only 5.0.0 has another cadence: it asks for five evaluations more in the first
    276,480 samples, then for one every 46,080 instead of 18,432, so that a run stops later on average. One tree does
    not show whether the system is described as it was in the earlier round.
    """
    own, start = run.own_round, run.first("run_start")
    if own is not None:
        day = datetime.fromtimestamp(start.event.time_ms / 1000, UTC).date()
        yield Breach(
            message=f"a log of an earlier round: its evaluations are judged by {own.ruleset}, everything else by "
            f"{run.rules.ruleset}",
            line=start.line,
            actual=f"run_start on {day}",
        )
