"""Every shipped shape runs on the null device, fits, computes the model's products, and needs what the planner says.

The stage of each that needs most; docs/dryrun.md has the others, too.
"""

from __future__ import annotations

import pytest

from harness.dryrun.answer import Verdict
from harness.dryrun.run import run
from perf.dryrun import planned, shipped, worst_ranks

pytestmark = pytest.mark.slow

PLANNED = 0.01
"""Most that the planner may be above; below, it may not be."""


def test_every_shape_fits_and_needs_what_is_planned(null_python: str, subtests: pytest.Subtests) -> None:
    del null_python  # made, or the test is skipped
    ranks = worst_ranks(shipped())
    for rank, outcome in run(ranks, jobs=2):
        with subtests.test(msg=rank.asked.config.system, rank=rank.rank):
            assert isinstance(outcome, Verdict), outcome
            assert outcome.faults == []
            assert outcome.answer.peak <= planned(outcome) <= (1 + PLANNED) * outcome.answer.peak
