"""Every layout trains the same model: 20 steps and an evaluation of each, beside those of one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmark.config import RunConfig
from tests.reference_impl.conftest import run_ranks
from tests.reference_impl.test_step import LAYOUTS as TWO_PROCESSES
from tests.reference_impl.test_step import curve, evaluations

STEPS = 20

# Absolute of losses, relative of gradient norms. What rounding makes of 20 steps at a small learning rate, in fp32; the
# norm of the embedding's four million gradients is off by up to 5e-5 itself, against double precision. In bf16, whose
# numbers lie 4e-3 apart, a layout differs from one process by less than either does from fp32.
TOLERANCES = {"fp32": (3e-6, 1e-4), "bf16": (2e-3, 1e-2)}

# At the global batch size of 4 that these have.
LAYOUTS = {
    **{name: variables for name, variables in TWO_PROCESSES.items() if variables and "MINIBS" not in variables},
    "DP=2": {"DGXNGPU": 2, "MINIBS": 2},
}
MIXED = {
    "TP=2 CP=2": {"DGXNGPU": 4, "TENSOR_MODEL_PARALLEL": 2, "CONTEXT_PARALLEL": 2},
    "PP=2 DP=2": {"DGXNGPU": 4, "PIPELINE_MODEL_PARALLEL": 2, "MINIBS": 2, "MICRO_BATCH_SIZE": 1},
}
FP32 = [("fp32", name) for name in (*LAYOUTS, *MIXED)]
BF16 = [("bf16", name) for name in ("TP=2 with sequence parallel", "CP=2")]

Small = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def small(make_tiny: Callable[..., RunConfig]) -> Small:
    """Makes a configuration of the tiny model at global batch size 4, changed by the variables given."""
    return lambda **variables: make_tiny(**{"MINIBS": 4, **variables})


def long_curve(config: RunConfig) -> dict[str, Any]:
    return curve(config, STEPS)


@pytest.fixture(scope="module")
def one_process(small: Small) -> dict[str, dict[str, Any]]:
    """The curve of one process in each precision."""
    return {precision: run_ranks(small(PRECISION=precision), long_curve)[0] for precision in TOLERANCES}


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "layout"), FP32 + BF16)
def test_layout_gives_the_curve_of_one_process(
    precision: str, layout: str, small: Small, one_process: dict[str, dict[str, Any]]
) -> None:
    """Losses, gradient norms and evaluation agree with one process within the precision's tolerance, on every rank."""
    loss, grad_norm = TOLERANCES[precision]
    expected = one_process[precision]

    for answer in run_ranks(small(PRECISION=precision, **{**LAYOUTS, **MIXED}[layout]), long_curve):
        assert answer["losses"] == pytest.approx(expected["losses"], abs=loss)
        assert answer["grad_norms"] == pytest.approx(expected["grad_norms"], rel=grad_norm)
        assert answer["evaluation"] == pytest.approx(expected["evaluation"], abs=loss)


@pytest.fixture(scope="module")
def one_by_one(small: Small) -> list[float]:
    """Evaluations of 1, 5 and 90 sequences, a sequence at a time."""
    return run_ranks(small(MICRO_BATCH_SIZE=1), evaluations)[0]


@pytest.mark.parametrize(
    "batches",
    [
        {"DGXNGPU": 3, "MINIBS": 4, "MICRO_BATCH_SIZE": 4},
        {"DGXNGPU": 2, "PIPELINE_MODEL_PARALLEL": 2, "INTERLEAVED_PIPELINE": 2},
    ],
    ids=["DP=3", "PP=2 interleaved"],
)
def test_evaluation_takes_exactly_the_sequences_asked(
    batches: dict[str, int], small: Small, one_by_one: list[float]
) -> None:
    """Replicas, microbatches and pipeline groups that do not divide N change nothing, even where N is less than one."""
    for answer in run_ranks(small(**batches), evaluations):
        assert answer == pytest.approx(one_by_one, abs=5e-6)
