"""The GPUs that the planner knows, one row each: datasheet numbers, no measurements of ours.

What a GPU really reaches is in the calibration. To add a GPU, add a row.

Sources: NVIDIA's datasheets of H100 SXM, H200 SXM, DGX B200, GB200 NVL72 and GB300 NVL72 (dense rates, half of the
"with sparsity" ones); device memory and network adapters as in the systems files of published MLPerf results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

PRECISIONS = ("bf16", "fp8", "mxfp8", "nvfp4")
"""Of the linear layers' matrix products: fp8 scales by tensor, mxfp8 by 32 values, nvfp4 by 16."""

OUTSIDE_ALLOCATOR = 1_060_000_000 + 8 * 544_000_000
"""Bytes of a GPU that a rank takes outside PyTorch's allocator; not measured by us, whom no GPU of a cluster was lent.

The first part is CUDA's context with the code of PyTorch's libraries: an H100 before its first collective, less what
PyTorch holds (NVIDIA/nccl issue 1685). The second is NCCL's buffers: a rank of 405B has eight communicators (two of the
world, data, tensor and context parallel, pipeline, and one for each neighbour in it; the null device counts them), each
taken for what one cost on an A100 (NVIDIA/nccl issue 964). Workspaces of cuBLAS and cuDNN are PyTorch's to allocate.
"""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU and the links that it has to others."""

    name: str
    system: str
    """What names of systems with it begin with: config_<system>_<nodes>x<GPUs>x....sh."""
    generation: str
    bf16: float
    """Dense peak, TFLOP/s; fp8 has twice that."""
    fp4: float | None = None
    """Dense peak, TFLOP/s; None where there are no fp4 units."""
    compute_capability: tuple[int, int]
    multiprocessors: int
    memory_mib: int
    """Device memory as the driver reports it."""
    memory_bandwidth: float
    """TB/s."""
    nvlink: float
    """GB/s, one direction."""
    nvlink_domain: int
    """GPUs that reach one another over NVLink."""
    nic: float
    """GB/s of one GPU's share of the network, one direction."""
    gpus_per_node: int

    def peak(self, precision: str) -> float | None:
        """Dense FLOP/s of matrix products in a precision, None where the GPU lacks it."""
        teraflops = {
            "bf16": self.bf16,
            "fp8": 2 * self.bf16,
            "mxfp8": 2 * self.bf16 if self.generation == "Blackwell" else None,
            "nvfp4": self.fp4,
        }[precision]
        return None if teraflops is None else teraflops * 1e12

    @property
    def memory(self) -> int:
        """Bytes."""
        return self.memory_mib * 2**20


_H100 = Gpu(
    name="H100",
    system="DGXH100",
    generation="Hopper",
    bf16=989.5,
    compute_capability=(9, 0),
    multiprocessors=132,
    memory_mib=81_559,
    memory_bandwidth=3.35,
    nvlink=450.0,
    nvlink_domain=8,
    nic=50.0,
    gpus_per_node=8,
)

_B200 = Gpu(
    name="B200",
    system="DGXB200",
    generation="Blackwell",
    bf16=2250.0,
    fp4=9000.0,
    compute_capability=(10, 0),
    multiprocessors=148,
    memory_mib=183_359,
    memory_bandwidth=8.0,
    nvlink=900.0,
    nvlink_domain=8,
    nic=50.0,
    gpus_per_node=8,
)

_GB200 = replace(
    _B200,
    name="GB200",
    system="GB200",
    bf16=2500.0,
    fp4=10_000.0,
    multiprocessors=152,
    memory_mib=189_471,
    nvlink_domain=72,
    gpus_per_node=4,
)

_ROWS = (
    _H100,
    replace(_H100, name="H200", system="DGXH200", memory_mib=143_771, memory_bandwidth=4.8),
    _B200,
    _GB200,
    replace(
        _GB200, name="GB300", system="GB300", fp4=15_000.0, compute_capability=(10, 3), memory_mib=284_208, nic=100.0
    ),
)

GPUS: Mapping[str, Gpu] = {gpu.name: gpu for gpu in _ROWS}


def gpu_of_system(system: str) -> Gpu | None:
    """The GPU that a system's name states (DGXH100_64x8..., GB200_128x4...), None if it states none of ours."""
    names = sorted(GPUS, key=len, reverse=True)
    return next((GPUS[name] for name in names if name in system.upper()), None)
