"""List what configs of systems with GPUs export for the libraries underneath, unless it is set already.

config_common.sh sets the same, with the reasons; configs in nvfp4 add `NVFP4`; docs/gpu.md has them as a table. Tests
compare the three.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from benchmark.hardware import gpu_of_system

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
"""Also of GPUs that a system's name does not say."""

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
"""By benchmark, what NVIDIA's v5.1 runs in nvfp4 switched off of Transformer Engine's recipe (its config_common_8b.sh
switches rounding and 2D scales on again)."""

RECORDED = (
    *BLACKWELL,
    # The same as PYTORCH_CUDA_ALLOC_CONF.
    "PYTORCH_ALLOC_CONF",
    *sorted({name for names in NVFP4.values() for name in names}),
)
"""The libraries' own variables that run.json has."""


def settings(system: str) -> Mapping[str, str]:
    """Return what the config of a system exports."""
    gpu = gpu_of_system(system)
    return BLACKWELL if gpu is not None and gpu.generation == "Blackwell" else HOPPER


def of_precision(benchmark: str, precision: str) -> Mapping[str, str]:
    """Return what a config exports besides, for how Transformer Engine rounds."""
    return NVFP4.get(benchmark, {}) if precision == "nvfp4" else {}
