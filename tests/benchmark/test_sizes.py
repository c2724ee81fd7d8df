"""The shapes of Llama 3.1 against their published parameter counts."""

from __future__ import annotations

import pytest

from benchmark.sizes import SIZES, ModelSize

LLAMA_3_VOCABULARY = 128_256


@pytest.mark.parametrize(
    ("name", "published"), [("8b", 8_030_261_248), ("70b", 70_553_706_496), ("405b", 405_853_388_800)]
)
def test_parameters_equal_the_published_count(name: str, published: int) -> None:
    """With Llama 3's own vocabulary, a size has exactly as many parameters as the published model."""
    assert SIZES[name].parameters(LLAMA_3_VOCABULARY) == published


def test_parameters_of_the_benchmark() -> None:
    """With the benchmark's vocabulary of 32,000, 405B has 402,699,272,192 parameters."""
    assert SIZES["405b"].parameters(32_000) == 402_699_272_192


def test_flops_equal_the_published_figure() -> None:
    """405B at 8,192 tokens and Llama 3's vocabulary is the submitters' MODEL_TFLOP_PER_SAMPLE, 21508."""
    flops = SIZES["405b"].flops_per_sample(8192, LLAMA_3_VOCABULARY)

    assert flops == pytest.approx(21_507.68e12, rel=1e-4)
    assert round(flops / 1e12) == 21_508


@pytest.mark.parametrize("size", SIZES.values(), ids=lambda size: size.name)
def test_flops_are_the_layers_and_the_head(size: ModelSize) -> None:
    """A sample costs its layers, the final norm and the output layer; the embedding is free."""
    head = size.flops_per_sample(128, 32_000) - size.layers * size.layer_flops(128)

    assert head == 6 * 128 * (32_000 * size.hidden + size.hidden)


@pytest.mark.parametrize("size", SIZES.values(), ids=lambda size: size.name)
def test_heads_divide_evenly(size: ModelSize) -> None:
    """Heads share the width evenly, and query groups the heads."""
    assert size.hidden % size.heads == 0
    assert size.heads % size.query_groups == 0
