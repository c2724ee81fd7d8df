"""A file that arrives in segments, in any order, and survives a kill.

A journal next to it identifies the file and lists the segments that are complete, a number a line. A segment is listed
only once the disk has it, so neither a kill nor a power failure can list more than there is.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

# A link in the file's place is refused: it would lead out of the folder.
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Segment:
    """Bytes [start, stop)."""

    index: int
    start: int
    stop: int


class Partial:
    """Use in a `with` block; it keeps only segments of a file of the same size, segment size and version."""

    def __init__(self, path: Path, journal: Path, *, size: int, segment_bytes: int, version: str) -> None:
        self._path, self._journal_path = path, journal
        self._size, self._segment_bytes = size, segment_bytes
        self._identity = f"{size} bytes in segments of {segment_bytes}, version {version!r}\n".encode()
        for parent in (path.parent, journal.parent):
            parent.mkdir(parents=True, exist_ok=True)
        self._data = os.open(path, _OPEN, 0o644)
        self._journal = os.open(journal, _OPEN | os.O_APPEND, 0o644)
        done = self._listed()
        self.done: set[int] = done or set()
        """Indices of the segments that are complete."""
        if done is None:
            self.restart()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._data)
        os.close(self._journal)

    @property
    def segments(self) -> list[Segment]:
        starts = range(0, self._size, self._segment_bytes)
        return [Segment(i, start, min(start + self._segment_bytes, self._size)) for i, start in enumerate(starts)]

    def write(self, data: bytes, start: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._data, view, start)
            view, start = view[written:], start + written

    def complete(self, segment: Segment) -> None:
        """List a segment once all of its bytes are written."""
        os.fdatasync(self._data)
        os.write(self._journal, b"%d\n" % segment.index)
        self.done.add(segment.index)

    def read(self, segment: Segment, buffer: memoryview) -> Iterator[int]:
        """Read the segment into the buffer, part by part; yield the length of each part."""
        at = segment.start
        while at < segment.stop:
            count = os.preadv(self._data, [buffer[: segment.stop - at]], at)
            if count == 0:
                raise OSError(errno.EIO, f"{self._path} was cut off at byte {at}")
            at += count
            yield count

    def restart(self) -> None:
        """Forget all bytes."""
        os.ftruncate(self._journal, 0)
        # Truncating to zero first leaves a sparse file, not one full of wrong bytes.
        os.ftruncate(self._data, 0)
        os.ftruncate(self._data, self._size)
        os.write(self._journal, self._identity)
        self.done.clear()

    def move_to(self, path: Path) -> None:
        """Give the complete file its own name, atomically and durably."""
        os.fsync(self._data)
        self._path.replace(path)
        self._journal_path.unlink()

    def _listed(self) -> set[int] | None:
        """Return the segments that the journal lists, or None if it belongs to another file."""
        identity, *lines = self._journal_path.read_bytes().splitlines(keepends=True) or [b""]
        if identity != self._identity or os.fstat(self._data).st_size != self._size:
            return None
        if lines and not lines[-1].endswith(b"\n"):
            # A kill cut this line off; if it stayed, the next line would be appended to it.
            os.ftruncate(self._journal, os.fstat(self._journal).st_size - len(lines.pop()))
        # A power failure may leave zeros in place of a line.
        return {int(line) for line in lines if line.strip().isdigit()}


def bytes_on_disk(path: Path) -> int:
    """Return the disk space that a partial file already takes, in bytes; 0 if there is none."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0
