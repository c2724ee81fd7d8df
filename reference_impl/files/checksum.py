"""Checksums of files, at the speed of a core: the standard library's hashes, which release the interpreter's lock.

Manifests hold SHA-256: it is in the standard library, everybody's `sha256sum` checks it, it is safe against forged
files, and it is hashlib's fastest on processors with instructions for it (1.45 GB/s a core of a Sapphire Rapids Xeon;
BLAKE2b 0.79, MD5 0.62, SHA-512 0.60). MD5 is supported because MLCommons' lists use it. This module imports no torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Literal, TypeVar

from benchmark.errors import HarnessError

if TYPE_CHECKING:
    from hashlib import _Hash

Algorithm = Literal["sha256", "md5"]
Advance = Callable[[int], object]
"""Called with the number of bytes that were just handled, from any thread."""

BUFFER_BYTES = 1 << 20
"""Bytes that are read and hashed at a time."""

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


def silent(_count: int) -> None:
    """Ignore progress; an Advance."""


class StoppedError(HarnessError):
    """Work was ended by an error in other work, or by the user."""


def until(stop: Event, advance: Advance) -> Advance:
    """Return `advance` so that it raises StoppedError once `stop` is set, which ends threads at work on large files."""

    def checked(count: int) -> None:
        if stop.is_set():
            raise StoppedError
        advance(count)

    return checked


def new(algorithm: Algorithm) -> _Hash:
    # usedforsecurity=False: otherwise a FIPS build of OpenSSL refuses MD5.
    return hashlib.new(algorithm, usedforsecurity=False)


def digest(path: Path, algorithm: Algorithm = "sha256", advance: Advance = silent) -> str:
    """Return the hexadecimal digest of a file.

    Raises:
        OSError: it cannot be read.
    """
    hasher = new(algorithm)
    buffer = memoryview(bytearray(BUFFER_BYTES))
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while count := file.readinto(buffer):
            hasher.update(buffer[:count])
            advance(count)
    return hasher.hexdigest()


def in_parallel(
    work: Callable[[_Item], _Answer], items: Sequence[_Item], jobs: int | None = None, stop: Event | None = None
) -> list[_Answer]:
    """Return what `work` returns for each item, in order, on `jobs` threads: as many as this process's cores if None.

    When one call raises, or the user interrupts, no other call begins, and `stop` tells those that are running.
    """
    if not items:
        return []
    with ThreadPoolExecutor(min(len(items), jobs or cores())) as pool:
        calls = [pool.submit(work, item) for item in items]
        try:
            done, _ = wait(calls, return_when=FIRST_EXCEPTION)
            failed = [call for call in calls if call in done and call.exception() is not None]
            return [call.result() for call in failed or calls]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            if stop is not None:
                stop.set()


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0))
