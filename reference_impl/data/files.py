"""Files that are complete wherever they are."""

from __future__ import annotations

import os
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
