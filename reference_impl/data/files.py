"""Files that are complete wherever they are, and folders that one process works in at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def flush(file: IO[Any]) -> None:
    """To the disk, so that a power failure cannot undo what is written after it."""
    file.flush()
    os.fsync(file.fileno())


def write_at_once(path: Path, text: str) -> None:
    """The file is there with all of `text`, or as it was."""
    temporary = path.with_name(f"{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        flush(file)
    temporary.rename(path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, waiting for the process that has it; the system lets go of it when a process ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
