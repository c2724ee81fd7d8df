"""The null device in Python: which GPU it pretends to be, and what it has counted."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmark.driver import NULL_MARK

_LIBRARY = "libnullcuda.so"


class NullDevice:
    """Loads the library behind every CUDA library of this environment.

    Raises:
        OSError: this environment has no null device; `bash setup.sh --null-gpu` makes one that has.
    """

    def __init__(self) -> None:
        # Loaded by name: torch has it loaded and has determined where it is.
        self._library = ctypes.CDLL(_LIBRARY)
        self._library.nullcuda_report.restype = ctypes.c_char_p
        self._library.nullcuda_become.argtypes = [
            ctypes.c_char_p,
            ctypes.c_int,
            ctypes.c_size_t,
            ctypes.c_int,
            ctypes.c_int,
        ]

    def become(self, name: str, capability: tuple[int, int], memory: int, multiprocessors: int, count: int) -> None:
        """Pretend to be `count` GPUs of this kind, with `memory` bytes each; call before anything asks for it."""
        major, minor = capability
        self._library.nullcuda_become(
            f"{name} {NULL_MARK}".encode(), 10 * major + minor, memory, multiprocessors, count
        )

    def reset(self) -> None:
        """Start counting anew."""
        self._library.nullcuda_reset()

    def report(self) -> dict[str, Any]:
        """Return the counts since: calls, waits, kernels, products, flops, collectives, bytes, faults, unanswered."""
        return json.loads(self._library.nullcuda_report())

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count matrix products inside the block for this phase."""
        self._library.nullcuda_phase(name.encode())
        try:
            yield
        finally:
            self._library.nullcuda_phase(b"step")
