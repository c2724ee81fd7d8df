"""One rank's program: exit status, log and refusals."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

# So that ranks are forked after one import.
import reference_impl.step  # noqa: F401
from benchmark.config import ConfigError, RunConfig
from benchmark.loop import StepStats
from benchmark.mllog import TOKEN, decode
from reference_impl import pretrain
from tests.reference_impl.conftest import run_ranks

Tiny = Callable[..., RunConfig]


def events(log: Path) -> list[Any]:
    return [decode(line.partition(TOKEN)[2]) for line in log.read_text().splitlines()]


def train_with_broken_weights(config: RunConfig) -> int:
    """Train after the clock has started with weights that are not numbers."""
    import torch

    from reference_impl.step import MegatronStep

    open_data = MegatronStep.open_data

    @torch.no_grad()
    def open_and_break(step: MegatronStep) -> None:
        open_data(step)
        next(step.chunks[0].parameters()).fill_(float("nan"))

    with patch.object(MegatronStep, "open_data", open_and_break):
        return pretrain.train(config)


def test_a_loss_that_is_no_number_aborts_the_run(tiny: Tiny, tmp_path: Path) -> None:
    """Every rank exits with 1, run_stop says aborted and why, and no line of the log holds a NaN."""
    log = tmp_path / "result_0.txt"
    config = tiny(DGXNGPU=2, MINIBS=2, RESULT_FILE=log)

    assert run_ranks(config, train_with_broken_weights) == [1, 1]
    stop = next(event for event in events(log) if event.key == "run_stop")
    assert stop.metadata["status"] == "aborted"
    assert stop.metadata["reason"] == "NonFiniteError: training loss is nan at step 1"
    assert [event.key for event in events(log)][-2:] == ["run_stop", "train_samples"]


def train_until_signalled(config: RunConfig) -> str:
    """Send this rank SIGTERM in the middle of its second step."""
    from reference_impl.step import MegatronStep

    train_once = MegatronStep.train_once
    calls = iter(range(100))

    def train_and_signal(step: MegatronStep, batches: Any) -> StepStats:
        # Two steps of warm-up come first.
        if next(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_once(step, batches)

    try:
        with patch.object(MegatronStep, "train_once", train_and_signal):
            pretrain.train(config)
    except pretrain.Interrupted as interruption:
        return f"{interruption} {interruption.exit_status}"
    return "not interrupted"


def test_a_signal_ends_the_run_with_run_stop_in_the_log(tiny: Tiny, tmp_path: Path) -> None:
    """After SIGTERM in a step, run_stop is aborted with the signal's name, and the exit status is 143."""
    log = tmp_path / "result_0.txt"

    assert run_ranks(tiny(RESULT_FILE=log), train_until_signalled) == ["SIGTERM 143"]
    stop = next(event for event in events(log) if event.key == "run_stop")
    assert (stop.metadata["status"], stop.metadata["reason"]) == ("aborted", "Interrupted: SIGTERM")
    assert stop.metadata["samples_count"] == 4


def test_a_benchmark_that_starts_from_a_checkpoint_is_refused(tiny: Tiny) -> None:
    """llama31_405b is not trained from random weights without LOAD_CHECKPOINT."""
    config = tiny(BENCHMARK="llama31_405b", RULESET="6.0.0", MINIBS=1152, PRECISION="bf16")

    with pytest.raises(ConfigError, match="starts from a checkpoint"):
        pretrain._refuse_incomplete(config)


def test_a_run_without_its_seed_is_refused(tiny: Tiny) -> None:
    """The trainer draws no seed of its own: the launcher gives every rank the same."""
    with pytest.raises(ConfigError, match="SEED and RESULT_FILE"):
        pretrain._refuse_incomplete(tiny(SEED=""))


def test_clearing_caches_says_how(data_dir: Path) -> None:
    """Every file of the manifest is dropped from the page cache without privileges."""
    from reference_impl.files.manifest import load

    assert pretrain.clear_caches(data_dir, load(data_dir)) == "posix_fadvise"


def test_the_log_of_a_rank_is_strict_json(tiny: Tiny, tmp_path: Path) -> None:
    """The text after the token parses as JSON without NaN."""
    log = tmp_path / "result_0.txt"
    run_ranks(tiny(RESULT_FILE=log), train_with_broken_weights)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    for line in log.read_text().splitlines():
        json.loads(line.partition(TOKEN)[2], parse_constant=refuse)
