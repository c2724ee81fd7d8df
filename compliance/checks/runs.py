"""Every rule over one log, and the one call that asks them all."""

from __future__ import annotations

# Importing a page of checks registers its rules.
from compliance.checks import clock, evaluations, events, hyperparameters, rounds, training
from compliance.findings import Finding
from compliance.run import RUN_RULES, Run

__all__ = ["PAGES", "check_run"]

PAGES = (events, hyperparameters, clock, evaluations, training, rounds)


def check_run(run: Run) -> tuple[Finding, ...]:
    """Every finding about one log, by line; raises nothing."""
    return RUN_RULES.judge(run)
