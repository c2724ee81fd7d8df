"""The search: what it lists can run, fits, is timed right, and includes what was submitted."""

from __future__ import annotations

from functools import cache

import pytest

from benchmark.benchmarks import LLAMA31_8B, UnknownRulesError
from benchmark.config import ConfigError, RunConfig
from benchmark.hardware import GPUS
from harness.plan import calibration, layouts, memory, scaling, step_time
from harness.plan.planner import job_of, pace_of
from harness.plan.scaling import SearchRequest, fewest, instead
from harness.plan.search import SearchResult, bare_values, search
from harness.plan.time_to_target import expected_steps


def base(gpu: str, gpus: int, precision: str = "fp8", **more: str) -> dict[str, str]:
    per_node = GPUS[gpu].gpus_per_node
    return {
        "BENCHMARK": "llama31_405b",
        "RULESET": "6.0.0",
        "DGXSYSTEM": GPUS[gpu].system,
        "DGXNNODES": str(gpus // per_node),
        "DGXNGPU": str(per_node),
        "PRECISION": precision,
        "GRAD_REDUCE_IN_FP32": "False",
    } | more


@cache
def found(gpu: str, gpus: int, precision: str) -> SearchResult:
    return search(base(gpu, gpus, precision), calibration.load(), quantised_weights=True)


SEARCHES = pytest.mark.parametrize(
    ("gpu", "gpus", "precision"), [("H100", 512, "fp8"), ("GB200", 2048, "nvfp4"), ("GB200", 10_240, "nvfp4")]
)


@SEARCHES
def test_candidates_can_run_and_are_what_they_say(gpu: str, gpus: int, precision: str) -> None:
    """RunConfig makes the same run of a candidate's variables, it fits, and its step is the model's."""
    shipped = calibration.load()
    for candidate in found(gpu, gpus, precision).candidates:
        config = RunConfig.from_environment(candidate.values, complete=True)
        job = job_of(config, shipped, gpu, quantised_weights=True)
        assert job == candidate.job
        assert memory.fits(memory.worst(job), job)
        assert candidate.step == pytest.approx(step_time.seconds(job, shipped.of(job.size).constants))
        pace = pace_of(config, job, shipped)
        ratio = shipped.of(config.size).evaluation
        expected = pace.start + pace.step * expected_steps(config.rules, config.schedule, ratio)
        assert candidate.minutes == pytest.approx(expected / 60)
        assert sum(candidate.kinds.values()) == pytest.approx((expected - pace.start) / 60)


@SEARCHES
def test_candidates_are_ranked_and_distinct(gpu: str, gpus: int, precision: str) -> None:
    """The fastest comes first, with one candidate for each (TP, PP, CP)."""
    candidates = found(gpu, gpus, precision).candidates
    assert [each.minutes for each in candidates] == sorted(each.minutes for each in candidates)
    cuts = [(each.job.tensor, each.job.pipeline, each.job.context) for each in candidates]
    assert len(cuts) == len(set(cuts)) > 1


def test_the_first_candidate_is_the_best_of_all_minibatches() -> None:
    """Tried one by one through RunConfig, no other minibatch of its layout is faster."""
    shipped = calibration.load()
    best = found("H100", 512, "fp8").candidates[0]
    minutes = {}
    for minibatch in range(1, 4608 // best.job.data + 1):
        try:
            config = RunConfig.from_environment({**best.values, "MINIBS": str(minibatch)})
        except ConfigError:
            continue
        pace = pace_of(config, job_of(config, shipped, "H100", quantised_weights=True), shipped)
        steps = expected_steps(config.rules, config.schedule, shipped.of(config.size).evaluation)
        minutes[minibatch] = (pace.start + pace.step * steps) / 60
    assert len(minutes) > 100
    assert min(minutes, key=lambda each: minutes[each]) == best.config.layout.minibatch


@pytest.mark.parametrize(
    ("gpu", "gpus", "precision", "submitted"),
    [
        ("H100", 512, "fp8", (8, 8, 2)),
        ("H200", 512, "fp8", (4, 8, 2)),
        ("B200", 256, "fp8", (4, 8, 2)),
        ("GB200", 512, "fp8", (4, 8, 2)),
        ("GB200", 512, "nvfp4", (4, 8, 2)),
        ("GB300", 512, "nvfp4", (2, 8, 2)),
    ],
)
def test_what_was_submitted_is_among_the_first_five(
    gpu: str, gpus: int, precision: str, submitted: tuple[int, int, int]
) -> None:
    """TP, PP and CP of the published runs, at the scale that they start from."""
    first = found(gpu, gpus, precision).candidates[:5]
    assert submitted in [(each.job.tensor, each.job.pipeline, each.job.context) for each in first]


def test_too_few_gpus_have_reasons() -> None:
    """405B does not fit on 8 H100, and the nearest miss is named with its size."""
    nothing = search(base("H100", 8), calibration.load())
    assert nothing.candidates == []
    (refusal,) = nothing.refusals
    assert refusal.reason == "does not fit"
    assert "of 79.6 GiB" in refusal.example


def test_settings_that_would_fit_are_named_and_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """405B with gradients in fp32 is too large for 32 GB300: each change that is named makes a layout fit."""
    monkeypatch.setattr(scaling, "NEAR", 0)
    request = SearchRequest(
        base=base("GB300", 32, "bf16", GRAD_REDUCE_IN_FP32="True"), calibration=calibration.load(), gpu="GB300"
    )
    nothing = request.at(32)
    assert nothing.candidates == []
    named = {other.what: other.result.candidates[0] for other in instead(request, nothing)}
    assert list(named) == [
        "GRAD_REDUCE_IN_FP32=False",
        "RECOMPUTE_GRANULARITY=selective RECOMPUTE_MODULES=mlp",
        "RECOMPUTE_GRANULARITY=full RECOMPUTE_METHOD=uniform RECOMPUTE_NUM_LAYERS=1",
    ]
    assert all(memory.fits(layouts.worst(best.job), best.job) for best in named.values())


def test_too_many_gpus_have_reasons() -> None:
    """With a prime number of nodes, the smallest batch of so many replicas exceeds the largest known one."""
    nothing = search(bare_values(LLAMA31_8B, GPUS["B200"], 8191, 8), calibration.load(), "B200")
    assert nothing.candidates == []
    (refusal,) = (each for each in nothing.refusals if each.reason != "does not fit")
    assert refusal.reason == "no global batch up to 128, the largest reference point's, has a schedule"
    assert refusal.example == "tp1pp1vp1cp1mbs1: it starts at 65,528"


def test_the_fewest_gpus_are_those_of_a_search_of_each_number() -> None:
    """Found at once, they are the first of all numbers of nodes on which a search finds a layout as fast."""
    request = SearchRequest(
        base=bare_values(LLAMA31_8B, GPUS["H100"], 1, 8), calibration=calibration.load(), gpu="H100"
    )
    fastest = {gpus: request.at(gpus, listed=1).candidates for gpus in range(8, 73, 8)}
    for minutes in (400, 205, 150, 100, 71):
        expected = next(gpus for gpus, best in fastest.items() if best and best[0].minutes <= minutes)
        found = fewest(request, minutes, listed=1)
        assert found is not None
        assert (found.gpus, found.candidates[0].minutes) == (expected, fastest[expected][0].minutes)


def test_refused_batches_have_reasons() -> None:
    """RunConfig refuses a batch size without a verifiable learning rate, and the next best is listed."""
    all_of_it = search(base("GB200", 512, "nvfp4"), calibration.load(), listed=100)
    reasons = [each.example for each in all_of_it.refusals if each.reason.startswith("refused")]
    assert any("no double satisfies" in reason for reason in reasons)


def test_an_impossible_base_is_refused() -> None:
    """A fault that no layout can repair is an error, not an empty list."""
    with pytest.raises(ConfigError, match="H100 has no matrix products in nvfp4"):
        search(base("H100", 512, "nvfp4"), calibration.load())
    with pytest.raises(UnknownRulesError, match="is not in ruleset"):
        search(base("H100", 512, RULESET="4.0"), calibration.load())
