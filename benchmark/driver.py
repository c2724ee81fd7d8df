"""Asks the CUDA driver, without torch, which GPUs ranks may use on this machine.

It is asked before ranks start, where a fault is one sentence; ranks themselves ask torch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmark.errors import HarnessError

NULL_MARK = "(null)"
"""Suffix of the name of a GPU that counts instead of computing: one of the null device (nullcuda/)."""

_LIBRARY = "libcuda.so.1"
_NAME_BYTES = 256
"""Bytes of the buffer for the name of a GPU; a longer name would be cut off."""


def gpu_names() -> tuple[str, ...] | None:
    """Return the GPUs of CUDA_VISIBLE_DEVICES, or all GPUs, in CUDA's order; None if torch lacks CUDA or a driver.

    This makes no context, so it uses no GPU memory.
    """
    if not any((folder / "lib" / "libtorch_cuda.so").exists() for folder in _folders("torch")):
        return None
    for library in _libraries():
        try:
            return _names(ctypes.CDLL(library))
        except (OSError, AttributeError, _NoDriverError):
            continue
    return None


def faults(ranks: int, names: Sequence[str] | None) -> list[str]:
    """Return why this many ranks cannot train on these GPUs; empty if each rank gets one, or if there is no driver."""
    if names is None:
        return []
    if fault := null_fault(names):
        return [fault]
    if ranks <= len(names):
        return []
    return [f"DGXNGPU={ranks} ranks need a GPU each; this machine has {len(names)} ({', '.join(names) or 'none'})"]


def null_fault(names: Sequence[str]) -> str:
    """Return a fault if one of them is the null device; empty otherwise."""
    null = next((name for name in names if name.endswith(NULL_MARK)), "")
    return null and f"{null} is the null device, which counts but computes nothing: only `llama31 dryrun` uses it"


class _NoDriverError(HarnessError):
    """The library is there, but no driver."""


def _libraries() -> Iterator[str]:
    """Yield the files to try: next to CUDA's wheels, where only the null device puts one, then the machine's driver."""
    for folder in _folders("nvidia"):
        yield from map(str, sorted(folder.glob(f"*/lib/{_LIBRARY}")))
    yield _LIBRARY


def _folders(package: str) -> list[Path]:
    """Return where a package is installed, without importing it."""
    spec = find_spec(package)
    return [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []


def _names(driver: ctypes.CDLL) -> tuple[str, ...]:
    count, name = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
    _ask(driver.cuInit(0))
    _ask(driver.cuDeviceGetCount(ctypes.byref(count)))
    names = []
    for ordinal in range(count.value):
        device = ctypes.c_int()
        _ask(driver.cuDeviceGet(ctypes.byref(device), ordinal))
        _ask(driver.cuDeviceGetName(name, _NAME_BYTES, device))
        names.append(name.value.decode(errors="replace"))
    return tuple(names)


def _ask(status: int) -> None:
    if status:
        raise _NoDriverError
