"""Megatron's `.bin`/`.idx` pair, read and written without torch.

`<prefix>.bin` holds the tokens of all documents, one after the other. `<prefix>.idx` has a header and three arrays: the
length of each document in tokens (int32), its start in bytes (int64), and the numbers 0 to documents (int64).
Megatron-Core's IndexedDatasetBuilder writes the same bytes, but from Python lists that take minutes and gigabytes for
the 45 million documents of a file of C4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.files import flush
from reference_impl.files.manifest import DataError

_MAGIC = b"MMIDIDX\x00\x00"
_VERSION = 1
_HEADER = struct.Struct("<9sQBQQ")
"""Magic, version, code of the type, documents, documents + 1."""
_CODES: dict[int, np.dtype[Any]] = {4: np.dtype(np.int32), 8: np.dtype(np.uint16)}
_CHUNK = 1 << 20
"""Documents written at a time: a few megabytes."""


@dataclass(frozen=True)
class DatasetPair:
    """An open `.bin`/`.idx` pair; its arrays map the files."""

    lengths: np.ndarray[Any, np.dtype[np.int32]]
    """Tokens of each document."""
    tokens: np.ndarray[Any, Any]
    """Tokens of all documents."""

    def document(self, index: int) -> np.ndarray[Any, Any]:
        """Return the tokens of one document."""
        start = int(self.lengths[:index].sum(dtype=np.int64))
        return self.tokens[start : start + int(self.lengths[index])]


def write_idx(path: Path, dtype: np.dtype[Any], lengths: np.ndarray[Any, np.dtype[np.int32]]) -> None:
    """Write the `.idx` for documents that are one sequence each."""
    code = next(code for code, known in _CODES.items() if known == dtype)
    with path.open("wb") as file:
        file.write(_HEADER.pack(_MAGIC, _VERSION, code, len(lengths), len(lengths) + 1))
        file.write(np.ascontiguousarray(lengths, dtype=np.int32).data)
        start = np.int64(0)
        for chunk in _chunks(lengths):
            ends = start + np.cumsum(chunk, dtype=np.int64) * dtype.itemsize
            file.write(np.concatenate(([start], ends[:-1])).data)
            start = ends[-1]
        for first in range(0, len(lengths) + 1, _CHUNK):
            file.write(np.arange(first, min(first + _CHUNK, len(lengths) + 1), dtype=np.int64).data)
        flush(file)


def _chunks(lengths: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    for first in range(0, len(lengths), _CHUNK):
        yield lengths[first : first + _CHUNK]


def open_pair(prefix: Path) -> DatasetPair:
    """Open a pair by mapping its files.

    Raises:
        DataError: a file is missing or of another format, or the two files do not belong together.
    """
    idx, binary = _idx(prefix), prefix.parent / f"{prefix.name}.bin"
    documents, dtype = _read_header(idx)
    try:
        size, tokens_size = idx.stat().st_size, binary.stat().st_size
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from None
    expected = _HEADER.size + 4 * documents + 8 * documents + 8 * (documents + 1)
    if size != expected:
        raise DataError(f"{idx} has {size} bytes, but a header and {documents} documents take {expected}")
    lengths = _map(idx, np.dtype(np.int32), _HEADER.size, documents)
    total = int(lengths.sum(dtype=np.int64))
    if tokens_size != total * dtype.itemsize:
        raise DataError(
            f"{binary} has {tokens_size} bytes, but {total} tokens of {dtype} take {total * dtype.itemsize}"
        )
    return DatasetPair(lengths=lengths, tokens=_map(binary, dtype, 0, total))


def stored_type(prefix: Path) -> np.dtype[Any]:
    """Return the type of a pair's tokens; this reads only the header of its `.idx`.

    Raises:
        DataError: the `.idx` is missing or malformed.
    """
    return _read_header(_idx(prefix))[1]


def _idx(prefix: Path) -> Path:
    return prefix.parent / f"{prefix.name}.idx"


def _read_header(idx: Path) -> tuple[int, np.dtype[Any]]:
    """Return (documents, type of the tokens)."""
    try:
        with idx.open("rb") as file:
            header = file.read(_HEADER.size)
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from None
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise DataError(f"{idx} is not a Megatron index: it starts with {header[:9]!r}, expected {_MAGIC!r}")
    _, version, code, documents, ends = _HEADER.unpack(header)
    if version != _VERSION or code not in _CODES or ends != documents + 1:
        raise DataError(
            f"{idx}: version {version}, type {code}, {documents} sequences in {ends} - 1 documents; expected version "
            f"{_VERSION}, type {' or '.join(map(str, _CODES))}, one sequence a document"
        )
    return documents, _CODES[code]


def _map(path: Path, dtype: np.dtype[Any], offset: int, count: int) -> np.ndarray[Any, Any]:
    # An empty file cannot be mapped.
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(count,)) if count else np.empty(0, dtype)
