"""The documents of a shard of C4: a file, mostly of gzip, with a JSON object a line, whose `text` is the document.

What a line may hold, and what becomes of it:
- any text, embedded NUL and megabytes of it included, is a document as it is; nothing is cleaned or normalised;
- an empty text has no tokens and makes no document, as in the reference's preprocessing; it is counted;
- a line that is no UTF-8, no JSON object, has no `text`, or whose text has a lone surrogate, which no encoding can
  express, is faulty. The reference's preprocessing dies of it. So does ours, naming shard, line and fault, unless it is
  told to leave faulty lines out; then each is counted by its fault, and the first of each named.
A shard that has no byte, ends before its checksum, or fails it, is refused either way: nobody can tell what is missing.
One that was unpacked has no checksum; where it is cut off, its last line is faulty.
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
    """A line that is no document."""

    line: int
    """From 1."""
    kind: str
    """One of a few."""
    detail: str


class Shard(Protocol):
    """A part of a corpus that one process tokenises at a time; it is pickled to get there."""

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> str:
        """Changes when the content does."""

    @property
    def size(self) -> int:
        """Bytes, for the display of progress."""

    def lines(self) -> Iterator[str | Fault]:
        """Its texts in order, empty ones too.

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
            # gzip takes no bytes at all for no lines.
            if self.size == 0:
                raise EOFError("it is empty")
            with gzip.open(self.path, "rb") if self.path.suffix == ".gz" else self.path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    yield document(number, line)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{self.path} is cut off or damaged, get it again: {error}") from None
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
        return Fault(number, "text is no string", type(text).__name__)
    # Only then can there be surrogates: they come of escapes alone.
    if b"\\u" in line and (surrogate := _lone_surrogate(text)) is not None:
        return Fault(number, "lone surrogate", surrogate)
    return text


def _lone_surrogate(text: str) -> str | None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"U+{ord(text[error.start]):04X} at character {error.start}"
    return None
