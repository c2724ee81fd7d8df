"""Convergence against the reference, with the official rcp_checker's own numbers."""

from __future__ import annotations

from typing import Any

import pytest

from benchmark.rules import TABLE, Rules
from compliance.rcp import Match, accepted_from, fastest_mean, find_record

OFFICIAL = [rules for rules in TABLE if rules.submittable]


def name_of(rules: Rules) -> str:
    return f"{rules.benchmark}-{rules.ruleset}"


@pytest.fixture(scope="module", params=OFFICIAL, ids=name_of)
def official(request: pytest.FixtureRequest) -> tuple[Rules, Any]:
    """The rules of a round, and the official tool's checker for them."""
    from mlperf_logging.rcp_checker.rcp_checker import RCP_Checker

    rules: Rules = request.param
    return rules, RCP_Checker("training", rules.ruleset, rules.benchmark, verbose=False)


def batch_sizes(rules: Rules) -> list[int]:
    """Every reference point, sizes between them, and sizes beyond both ends."""
    sizes = sorted(point.global_batch_size for point in rules.reference_points)
    step = max(1, sizes[-1] // 60)
    return sorted({*sizes, *range(sizes[0] // 2, sizes[-1] * 2, step)})


def official_record(checker: Any, size: int) -> tuple[Match, dict[str, Any] | None]:
    """What check_directory of the official tool finds at a batch size."""
    exact = checker._find_rcp(size, "pruned_rcps")
    low = checker._find_top_min_rcp(size, "pruned_rcps")
    high = checker._find_bottom_max_rcp(size, "pruned_rcps")
    if exact is not None:
        return Match.FOUND, exact
    if low is not None and high is not None:
        return Match.INTERPOLATED, checker._create_interp_rcp(size, low, high)[1]
    return (Match.MISSING, None) if high is None else (Match.BELOW, checker._find_min_rcp("pruned_rcps"))


def test_records_are_the_official_ones(official: tuple[Rules, Any]) -> None:
    """At every batch size the same record, with mean, deviation and t-test minimum equal to the last digit."""
    rules, checker = official
    for size in batch_sizes(rules):
        match, theirs = official_record(checker, size)
        assert find_record(rules, size)[0] is match
        ours = find_record(rules, size)[1]
        if theirs is None:
            assert ours is None
            continue
        assert ours is not None
        here = (ours.global_batch_size, ours.mean, ours.deviation, fastest_mean(ours, rules.runs))
        assert here == tuple(theirs[key] for key in ("BS", "RCP Mean", "RCP Stdev", "Min Epochs")), size


def test_official_limit_and_factor_are_the_official_ones(official: tuple[Rules, Any]) -> None:
    """A mean at the official limit passes the official tool, the next double below fails, and factors are equal."""
    import math

    rules, checker = official
    for size in batch_sizes(rules)[::7]:
        record, theirs = find_record(rules, size)[1], official_record(checker, size)[1]
        if record is None or theirs is None:
            continue
        limit = accepted_from(record, rules.runs, rules.convergence_allowance_official)
        for mean in (limit, math.nextafter(limit, 0)):
            passed, factor = checker._eval_submission_record(theirs, [mean] * rules.runs, "")
            assert (bool(passed), factor) == (mean >= limit, max(1.0, record.mean / mean)), size
