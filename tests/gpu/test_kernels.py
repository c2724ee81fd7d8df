"""The same steps with other kernels. Needs a CUDA GPU; the tests of Transformer Engine need that as well."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmark.config.kernels import FP8_RECIPES, probe
from perf.gpu_check import curve

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
NEEDS_TE = pytest.mark.skipif(probe().transformer_engine is None, reason="needs Transformer Engine")

ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}


def agree(one: dict[str, Any], other: dict[str, Any], *, loss: float, grad_norm: float) -> None:
    assert one["losses"] == pytest.approx(other["losses"], abs=loss)
    assert one["grad_norms"] == pytest.approx(other["grad_norms"], rel=grad_norm)


def test_gpu_agrees_with_cpu() -> None:
    """With torch layers in fp32, the GPU's losses and gradient norms are the CPU's."""
    agree(curve(PRECISION="fp32"), curve(PRECISION="fp32", **ON_CPU), loss=1e-4, grad_norm=1e-3)


def test_bf16_is_near_fp32() -> None:
    """bf16 on the GPU stays within its own rounding of fp32."""
    agree(curve(), curve(PRECISION="fp32"), loss=2e-2, grad_norm=5e-2)


@pytest.mark.parametrize("fusion", [{"KERNEL_FUSION": 0}, {"CE_FUSION_IMPL": "native"}], ids=str)
def test_fusions_agree(fusion: dict[str, object]) -> None:
    """Fused or not, the curve is the same within bf16's rounding."""
    agree(curve(**fusion), curve(), loss=1e-2, grad_norm=2e-2)


def test_overlap_agrees() -> None:
    """Reduction and gathering behind the computation change nothing except the order of sums."""
    agree(curve(OVERLAP_GRAD_REDUCE=0), curve(BUCKET_SIZE=100_000), loss=1e-3, grad_norm=1e-2)


def test_recomputation_saves_memory() -> None:
    """With whole layers recomputed, the curve is the same and the peak lower."""
    kept = curve(MICRO_BATCH_SIZE=16)
    again = curve(MICRO_BATCH_SIZE=16, RECOMPUTE_GRANULARITY="full", RECOMPUTE_METHOD="uniform", RECOMPUTE_NUM_LAYERS=1)

    agree(again, kept, loss=1e-3, grad_norm=1e-2)
    assert again["peak"] < kept["peak"]


@NEEDS_TE
def test_transformer_engine_agrees_with_torch() -> None:
    """Both kinds of layers start from the same weights and train alike."""
    agree(curve(LAYER_SPEC="te"), curve(LAYER_SPEC="torch"), loss=1e-2, grad_norm=3e-2)


@NEEDS_TE
def test_fp8_is_near_bf16() -> None:
    """fp8 trains, close to bf16."""
    needed = FP8_RECIPES["tensorwise"].compute_capability
    if torch.cuda.get_device_capability() < needed:
        pytest.skip(f"fp8 needs compute capability {needed}")
    agree(curve(PRECISION="fp8", LAYER_SPEC="te"), curve(LAYER_SPEC="te"), loss=5e-2, grad_norm=1e-1)
