"""The rules compared with what MLCommons publishes: the policy's tables, and the files of the installed
mlperf_logging.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from benchmark.announce import announce
from benchmark.benchmarks import BENCHMARKS, Benchmark, UnknownRulesError, every_rules, find
from benchmark.config import RunConfig
from benchmark.rules import FreeLearningRate, Rules, RuleViolationError, ScaledLearningRate
from tests.fakes import configured
from tests.official import needs_official, package

# Global batch size: peak learning rate, warm-up, decay, steps between evaluations, evaluations
# skipped, step of the first.
# Source: training_rules.adoc, computed apart from this code; the first evaluations agree with the published logs.
GBS_TABLE = {
    448: (3.111111111111112e-05, 20572, 3065143, 42, 13, 588),
    576: (4e-05, 16000, 2384000, 32, 13, 448),
    640: (4.4444444444444447e-05, 14400, 2145600, 29, 13, 406),
    768: (5.333333333333334e-05, 12000, 1788000, 24, 13, 336),
    896: (6.222222222222223e-05, 10286, 1532572, 21, 14, 315),
    960: (6.666666666666667e-05, 9600, 1430400, 20, 14, 300),
    1008: (7.000000000000001e-05, 9143, 1362286, 19, 14, 285),
    1024: (7.111111111111112e-05, 9000, 1341000, 18, 14, 270),
    1120: (7.77777777777778e-05, 8229, 1226057, 17, 14, 255),
    1152: (8e-05, 8000, 1192000, 16, 14, 240),
    1216: (8.444444444444444e-05, 7579, 1129264, 16, 15, 256),
    1248: (8.666666666666668e-05, 7385, 1100308, 15, 15, 240),
    1280: (8.888888888888889e-05, 7200, 1072800, 15, 15, 240),
    1440: (0.0001, 6400, 953600, 13, 15, 208),
    1536: (0.00010666666666666668, 6000, 894000, 12, 15, 192),
    1728: (0.00012, 5334, 794666, 11, 16, 187),
    1792: (0.00012444444444444447, 5143, 766286, 11, 16, 187),
    2048: (0.00014222222222222224, 4500, 670500, 9, 17, 162),
    2304: (0.00016, 4000, 596000, 8, 17, 144),
    2560: (0.00017777777777777779, 3600, 536400, 8, 18, 152),
    3072: (0.00021333333333333336, 3000, 447000, 6, 19, 120),
    3456: (0.00024, 2667, 397333, 6, 20, 126),
    4608: (0.00032, 2000, 298000, 4, 23, 96),
    6912: (0.00048, 1334, 198666, 3, 29, 90),
    9216: (0.00064, 1000, 149000, 2, 35, 72),
}

# Multiples of 32 in 1152..9216 at which no double satisfies the official learning-rate check.
NO_PASSING_DOUBLE = (
    *(1760, 1984, 2912, 3520, 3968, 4192, 4640, 4704, 5088, 5152),
    *(5600, 5824, 7040, 7648, 7776, 7936, 8384, 8544, 8672),
)

BATCH_SIZES = st.integers(min_value=1, max_value=9216)
SUBMITTABLE = [rules for row in BENCHMARKS.values() if row.submittable for rules in row.rules]


def name_of(rules: Rules) -> str:
    return f"{rules.benchmark}-{rules.ruleset}"


def scaled(rules: Rules) -> ScaledLearningRate:
    assert isinstance(rules.learning_rate, ScaledLearningRate)
    return rules.learning_rate


# The schedule of llama31_405b.


def test_schedule_of_405b_equals_the_published_table() -> None:
    """Peak, warm-up, decay, cadence and skip at each batch size are the policy's, to the last bit."""
    schedules = {gbs: find("llama31_405b", "6.0.0").schedule(gbs) for gbs in GBS_TABLE}
    assert {
        gbs: (
            schedule.base_learning_rate,
            schedule.warmup_steps,
            schedule.decay_steps,
            schedule.eval_interval_steps,
            schedule.skipped_evals,
            schedule.first_eval_step,
        )
        for gbs, schedule in schedules.items()
    } == GBS_TABLE


@given(gbs=BATCH_SIZES)
def test_schedule_of_405b_is_the_same_in_5_1(gbs: int) -> None:
    """The schedule did not change between 5.1.0 and 6.0.0."""
    assert find("llama31_405b", "5.1.0").schedule(gbs) == find("llama31_405b", "6.0.0").schedule(gbs)


@given(gbs=BATCH_SIZES)
def test_cadence_of_405b_in_5_0_is_46080_from_the_start(gbs: int) -> None:
    """Under 5.0.0 the evaluations are ceil(46080 / GBS) steps apart and none is skipped."""
    schedule = find("llama31_405b", "5.0.0").schedule(gbs)
    interval = math.ceil(Fraction(46080, gbs))
    assert (schedule.eval_interval_steps, schedule.first_eval_step) == (interval, interval)


def test_end_learning_rate_of_405b_does_not_scale() -> None:
    """The end learning rate is 8e-7 at every batch size."""
    assert {find("llama31_405b").schedule(gbs).end_learning_rate for gbs in GBS_TABLE} == {8e-7}


@given(gbs=BATCH_SIZES)
def test_405b_rounds_up_and_down_exactly(gbs: int) -> None:
    """Every ceiling and floor of the policy holds in exact rational arithmetic at every batch size."""
    schedule = find("llama31_405b", "6.0.0").schedule(gbs)
    assert schedule.warmup_steps == math.ceil(Fraction(8000 * 1152, gbs))
    assert schedule.warmup_steps + schedule.decay_steps == math.ceil(Fraction(1_200_000 * 1152, gbs))
    assert schedule.max_steps == schedule.warmup_steps + schedule.decay_steps
    assert schedule.eval_interval_steps == math.ceil(Fraction(18432, gbs))
    assert schedule.skipped_evals == math.floor(Fraction("0.0026") * gbs + 12)


@given(gbs=BATCH_SIZES, max_steps=st.none() | st.integers(min_value=1, max_value=10_000))
def test_evaluations_are_one_interval_apart_and_within_the_limit(gbs: int, max_steps: int | None) -> None:
    """A step limit takes evaluations away and never adds one off the cadence."""
    schedule = find("llama31_405b", "6.0.0").schedule(gbs)
    limit = min(max_steps or schedule.max_steps, schedule.max_steps)
    due = [step for step, _ in zip(schedule.evaluation_steps(max_steps), range(20), strict=False)]
    assert due == [
        step for k in range(1, 21) if (step := (schedule.skipped_evals + k) * schedule.eval_interval_steps) <= limit
    ]


@given(gbs=BATCH_SIZES, samples=st.floats(min_value=0, max_value=1e7))
def test_the_evaluation_from_a_number_of_samples_is_the_first_that_is_due(gbs: int, samples: float) -> None:
    """It is the first scheduled evaluation after that many samples."""
    schedule = find("llama31_405b", "6.0.0").schedule(gbs)
    due = (step * gbs for step in itertools.count(schedule.first_eval_step, schedule.eval_interval_steps))
    assert schedule.evaluation_from(samples) == next(done for done in due if done >= samples)


# The learning rate against the official check, `value * 1152 == GBS * 8e-5` in doubles.


def doubles_near(value: float, ulps: int = 4) -> Iterator[float]:
    low = value
    for _ in range(ulps):
        low = math.nextafter(low, 0)
    for _ in range(2 * ulps + 1):
        yield low
        low = math.nextafter(low, math.inf)


def passes(value: float, gbs: int) -> bool:
    return value * 1152 == gbs * 8e-5


def test_multiples_of_32_without_a_passing_double() -> None:
    """`verifiable` refuses exactly the published list of multiples of 32."""
    rate = scaled(find("llama31_405b"))
    assert tuple(gbs for gbs in range(1152, 9217, 32) if not rate.verifiable(gbs)) == NO_PASSING_DOUBLE


def test_share_of_batch_sizes_without_a_passing_double() -> None:
    """`verifiable` refuses 746 of the 8065 batch sizes from 1152 to 9216."""
    rate = scaled(find("llama31_405b"))
    assert sum(not rate.verifiable(gbs) for gbs in range(1152, 9217)) == 746


@given(gbs=BATCH_SIZES)
def test_peak_passes_the_official_check_wherever_a_double_does(gbs: int) -> None:
    """If any double passes at a batch size, ours does; if ours does not, none does."""
    rate = scaled(find("llama31_405b"))
    assert rate.verifiable(gbs) == passes(rate.peak(gbs), gbs)
    assert rate.verifiable(gbs) == any(passes(value, gbs) for value in doubles_near(rate.peak(gbs)))


@given(gbs=st.sampled_from(NO_PASSING_DOUBLE))
def test_nearest_verifiable_is_nearest(gbs: int) -> None:
    """The two batch sizes offered instead pass, lie on either side, and none between them passes."""
    rate = scaled(find("llama31_405b"))
    below, above = rate.nearest_verifiable(gbs)
    assert below < gbs < above
    assert [size for size in range(below, above + 1) if rate.verifiable(size)] == [below, above]


def test_the_rounded_learning_rate_would_be_rejected() -> None:
    """The policy's rounding to eight decimals fails the official check, which is why it is not done."""
    rounded = {gbs: round(rate, 8) for gbs, (rate, *_) in GBS_TABLE.items() if round(rate, 8) != rate}
    assert len(rounded) > 10
    assert {gbs: rate for gbs, rate in rounded.items() if passes(rate, gbs)} == {}


# The official checker's own file, executed.


def official_file(rules: Rules) -> list[dict[str, Any]]:
    needs_official(rules.ruleset)
    path = package() / "compliance_checker" / f"training_{rules.ruleset}" / f"closed_{rules.benchmark}.yaml"
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [entry["KEY"] for entry in entries]


def checks_of(entry: dict[str, Any]) -> list[str]:
    checks = entry.get("CHECK", [])
    return [checks] if isinstance(checks, str) else checks


def rejected_by_the_official_file(rules: Rules, pairs: tuple[tuple[str, Any], ...]) -> list[str]:
    """Keys whose official CHECK fails, run in the order of the log as the official checker does."""
    state: dict[str, Any] = {"s": {}, "math": math}
    entries = {entry["NAME"]: entry for entry in official_file(rules)}
    rejected = []
    for key, value in pairs:
        entry = entries.get(key, {})
        state["v"] = {"value": value, "metadata": {}}
        if not all(eval(check.strip(), state) for check in checks_of(entry)):
            rejected.append(f"{key}={value}")
        exec(entry.get("POST", ""), state)
    return rejected


def run_of(rules: Rules, gbs: int) -> RunConfig:
    """A run of one process at a global batch size."""
    return configured(BENCHMARK=rules.benchmark, RULESET=rules.ruleset, DGXNNODES=1, DGXNGPU=1, MINIBS=gbs, SEED=1)


def batch_sizes(rules: Rules) -> list[int]:
    if isinstance(rules.learning_rate, FreeLearningRate):
        return [point.global_batch_size for point in rules.reference_points]
    return list(GBS_TABLE)


@pytest.mark.parametrize("rules", SUBMITTABLE, ids=name_of)
def test_what_is_announced_passes_the_official_file(rules: Rules) -> None:
    """Every value that a run announces satisfies the official checker's expression for its key, in the logged order."""
    rejected = {gbs: rejected_by_the_official_file(rules, announce(run_of(rules, gbs))) for gbs in batch_sizes(rules)}
    assert {gbs: keys for gbs, keys in rejected.items() if keys} == {}


@pytest.mark.parametrize("rules", SUBMITTABLE, ids=name_of)
def test_every_required_hyperparameter_is_announced(rules: Rules) -> None:
    """A run announces each key that the official file wants exactly once, exactly once."""
    required = {entry["NAME"] for entry in official_file(rules) if entry.get("REQ") == "EXACTLY_ONE"}
    keys = [key for key, _ in announce(run_of(rules, rules.reference_points[0].global_batch_size))]
    assert required <= set(keys)
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("rules", SUBMITTABLE, ids=name_of)
def test_target_is_the_official_one(rules: Rules) -> None:
    """The official file accepts an evaluation at the target and refuses the next double above it."""
    entry = next(entry for entry in official_file(rules) if entry["NAME"] == "eval_accuracy")
    target = rules.target_log_perplexity
    verdicts = [
        eval(entry["ATLEAST_ONE_CHECK"].strip(), {"v": {"value": value}})
        for value in (target, math.nextafter(target, math.inf))
    ]
    assert verdicts == [True, False]


# Reference convergence points.


def official_points(rules: Rules) -> dict[int, dict[str, Any]]:
    needs_official(rules.ruleset)
    path = package() / "rcp_checker" / f"training_{rules.ruleset}" / f"rcps_{rules.benchmark}.json"
    return {point["BS"]: point for point in json.loads(path.read_text(encoding="utf-8")).values()}


@pytest.mark.parametrize("rules", SUBMITTABLE, ids=name_of)
def test_reference_points_are_the_official_ones(rules: Rules) -> None:
    """Batch sizes and samples of every reference convergence point equal the installed file's, in its order."""
    ours = {point.global_batch_size: list(point.samples) for point in rules.reference_points}
    assert ours == {gbs: point["Epochs to converge"] for gbs, point in official_points(rules).items()}


@pytest.mark.parametrize("rules", SUBMITTABLE, ids=name_of)
def test_schedule_at_a_reference_point_is_the_references(rules: Rules) -> None:
    """Learning rate and warm-up at each reference point are those that the reference used."""
    for gbs, point in official_points(rules).items():
        used, schedule = point["Hyperparams"], rules.schedule(gbs)
        warmup = used.get("opt_learning_rate_warmup_steps")
        if warmup is None:
            warmup = math.ceil(Fraction(used["opt_learning_rate_warmup_samples"], gbs))
        assert schedule.base_learning_rate == pytest.approx(used["opt_base_learning_rate"], rel=1e-3), gbs
        assert schedule.warmup_steps == math.ceil(warmup), gbs


# What only llama31_8b leaves to the submitter.


def test_8b_takes_a_chosen_learning_rate_and_warmup() -> None:
    """Where the rules leave them free, the submitter's values are used and the decay ends at 1,200,000 steps."""
    schedule = find("llama31_8b").schedule(24, learning_rate=6e-4, warmup_steps=100)
    assert (schedule.base_learning_rate, schedule.warmup_steps, schedule.decay_steps) == (6e-4, 100, 1_199_900)


def test_8b_evaluates_every_12288_sequences_from_the_start() -> None:
    """At the first reference point, batch 16, llama31_8b evaluates after 768, 1536, ... steps."""
    steps = find("llama31_8b").schedule(16).evaluation_steps()
    assert [next(steps), next(steps)] == [768, 1536]


def test_8b_refuses_a_batch_size_without_a_reference() -> None:
    """Without a reference to borrow from, the refusal names both variables and the batch sizes that have one."""
    with pytest.raises(RuleViolationError, match=r"LEARNING_RATE and WARMUP_STEPS.*24.*16, 32, 64, 96, 128"):
        find("llama31_8b").schedule(24)


def test_405b_refuses_a_chosen_learning_rate() -> None:
    """Where the rules derive it, a learning rate from the submitter is a violation."""
    with pytest.raises(RuleViolationError, match=r"LEARNING_RATE=0.001"):
        find("llama31_405b").schedule(1152, learning_rate=1e-3)


# Every row.


def test_rows_are_found_by_their_name() -> None:
    """`find` returns the row of a benchmark and ruleset."""
    assert [rules for rules in every_rules() if find(rules.benchmark, rules.ruleset) is not rules] == []


def test_the_latest_ruleset_is_the_default() -> None:
    """Without a ruleset, the newest one that has the benchmark counts."""

    def newest(row: Benchmark) -> Rules:
        return max(row.rules, key=lambda rules: [int(part) for part in rules.ruleset.split(".")])

    assert [row.name for row in BENCHMARKS.values() if find(row.name) is not newest(row)] == []


def test_unknown_benchmark_lists_the_known_ones() -> None:
    """The refusal of a benchmark names the known ones."""
    with pytest.raises(UnknownRulesError, match=r"llama31_405b, llama31_8b, llama31_tiny"):
        find("llama2_70b_lora")


def test_unknown_ruleset_lists_the_known_ones() -> None:
    """The refusal of a ruleset names those that have the benchmark."""
    with pytest.raises(UnknownRulesError, match=r"'6.1.0'.*5.0.0, 5.1.0, 6.0.0"):
        find("llama31_405b", "6.1.0")


def test_only_tiny_is_not_submittable() -> None:
    """A benchmark that only exercises the harness can never be packaged."""
    assert [row.name for row in BENCHMARKS.values() if not row.submittable] == ["llama31_tiny"]


def test_tiny_has_the_shape_of_405b() -> None:
    """The tiny benchmark scales, skips and rounds as 405b does, so that a tiny run exercises every rule."""
    tiny = find("llama31_tiny")
    assert isinstance(tiny.learning_rate, ScaledLearningRate)
    assert tiny.skipped_evals(tiny.learning_rate.batch) > 0
    assert tiny.skip_slope > 0
    assert tiny.learning_rate.verifiable(tiny.learning_rate.batch)


def test_the_learning_rate_rises_to_the_peak_and_falls_to_the_end() -> None:
    """It rises in equal steps from peak / (warm-up + 1), falls along a cosine, and stays at the end rate."""
    schedule = find("llama31_8b").schedule(16)
    peak, end, first_decayed = schedule.base_learning_rate, schedule.end_learning_rate, schedule.warmup_steps + 1
    steps = (
        1,
        first_decayed,
        first_decayed + schedule.decay_steps // 2,
        schedule.max_steps + 1,
        schedule.max_steps + 9,
    )

    assert [schedule.learning_rate(step) for step in steps] == pytest.approx(
        [peak / first_decayed, peak, (peak + end) / 2, end, end]
    )


def test_the_learning_rate_is_the_published_one_at_the_stop() -> None:
    """After 272 steps at batch size 1152 it equals that of published logs to three digits."""
    assert find("llama31_405b").schedule(1152).learning_rate(272) == pytest.approx(2.72e-6, rel=1e-3)
