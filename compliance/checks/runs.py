"""Judge one log by every rule about logs."""

from __future__ import annotations

# Importing a module of checks registers its rules.
from compliance.checks import clock, evaluations, events, hyperparameters, rounds, training
from compliance.findings import Finding
from compliance.run import RUN_RULES, Run

__all__ = ["PAGES", "check_run"]

PAGES = (events, hyperparameters, clock, evaluations, training, rounds)


def check_run(run: Run) -> tuple[Finding, ...]:
    """Return every finding about one log, sorted by line; raises nothing."""
    return RUN_RULES.judge(run)
