"""Every layout trains the same model: a few steps and an evaluation of each are compared with one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmark.config import RunConfig
from tests.reference_impl.conftest import run_ranks
from tests.reference_impl.test_step import GRAD_NORM_TOLERANCE, LOSS_TOLERANCE, build, curve
from tests.reference_impl.test_step import LAYOUTS as TWO_PROCESSES

# Absolute of losses, relative of gradient norms. In bf16, whose numbers lie 4e-3 apart, a layout differs from one
# process by less than either does from fp32.
TOLERANCES = {"fp32": (LOSS_TOLERANCE, GRAD_NORM_TOLERANCE), "bf16": (2e-3, 1e-2)}

# Without a processor's units for it, a step in bf16 takes ten times as long as in fp32.
BATCHES = {"fp32": {}, "bf16": {"MINIBS": 2, "MICRO_BATCH_SIZE": 1}}

LAYOUTS = {
    **{name: variables for name, variables in TWO_PROCESSES.items() if variables},
    "TP=2 CP=2": {"DGXNGPU": 4, "TENSOR_MODEL_PARALLEL": 2, "CONTEXT_PARALLEL": 2},
    "PP=2 DP=2": {"DGXNGPU": 4, "PIPELINE_MODEL_PARALLEL": 2, "MINIBS": 2, "MICRO_BATCH_SIZE": 1},
}
FP32 = [("fp32", name) for name in LAYOUTS]
BF16 = [("bf16", name) for name in ("TP=2 with sequence parallel", "CP=2")]

Tiny = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def one_process(make_tiny: Tiny) -> dict[str, dict[str, Any]]:
    """The curve of one process in each precision."""
    return {name: run_ranks(make_tiny(PRECISION=name, **batch), curve)[0] for name, batch in BATCHES.items()}


@pytest.mark.parametrize(("precision", "layout"), FP32 + BF16)
def test_layout_gives_the_curve_of_one_process(
    precision: str, layout: str, make_tiny: Tiny, one_process: dict[str, dict[str, Any]]
) -> None:
    """Losses, gradient norms and evaluation agree with one process within the precision's tolerance, on every rank."""
    loss, grad_norm = TOLERANCES[precision]
    expected = one_process[precision]

    for answer in run_ranks(make_tiny(PRECISION=precision, **{**BATCHES[precision], **LAYOUTS[layout]}), curve):
        assert answer["losses"] == pytest.approx(expected["losses"], abs=loss)
        assert answer["grad_norms"] == pytest.approx(expected["grad_norms"], rel=grad_norm)
        assert answer["evaluation"] == pytest.approx(expected["evaluation"], abs=loss)


def evaluations(config: RunConfig) -> list[float]:
    step = build(config)
    step.open_data()
    return [step.evaluate(sequences) for sequences in (1, 5, 30)]


@pytest.fixture(scope="module")
def one_by_one(make_tiny: Tiny) -> list[float]:
    """Evaluations of 1, 5 and 30 sequences, a sequence at a time."""
    return run_ranks(make_tiny(MICRO_BATCH_SIZE=1), evaluations)[0]


@pytest.mark.parametrize(
    "batches",
    [
        {"MICRO_BATCH_SIZE": 4},
        {"DGXNGPU": 3, "MICRO_BATCH_SIZE": 4},
        {"DGXNGPU": 2, "PIPELINE_MODEL_PARALLEL": 2, "INTERLEAVED_PIPELINE": 2},
    ],
    ids=["one process", "DP=3", "PP=2 interleaved"],
)
def test_evaluation_takes_exactly_the_sequences_asked(
    batches: dict[str, int], make_tiny: Tiny, one_by_one: list[float]
) -> None:
    """It is the log perplexity of the first N, whether microbatches, replicas and pipeline groups divide N or not."""
    for answer in run_ranks(make_tiny(**batches), evaluations):
        assert answer == pytest.approx(one_by_one, abs=5e-6)
