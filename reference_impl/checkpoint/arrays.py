"""Tensors in files, read box by box without reading the rest.

A stored tensor is a set of pieces. Each piece is a box of the tensor that lies in one place of one file, row after row.
The file format decides only where the pieces are, so one function reads every format. Describing tensors needs no
torch; reading them does.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from benchmark.decode import MalformedError, PickledObject, from_pickle, mapping_of, open_regular, shown
from benchmark.errors import RefusedError

if TYPE_CHECKING:
    import torch

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Where a box starts along each axis, and its shape."""

ITEM_BYTES = (
    dict.fromkeys(("float64", "int64"), 8)
    | dict.fromkeys(("float32", "int32"), 4)
    | dict.fromkeys(("bfloat16", "float16", "int16"), 2)
    | dict.fromkeys(("float8_e4m3fn", "float8_e5m2", "int8", "uint8", "bool"), 1)
)
"""Types of a tensor's values, by torch's names."""

BLOCK_BYTES = 32 << 20
"""Most bytes that are read at once where only some columns are wanted."""


class CheckpointError(RefusedError):
    """A checkpoint that cannot be used; `faults` lists everything that is wrong with it."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes of a file."""

    path: Path
    start: int
    length: int
    archive: bool = False
    """The bytes are what torch.save writes for one tensor; otherwise they are the tensor's own."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A box of a tensor that is stored in one place, in C order."""

    start: tuple[int, ...]
    shape: tuple[int, ...]
    span: ByteRange


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in files."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """torch's name of it, without `torch.`."""
    pieces: tuple[Piece, ...]

    @property
    def values(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.values * ITEM_BYTES[self.dtype]


def overlap(a: Box, b: Box) -> Box | None:
    """Return the box that two boxes have in common, or None."""
    # The first axis is the layer or the row, which rules out most of a large tensor's pieces.
    if a[0][0] >= b[0][0] + b[1][0] or b[0][0] >= a[0][0] + a[1][0]:
        return None
    start = tuple(map(max, a[0], b[0]))
    shape = tuple(min(x + n, y + m) - s for x, n, y, m, s in zip(*a, *b, start, strict=True))
    return (start, shape) if all(extent > 0 for extent in shape) else None


def row_blocks(box: Box, row_axis: int, most_bytes: int, item_bytes: int) -> Iterator[Box]:
    """Yield the box cut along one axis into boxes of at most `most_bytes`, or of one row where a row is larger."""
    start, shape = box
    row_bytes = prod(shape) // shape[row_axis] * item_bytes
    step = max(1, most_bytes // row_bytes)
    for first in range(0, shape[row_axis], step):
        count = min(step, shape[row_axis] - first)
        yield (
            (*start[:row_axis], start[row_axis] + first, *start[row_axis + 1 :]),
            (*shape[:row_axis], count, *shape[row_axis + 1 :]),
        )


def read(tensor: Tensor, box: Box) -> torch.Tensor:
    """Return one box of a stored tensor, in memory.

    Raises:
        CheckpointError: a file cannot be read or is shorter than its index states, or no piece holds part of the box.
    """
    import torch

    out = torch.empty(box[1], dtype=getattr(torch, tensor.dtype))
    filled = 0
    for piece in tensor.pieces:
        common = overlap(box, (piece.start, piece.shape))
        if common is not None:
            _read_piece(piece, common, out[_within(box, common)])
            filled += prod(common[1])
    if filled != out.numel():
        raise CheckpointError([f"{tensor.name}: {filled} of the {out.numel()} values from {box[0]} on are stored"])
    return out


def _within(outer: Box, inner: Box) -> tuple[slice, ...]:
    return tuple(slice(s - o, s - o + n) for o, s, n in zip(outer[0], *inner, strict=True))


def _read_piece(piece: Piece, box: Box, out: torch.Tensor) -> None:
    start = tuple(b - p for b, p in zip(box[0], piece.start, strict=True))
    with _File(piece.span.path) as file:
        first = _first_value(file, piece, out.dtype) if piece.span.archive else piece.span.start
        _fill(out, file, first, piece.shape, start)


def _fill(out: torch.Tensor, file: _File, first: int, shape: tuple[int, ...], start: tuple[int, ...]) -> None:
    """Fill `out` with the box at `start` of the array of this shape whose values begin at byte `first` of the file."""
    if len(shape) == 1:
        _fill(out[None], file, first, (1, *shape), (0, *start))
    elif len(shape) == 2:
        _fill_matrix(out, file, first, shape[1], start)
    else:
        stride = prod(shape[1:]) * out.element_size()
        for index, part in enumerate(out, start[0]):
            _fill(part, file, first + index * stride, shape[1:], start[1:])


def _fill_matrix(out: torch.Tensor, file: _File, first: int, columns: int, start: tuple[int, ...]) -> None:
    import torch

    row_bytes = columns * out.element_size()
    position = first + start[0] * row_bytes
    if out.shape[1] == columns and out.is_contiguous():
        file.read(position, out)
        return
    # Whole rows, since many small reads are slower than a large one of which a part is kept.
    step = max(1, BLOCK_BYTES // row_bytes)
    for row in range(0, out.shape[0], step):
        part = out[row : row + step]
        block = torch.empty(part.shape[0], columns, dtype=out.dtype)
        file.read(position + row * row_bytes, block)
        part.copy_(block[:, start[1] : start[1] + out.shape[1]])


def _first_value(file: _File, piece: Piece, dtype: torch.dtype) -> int:
    """Return the byte of the file at which the values start of the tensor that torch.save wrote into the piece."""
    import torch

    span = piece.span
    try:
        with io.BufferedReader(_Window(file.descriptor, span.start, span.length)) as window:
            saved = load_archive(window, "meta")
    except UNLOADABLE as error:
        where = f"{span.path}, bytes {span.start} to {span.start + span.length}"
        raise CheckpointError([f"{where}: expected a saved tensor: {why_unread(error)}"]) from None
    stored = (saved.dtype, tuple(saved.shape)) if isinstance(saved, torch.Tensor) else (type(saved), ())
    if stored != (dtype, piece.shape) or not saved.is_contiguous():
        expected = f"{dtype} {piece.shape}, one row after another"
        raise CheckpointError([f"{span.path}, byte {span.start}, holds {stored[0]} {stored[1]}, expected {expected}"])
    # Where a part of a larger tensor was saved, all of that tensor is in the file.
    offset: int = saved.untyped_storage()._checkpoint_offset
    return span.start + offset + saved.storage_offset() * saved.element_size()


MOST_OF_PICKLE = 16 << 20
"""Most bytes of an archive that are not the tensors' own values. Ours have thousands."""

MOST_OF_OLD_PICKLES = 1 << 16
"""Most bytes of the pickles at the start of an unzipped file, which hold no values."""

UNLOADABLE = (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile, KeyError)
"""The exceptions that `load_archive` raises."""


def load_archive(file: IO[bytes], device: str) -> Any:
    """Load onto a device what torch.save wrote, with torch's own decoder, restricted to tensors and numbers.

    That decoder hashes and unpacks whatever the archive asks for, so `load_archive` inspects the archive first.

    Raises:
        UNLOADABLE: the archive is damaged, or holds more than tensors and numbers.
    """
    import torch

    if file.read(2) == b"PK":
        _refuse_odd_entries(file)
    else:
        # The older, unzipped form: magic number, version, machine, the object, and the keys of the values that follow.
        file.seek(0)
        from_pickle(file.read(MOST_OF_OLD_PICKLES), _stand_in, PickledObject, number=5)
    file.seek(0)
    return torch.load(file, map_location=device, weights_only=True)


def _refuse_odd_entries(file: IO[bytes]) -> None:
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if packed := next((entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None):
            raise MalformedError(f"{shown(packed)} is compressed")
        for entry in entries:
            if entry.filename.endswith(".pkl"):
                if entry.file_size > MOST_OF_PICKLE:
                    raise MalformedError(f"{shown(entry.filename)} has {entry.file_size:,} bytes")
                from_pickle(archive.read(entry), _stand_in, PickledObject)


def _stand_in(module: str, name: str) -> Any:
    return mapping_of if (module, name) == ("collections", "OrderedDict") else PickledObject


class _File:
    """A file that is open inside a with block."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _File:
        try:
            self._file = open_regular(self._path)
        except OSError as error:
            raise CheckpointError([f"{self._path}: {error.strerror}"]) from None
        except MalformedError as error:
            raise CheckpointError([f"{self._path}: {error}"]) from None
        self.descriptor = self._file.fileno()
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def read(self, position: int, out: torch.Tensor) -> None:
        """Fill a contiguous tensor from byte `position` on."""
        import torch

        buffer = out.view(-1).view(torch.uint8).numpy().data
        while buffer:
            # Linux reads two gigabytes at most.
            count = os.preadv(self.descriptor, [buffer], position)
            if count == 0:
                raise CheckpointError([f"{self._path} ends at byte {position}, {len(buffer)} bytes too early"])
            buffer, position = buffer[count:], position + count


def why_unread(error: Exception) -> str:
    """Return one line on why torch.load failed; for a refused pickle, what it names, without torch's advice."""
    if isinstance(error, pickle.UnpicklingError) and (named := re.search(r"GLOBAL ([\w.]+)", str(error))):
        return f"it names {named[1]}, which is neither a tensor nor a number"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class _Window(io.RawIOBase):
    """Some bytes of a file, presented as a file of their own."""

    def __init__(self, descriptor: int, start: int, length: int) -> None:
        self._descriptor, self._start, self._length, self._position = descriptor, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._length)[whence]
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self._length - self._position))
        count = os.preadv(self._descriptor, [memoryview(buffer)[:wanted]], self._start + self._position)
        self._position += count
        return count
