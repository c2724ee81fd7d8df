"""The documents of a shard of C4: a file, usually gzip, with one JSON object a line, whose `text` is the document.

What a line may hold, and what becomes of it:
- Any text is a document as it is, even megabytes of it or embedded NULs; nothing is cleaned or normalised.
- An empty text has no tokens and makes no document, as in the reference's preprocessing; it is counted.
- A line is faulty if it is not UTF-8, not a JSON object, has no `text`, or its text has a lone surrogate, which no
  encoding can express. The reference's preprocessing crashes on it. Ours refuses the shard and names shard, line and
  fault, unless it may leave faulty lines out; then it counts them by fault and names the first of each.
A shard that is empty, ends before its checksum, or fails it, is refused either way, since nobody can tell what is
missing. An unpacked shard has no checksum; if it is cut off, its last line is faulty.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from reference_impl.files.manifest import DataError


@dataclass(frozen=True)
class Fault:
    """A line that is not a document."""

    line: int
    """Number of the line, from 1."""
    kind: str
    """One of the few kinds that `document` returns."""
    detail: str


class Shard(Protocol):
    """A part of a corpus that one process tokenises at a time; it is pickled on its way there."""

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> str:
        """Changes when the content does."""

    @property
    def size(self) -> int:
        """Bytes, for the progress display."""

    def lines(self) -> Iterator[str | Fault]:
        """Yield its texts in order, including empty ones.

        Raises:
            DataError: it cannot be read to its end.
        """


@dataclass(frozen=True)
class C4Shard:
    """A `.json.gz` file, or a `.json` file that was one."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def identity(self) -> str:
        status = self.path.stat()
        return f"{self.path.name} {status.st_size} {status.st_mtime_ns}"

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def lines(self) -> Iterator[str | Fault]:
        try:
            # gzip accepts a file of no bytes as one of no lines.
            if self.size == 0:
                raise EOFError("it is empty")
            with gzip.open(self.path, "rb") if self.path.suffix == ".gz" else self.path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    yield document(number, line)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{self.path} is cut off or damaged, download it again: {error}") from None
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror}") from None


def document(number: int, line: bytes) -> str | Fault:
    """Return the text of line `number`, or what is wrong with it."""
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Fault(number, "not UTF-8", f"byte {error.start} of the line is {line[error.start]:#04x}")
    except (ValueError, RecursionError) as error:
        return Fault(number, "not JSON", str(error))
    if not isinstance(record, dict):
        return Fault(number, "not an object", type(record).__name__)
    if "text" not in record:
        return Fault(number, "no text", f"it has {', '.join(map(repr, record)) or 'nothing'}")
    text = record["text"]
    if not isinstance(text, str):
        return Fault(number, "text is not a string", type(text).__name__)
    # Surrogates can only come from escapes.
    if b"\\u" in line and (surrogate := _lone_surrogate(text)) is not None:
        return Fault(number, "lone surrogate", surrogate)
    return text


def _lone_surrogate(text: str) -> str | None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"U+{ord(text[error.start]):04X} at character {error.start}"
    return None
