"""The GPUs that the planner knows, one row each, with the numbers of their datasheets.

The speed that a GPU really reaches is in the planner's calibration. To add a GPU, add a row.

Sources: NVIDIA's datasheets of H100 SXM, H200 SXM, DGX B200, DGX B300, GB200 NVL72 and GB300 NVL72 (dense rates, half
of the "with sparsity" ones). Device memory and network adapters are from the system descriptions of published MLPerf
results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

PRECISIONS = ("bf16", "fp8", "mxfp8", "nvfp4")
"""Precisions of the linear layers: fp8 has one scale for a tensor, mxfp8 one for 32 values, nvfp4 one for 16."""

OUTSIDE_ALLOCATOR = 1_060_000_000 + 8 * 544_000_000
"""Bytes of GPU memory that a rank takes outside PyTorch's allocator. An estimate: we had no cluster to measure it on.

The first part is CUDA's context with the code of PyTorch's libraries, as on an H100 before its first collective, minus
the memory that PyTorch holds (NVIDIA/nccl issue 1685). The second is NCCL's buffers. A rank of 405B has eight
communicators: two of the world, one each for data, tensor, context and pipeline parallelism, and one for each of its
two neighbours in the pipeline (counted on the null device). Each is assumed to cost as much as one did on an A100
(NVIDIA/nccl issue 964). PyTorch's allocator holds the workspaces of cuBLAS and cuDNN.
"""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU and its links to others."""

    name: str
    system: str
    """The prefix of names of systems with this GPU, as in config_<system>_<nodes>x<GPUs>x....sh."""
    generation: str
    """NVIDIA's name of the architecture."""
    bf16: float
    """Dense peak in TFLOP/s; that of fp8 is twice as large."""
    fp4: float | None = None
    """Dense peak in TFLOP/s; None if the GPU has no fp4 units."""
    compute_capability: tuple[int, int]
    multiprocessors: int
    memory_mib: int
    """Device memory in MiB, as the driver reports it."""
    memory_bandwidth: float
    """TB/s."""
    nvlink: float
    """GB/s of one GPU in one direction."""
    nvlink_domain: int
    """Number of GPUs that NVLink connects with one another."""
    nic: float
    """GB/s of one GPU's share of the network in one direction."""
    gpus_per_node: int

    def peak(self, precision: str) -> float | None:
        """Return the dense peak of matrix products in a precision, in FLOP/s; None if the GPU lacks the precision."""
        teraflops = {
            "bf16": self.bf16,
            "fp8": 2 * self.bf16,
            "mxfp8": 2 * self.bf16 if self.generation == "Blackwell" else None,
            "nvfp4": self.fp4,
        }[precision]
        return None if teraflops is None else teraflops * 1e12

    @property
    def memory(self) -> int:
        """Device memory in bytes."""
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
    replace(
        _B200, name="B300", system="DGXB300", fp4=14_000.0, compute_capability=(10, 3), memory_mib=275_040, nic=100.0
    ),
    _GB200,
    replace(
        _GB200, name="GB300", system="GB300", fp4=15_000.0, compute_capability=(10, 3), memory_mib=284_208, nic=100.0
    ),
)

GPUS: Mapping[str, Gpu] = {gpu.name: gpu for gpu in _ROWS}


def gpu_of_system(system: str) -> Gpu | None:
    """Return the GPU that a system's name contains (DGXH100_64x8..., GB200_128x4...); None if there is none."""
    names = sorted(GPUS, key=len, reverse=True)
    return next((GPUS[name] for name in names if name in system.upper()), None)
