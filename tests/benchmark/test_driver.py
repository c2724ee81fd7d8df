"""What the CUDA driver reports about GPUs, with a made-up driver."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from benchmark import driver
from benchmark.driver import NULL_MARK, faults, gpu_names

H100 = "NVIDIA H100 80GB HBM3"
NULL = f"{H100} {NULL_MARK}"


class Driver:
    """Answers as libcuda does: a status, and values through pointers."""

    def __init__(self, *names: str, status: int = 0) -> None:
        self.names, self.status = names, status

    def cuInit(self, flags: int) -> int:  # CUDA's own name
        del flags
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(self.names)
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        device._obj.value = ordinal
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: ctypes.c_int) -> int:
        name.value = self.names[device.value].encode()[: size - 1]
        return 0


@pytest.fixture
def cuda_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """torch with a CUDA part, and CUDA's wheels without a driver beside them."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libtorch_cuda.so").touch()
    monkeypatch.setattr(driver, "_folders", lambda package: [tmp_path] if package == "torch" else [])


@pytest.mark.usefixtures("cuda_torch")
def test_the_driver_names_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPUs are named in the driver's order; a driver without a GPU names none."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver(H100, NULL))
    assert gpu_names() == (H100, NULL)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver(status=100))
    assert gpu_names() is None


def test_a_torch_for_cpus_uses_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch without CUDA does not even ask the driver."""
    monkeypatch.setattr(driver, "_folders", lambda _: [])
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver(H100))
    assert gpu_names() is None


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (None, []),
        ((H100, H100), []),
        ((H100,), [f"DGXNGPU=2 ranks need a GPU each; this machine has 1 ({H100})"]),
        (
            (NULL, NULL),
            [f"{NULL} is the null device, which counts but computes nothing: only `llama31 dryrun` uses it"],
        ),
    ],
)
def test_ranks_need_a_gpu_each_that_computes(names: tuple[str, ...] | None, said: list[str]) -> None:
    """One sentence covers all ranks; without a driver there is no fault, since CPUs train too."""
    assert faults(2, names) == said
