"""Checksums of files, at the speed of a core: the standard library's hashes, which let go of the interpreter's lock.

SHA-256 is what manifests hold: in the standard library, checked by everybody's `sha256sum`, safe against a forged file,
and the fastest of hashlib where the processor has instructions for it (1.45 GB/s a core of a Sapphire Rapids Xeon;
BLAKE2b 0.79, MD5 0.62, SHA-512 0.60). MD5 is read because MLCommons' lists are MD5. No torch here.
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
"""Told how many bytes were just handled, from any thread."""

BUFFER_BYTES = 1 << 20

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


def silent(_count: int) -> None:
    """An Advance that tells nobody."""


class StoppedError(HarnessError):
    """Other work's trouble, or the user, ended this."""


def until(stop: Event, advance: Advance) -> Advance:
    """`advance`, which raises StoppedError once that is set: it ends threads at work on large files."""

    def checked(count: int) -> None:
        if stop.is_set():
            raise StoppedError
        advance(count)

    return checked


def new(algorithm: Algorithm) -> _Hash:
    # Not for security: a FIPS build of OpenSSL refuses MD5 otherwise.
    return hashlib.new(algorithm, usedforsecurity=False)


def digest(path: Path, algorithm: Algorithm = "sha256", advance: Advance = silent) -> str:
    """Hexadecimal digest of a file.

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
    """What `work` returns for each item, in their order, on `jobs` threads: this process's cores if None.

    When one raises, or the user interrupts, no other is begun, and `stop` tells those that run.
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
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))
