"""The variables that configs of systems with GPUs export for the libraries underneath, unless they are already set.

config_common.sh sets the same ones, with the reasons. Configs in nvfp4 add what their benchmark's row has. docs/gpu.md
has all as a table. Tests compare the three.
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


def of_precision(benchmark: Benchmark, precision: str) -> dict[str, str]:
    """Return the further variables that a config exports for Transformer Engine's rounding in this precision."""
    return {f"{_ROUNDING}{part}": "1" for part in benchmark.nvfp4_without} if precision == "nvfp4" else {}
