"""What a run logs before its clock starts."""

from __future__ import annotations

import pytest

from benchmark.announce import announce
from tests.fakes import configured


def test_order_that_the_official_checker_needs() -> None:
    """The batch size comes before the learning rate that depends on it, warm-up before decay."""
    keys = [key for key, _ in announce(configured(SEED=1))]
    order = (
        ["global_batch_size", "opt_base_learning_rate"],
        ["opt_learning_rate_warmup_steps", "opt_learning_rate_decay_steps"],
    )
    for first, second in order:
        assert keys.index(first) < keys.index(second)


def test_lengths_are_integers() -> None:
    """Steps and sequences are whole numbers; published logs have some as fractions."""
    values = dict(announce(configured(SEED=1)))
    for key in (
        *("global_batch_size", "gradient_accumulation_steps", "max_sequence_length", "eval_samples", "max_steps"),
        *("opt_learning_rate_warmup_steps", "opt_learning_rate_decay_steps"),
    ):
        assert type(values[key]) is int, key


def test_seed_is_announced_once() -> None:
    """One run has one seed in its log."""
    assert [value for key, value in announce(configured(SEED=123)) if key == "seed"] == [123]


def test_run_without_a_seed_cannot_be_announced() -> None:
    """A seed is drawn before it is needed, never made up here."""
    with pytest.raises(ValueError, match="seed"):
        announce(configured())


@pytest.mark.parametrize(("benchmark", "minibatch", "logged"), [("llama31_405b", 144, True), ("llama31_8b", 2, False)])
def test_initial_checkpoint_is_announced_where_there_is_one(benchmark: str, minibatch: int, logged: bool) -> None:
    """405B starts from a checkpoint at step 0 and logs that; 8B starts from random weights."""
    pairs = announce(configured(BENCHMARK=benchmark, MINIBS=minibatch, SEED=1))
    assert (("init_checkpoint_step", 0) in pairs) is logged


@pytest.mark.parametrize(("max_steps", "logged"), [({}, 1000), ({"MAX_STEPS": 500}, 500)])
def test_max_steps_is_the_limit_in_force(max_steps: dict[str, int], logged: int) -> None:
    """max_steps is the step at which the run would give up."""
    assert dict(announce(configured(SEED=1, **max_steps)))["max_steps"] == logged
