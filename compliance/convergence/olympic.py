"""Compute the mean by which results are judged and scored, and tell which runs count in it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from compliance.checks.rule import AbsentError
from compliance.run import Run


def olympic_mean(values: Sequence[float | None]) -> float | None:
    """Return the mean without the smallest and the largest value; None if no value is left, or one of the rest is None.

    Source: training_rules.adoc, "Benchmark Results": one run that did not converge may count as the slowest.
    """
    middle = sorted(math.inf if value is None else value for value in values)[1:-1]
    # sum, not fsum: the last digit has to be that of the official tools.
    mean = sum(middle) / len(middle) if middle else math.inf
    return mean if math.isfinite(mean) else None


def converged(run: Run) -> bool:
    """Return whether the status of the run is success and its last evaluation reached the target."""
    try:
        return run.status == "success" and run.last_log_perplexity <= run.rules.target_log_perplexity
    except AbsentError:
        return False
