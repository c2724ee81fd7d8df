"""The open division: what the closed division fixes and refuses by name is chosen, trained with and logged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.announce import announce
from benchmark.benchmarks import BENCHMARKS
from benchmark.config import ConfigError, RunConfig
from benchmark.rules import AdamW, Rules
from compliance.check import open_run
from compliance.checks.hyperparameters import FIXED_IN_CLOSED
from compliance.checks.runs import check_run
from tests.fakes import configured
from tests.logs import llama31_8b, llama31_405b, make_log, reaching
from tests.official import needs_official, rejections

CHOSEN: dict[str, str | int] = {
    "LEARNING_RATE": "1e-4",
    "WARMUP_STEPS": 100,
    "END_LEARNING_RATE": "0",
    "DECAY_STEPS": 5000,
    "ADAM_BETA_1": "0.8",
    "ADAM_BETA_2": "0.99",
    "ADAM_EPSILON": "1e-8",
    "WEIGHT_DECAY": "0.05",
    "GRADIENT_CLIP_NORM": "0.5",
    "MODEL_SIZE": "8b",
}
LOGGED = {
    "opt_base_learning_rate": 1e-4,
    "opt_learning_rate_warmup_steps": 100,
    "opt_end_learning_rate": 0.0,
    "opt_learning_rate_decay_steps": 5000,
    "opt_adamw_beta_1": 0.8,
    "opt_adamw_beta_2": 0.99,
    "opt_adamw_epsilon": 1e-8,
    "opt_adamw_weight_decay": 0.05,
    "opt_gradient_clip_norm": 0.5,
    "model_size": "8b",
}
ROWS = [rules for row in BENCHMARKS.values() if row.submittable for rules in row.rules]


def opened(**overrides: str | int) -> RunConfig:
    here: dict[str, str | int] = {"MLPERF_SUBMISSION_DIVISION": "open", "SEED": 1}
    return configured(**(here | overrides))


def refusals(**overrides: str | int) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        configured(**overrides)
    return list(refused.value.faults)


def test_what_is_chosen_is_logged() -> None:
    """Every choice of the open division is announced as it was made."""
    assert LOGGED.items() <= dict(announce(opened(**CHOSEN))).items()
    free = {key for key in LOGGED if key.startswith("opt_")}
    assert free >= {key for key in FIXED_IN_CLOSED if key != "opt_learning_rate_decay_schedule"}


def test_what_is_chosen_is_trained_with() -> None:
    """The schedule, the optimizer and the network that the trainer reads are the chosen ones."""
    config = opened(**CHOSEN)
    rates = [config.schedule.learning_rate(step) for step in (1, 101, 5101)]
    assert rates == pytest.approx([1e-4 / 101, 1e-4, 0.0])
    assert config.optimizer == AdamW(beta_1=0.8, beta_2=0.99, epsilon=1e-8, weight_decay=0.05, gradient_clip_norm=0.5)
    assert (config.size.layers, config.step_limit) == (32, 1_152_000 // 1152)


def test_closed_division_refuses_each_choice_by_name() -> None:
    """In the closed division each choice is a fault that says how to remove it."""
    only_open = {name: value for name, value in CHOSEN.items() if name not in ("LEARNING_RATE", "WARMUP_STEPS")}
    found = refusals(**only_open)
    assert {fault.partition("=")[0] for fault in found} == set(only_open)
    found += refusals(LEARNING_RATE="1e-4", WARMUP_STEPS=100)
    assert all("MLPERF_SUBMISSION_DIVISION=open" in fault for fault in found)


@pytest.mark.parametrize("config", [llama31_405b, llama31_8b])
def test_what_is_not_chosen_is_as_in_the_closed_division(config: Callable[..., RunConfig]) -> None:
    """A configuration of either benchmark that chooses nothing trains the same in both divisions."""
    closed, free = config(), config(MLPERF_SUBMISSION_DIVISION="open")
    assert (free.schedule, free.optimizer, free.size) == (closed.schedule, closed.optimizer, closed.size)
    division = ("submission_division", "open")
    assert announce(free) == tuple(division if key == division[0] else (key, value) for key, value in announce(closed))


def test_warm_up_alone_leaves_the_length_of_the_schedule() -> None:
    """Unless DECAY_STEPS is given, warm-up and decay together are as long as in the closed division."""
    schedule = opened(WARMUP_STEPS=100).schedule
    assert (schedule.warmup_steps, schedule.decay_steps, schedule.max_steps) == (100, 1_199_900, 1_200_000)


def test_batch_sizes_of_the_open_division_are_free() -> None:
    """Batch size 1984, whose learning rate fails the closed check, and 9280, above its limit, can both run."""
    for minibatch in (248, 1160):
        assert refusals(MINIBS=minibatch)
        assert opened(MINIBS=minibatch).layout.global_batch_size == 8 * minibatch


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        ({"LEARNING_RATE": "1e-9"}, "the learning rate would end at 8e-07, above its peak of 1e-09"),
        ({"WARMUP_STEPS": 1_200_000}, "WARMUP_STEPS(1200000) leaves no step of decay within the 1200000"),
        ({"MODEL_SIZE": "7b"}, "MODEL_SIZE=7b: Input should be 'tiny', '8b', '70b' or '405b'"),
        ({"ADAM_BETA_2": "1"}, "ADAM_BETA_2=1: "),
        ({"DECAY_STEPS": 10**12}, "DECAY_STEPS=1000000000000: "),
    ],
)
def test_what_no_run_can_be_is_refused_in_either_division(overrides: dict[str, str | int], fault: str) -> None:
    """A schedule that does not rise and fall, and a value out of range, are one fault with the numbers."""
    (found,) = refusals(MLPERF_SUBMISSION_DIVISION="open", **overrides)
    assert found.startswith(fault)


def test_8b_leaves_its_warm_up_a_decay() -> None:
    """The closed division's free warm-up must also end within the schedule."""
    (found,) = refusals(BENCHMARK="llama31_8b", MINIBS=2, LEARNING_RATE="1e-3", WARMUP_STEPS=1_200_000)
    assert found.startswith("WARMUP_STEPS(1200000) leaves no step of decay")


# What the official checker makes of it.


@pytest.mark.parametrize("rules", ROWS, ids=lambda rules: f"{rules.benchmark} {rules.ruleset}")
def test_official_checker_refuses_open_logs_where_the_rules_say_so(rules: Rules, tmp_path: Path) -> None:
    """A valid log of the open division is accepted officially where no fault of its rules is known, and only there."""
    needs_official(rules.ruleset)
    base = llama31_405b if rules.benchmark == "llama31_405b" else llama31_8b
    config = base(RULESET=rules.ruleset, MLPERF_SUBMISSION_DIVISION="open")
    log = make_log(tmp_path / "result_0.txt", config, reaching(config))
    assert bool(rejections(log, rules.ruleset)) == bool(rules.official_open_fault)
    found = check_run(open_run(log, rules.ruleset))
    assert [finding.rule for finding in found] == ["run.official_open"] * bool(rules.official_open_fault)


def test_chosen_hyperparameters_of_405b_pass_here_and_officially(tmp_path: Path) -> None:
    """A log with every choice of the open division breaks no rule, and the official checker accepts it."""
    config = opened(**CHOSEN)
    log = make_log(tmp_path / "result_0.txt", config, reaching(config), initial_loss=10.4)
    assert (check_run(open_run(log, "6.0.0")), rejections(log, "6.0.0")) == ((), [])
