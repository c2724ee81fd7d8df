"""Every rule over one log, and the one call that asks them all."""

from __future__ import annotations

# Importing a page of checks registers its rules.
from compliance.checks import clock, evaluations, events, hyperparameters, rounds, training
from compliance.findings import Finding
from compliance.run import RUN_RULES, Run

__all__ = ["PAGES", "check_run"]

PAGES = (events, hyperparameters, clock, evaluations, training, rounds)


def check_run(run: Run, *, may_miss: bool = False) -> tuple[Finding, ...]:
    """Every finding about one log, by line; raises nothing.

    Args:
        may_miss: it is the one run that its result may have without the target; see compliance.checks.results.
    """
    return RUN_RULES.judge(run, without=evaluations.OF_THE_TARGET if may_miss else ())
