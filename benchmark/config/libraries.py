"""List what configs of systems with GPUs export for the libraries underneath, unless it is set already.

config_common.sh sets the same, with the reasons, and docs/gpu.md has them as a table; tests compare all three.
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

RECORDED = (
    *BLACKWELL,
    # The same as PYTORCH_CUDA_ALLOC_CONF, and what decides how Transformer Engine rounds to nvfp4.
    "PYTORCH_ALLOC_CONF",
    "NVTE_NVFP4_DISABLE_2D_QUANTIZATION",
    "NVTE_NVFP4_DISABLE_RHT",
    "NVTE_NVFP4_DISABLE_STOCHASTIC_ROUNDING",
)
"""The libraries' own variables that run.json has."""


def settings(system: str) -> Mapping[str, str]:
    """Return what the config of a system exports."""
    gpu = gpu_of_system(system)
    return BLACKWELL if gpu is not None and gpu.generation == "Blackwell" else HOPPER
