"""The variables that configs of systems with GPUs export for the libraries underneath, unless they are already set.

config_common.sh sets the same ones, with the reasons; Configs in nvfp4 add `NVFP4`; docs/gpu.md has all as a table.
Tests compare the three.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from benchmark.benchmarks import BENCHMARKS, Benchmark
from benchmark.hardware import gpu_of_system

_ROUNDING = "NVTE_NVFP4_DISABLE_"

_EVERYWHERE = {
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "NCCL_GRAPH_REGISTER": "0",
    "NCCL_LOCAL_REGISTER": "0",
    "NCCL_NVLS_ENABLE": "0",
    "NCCL_MIN_NCHANNELS": "4",
    "NCCL_P2P_NET_CHUNKSIZE": "2097152",
}

HOPPER: Mapping[str, str] = MappingProxyType(
    _EVERYWHERE | {"NVTE_FWD_LAYERNORM_SM_MARGIN": "8", "NVTE_BWD_LAYERNORM_SM_MARGIN": "8"}
)
"""Also used for a GPU that the system's name does not give."""

BLACKWELL: Mapping[str, str] = MappingProxyType(
    _EVERYWHERE
    | {"NCCL_MIN_CTAS": "16", "NCCL_MAX_CTAS": "32"}
    | {"NVTE_FWD_LAYERNORM_SM_MARGIN": "16", "NVTE_BWD_LAYERNORM_SM_MARGIN": "16"}
)

_NO_HADAMARD = {"NVTE_NVFP4_DISABLE_RHT": "1"}

NVFP4: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "llama31_405b": _NO_HADAMARD
        | {"NVTE_NVFP4_DISABLE_STOCHASTIC_ROUNDING": "1", "NVTE_NVFP4_DISABLE_2D_QUANTIZATION": "1"},
        "llama31_8b": _NO_HADAMARD,
    }
)
"""Benchmark -> the parts of Transformer Engine's recipe that NVIDIA's v5.1 runs in nvfp4 switched off (its
config_common_8b.sh switches rounding and 2D scales on again)."""

RECORDED = (
    *BLACKWELL,
    # The same setting as PYTORCH_CUDA_ALLOC_CONF.
    "PYTORCH_ALLOC_CONF",
    *sorted({f"{_ROUNDING}{part}" for row in BENCHMARKS.values() for part in row.nvfp4_without}),
)
"""The libraries' own variables that run.json records."""


def settings(system: str) -> Mapping[str, str]:
    """Return the variables that the config of a system exports."""
    gpu = gpu_of_system(system)
    return BLACKWELL if gpu is not None and gpu.generation == "Blackwell" else HOPPER


def of_precision(benchmark: Benchmark, precision: Benchmark) -> dict[Benchmark, Benchmark]:
    """Return the further variables that a config exports for Transformer Engine's rounding in this precision."""
    return dict.fromkeys(benchmark, {}) if precision == "nvfp4" else {}
