"""A folder's manifest: the size and checksum of every file below it and, for a dataset, what its files are for.

`manifest.json` lies in the folder. Whatever makes or downloads the files writes it, or `verify --init` does from a copy
that is known to be good. It is compared before each run, because training on the wrong bytes costs more.
`FolderManifest` fits any folder (a tokenizer, a checkpoint), `Manifest` a dataset. The names in a manifest are
untrusted input: none of them can leave the folder. This module imports no torch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from stat import S_ISREG
from threading import Event
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from benchmark.decode import MalformedError, read_regular
from benchmark.errors import RefusedError
from benchmark.files import DEEPEST, UNFINISHED, walk, write_at_once
from reference_impl.files.checksum import Advance, Algorithm, digest, in_parallel, silent, until
from reference_impl.tokenizer import Tokenizer

FILE_NAME = "manifest.json"
LARGEST = 1 << 26
"""Most bytes of a manifest: each file takes some hundred."""
_SHOWN = 80
"""Characters that are shown of a refused name."""
_UNFINISHED = re.compile(rf"{re.escape(FILE_NAME)}\.[0-9a-f]+{re.escape(UNFINISHED)}")


class DataError(RefusedError):
    """Data that must not be trained on, or that is unavailable; the message lists every fault."""


def checked_name(name: str) -> str:
    """Return the name if a manifest may hold it: a relative path below a folder, without `..`, printable, not too deep.

    Raises:
        ValueError: it is not such a name.
    """
    parts = name.split("/")
    if not name.isprintable() or "\\" in name or any(part in {"", ".", ".."} for part in parts):
        raise ValueError(f"{name[:_SHOWN]!r} is not a path below a folder")
    if len(parts) > DEEPEST:
        raise ValueError(f"{name[:_SHOWN]!r}... has {len(parts)} parts, expected at most {DEEPEST}")
    return name


FileName = Annotated[str, AfterValidator(checked_name)]


class FileEntry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int = Field(ge=0)
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    md5: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None = None
    """Only for files of MLCommons' lists, which hold no other checksum."""

    @property
    def checksum(self) -> tuple[Algorithm, str] | None:
        """The checksum to compare: SHA-256 if there is one; None if only the size is known."""
        if self.sha256 is not None:
            return "sha256", self.sha256
        return None if self.md5 is None else ("md5", self.md5)


class FolderManifest(BaseModel):
    """Every file below a folder, hidden ones too, except the manifest itself."""

    # Other fields say what the files are for; whoever needs them reads them.
    model_config = ConfigDict(frozen=True, extra="ignore")

    files: dict[FileName, FileEntry]
    """Entries by path relative to the folder."""

    @property
    def total_bytes(self) -> int:
        return sum(entry.bytes for entry in self.files.values())

    @property
    def digest(self) -> str:
        """SHA-256 of the whole manifest."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write manifest.json whole, or leave the existing one.

        Raises:
            DataError: it cannot be written.
        """
        path = folder / FILE_NAME
        try:
            write_at_once(path, self.model_dump_json(indent=2, exclude_none=True) + "\n")
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from None

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the manifest of a folder.

        Raises:
            DataError: it is missing or malformed.
        """
        return cls.parse(cls.read(folder), str(folder / FILE_NAME))

    @classmethod
    def read(cls, folder: Path) -> bytes:
        """Return the bytes of a folder's manifest.

        Raises:
            DataError: it is missing.
        """
        path = folder / FILE_NAME
        try:
            return read_regular(path, LARGEST)
        except FileNotFoundError:
            raise DataError(f"{path} does not exist; {cls._advice(folder)}") from None
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from None
        except MalformedError as error:
            raise DataError(f"{path} is not a manifest: {error}") from None

    @classmethod
    def parse(cls, text: bytes, origin: str) -> Self:
        """Parse a manifest; errors name its `origin`.

        Raises:
            DataError: `text` is not a manifest.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise DataError(f"{origin} is not a manifest: {error}") from None

    @classmethod
    def _advice(cls, folder: Path) -> str:
        return f"if the copy is known to be good, make it with `llama31 data verify --init {folder}`"


class BlendPart(BaseModel):
    """One `.bin`/`.idx` pair of the training blend."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefix: FileName
    """Path inside the folder, without the suffix."""
    weight: float = Field(gt=0, allow_inf_nan=False)
    """Share of the blend."""


class Manifest(FolderManifest):
    """A dataset: which files are for training and which for validation, and the tokenizer that made them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpus: str
    """Where the text comes from, for people."""
    tokenizer_sha256: str | None = None
    """None if nobody states it."""
    vocabulary: int
    train: tuple[BlendPart, ...]
    validation: FileName
    """Prefix of the validation pair."""

    @property
    def prefixes(self) -> list[str]:
        return [*(part.prefix for part in self.train), self.validation]

    @classmethod
    def _advice(cls, folder: Path) -> str:  # noqa: ARG003
        return f"a dataset folder holds .bin, .idx and {FILE_NAME}"


def load(folder: Path) -> Manifest:
    """Return the manifest of a dataset folder.

    Raises:
        DataError: it is missing or malformed.
    """
    return Manifest.load(folder)


def load_any(folder: Path) -> FolderManifest:
    """Return the manifest of any folder; a `Manifest` if it is a dataset's.

    Raises:
        DataError: it is missing or malformed.
    """
    return parse_any(FolderManifest.read(folder), str(folder / FILE_NAME))


def parse_any(text: bytes, origin: str) -> FolderManifest:
    """Parse a manifest, into a `Manifest` if it is a dataset's; errors name its `origin`.

    Raises:
        DataError: `text` is not a manifest.
    """
    manifest = FolderManifest.parse(text, origin)
    try:
        return Manifest.model_validate_json(text)
    except ValidationError:
        return manifest


def dataset_faults(folder: Path, manifest: Manifest, tokenizer: Tokenizer) -> Iterator[str]:
    """Yield a dataset's faults besides wrong bytes: pairs that it does not list, a tokenizer that did not make it."""
    for name in (f"{prefix}.{suffix}" for prefix in manifest.prefixes for suffix in ("bin", "idx")):
        if name not in manifest.files:
            yield f"{folder / FILE_NAME} uses {name} but does not list it under files"
    if tokenizer.vocab_size != manifest.vocabulary:
        yield (
            f"tokenizer {tokenizer.path} has {tokenizer.vocab_size} pieces, but the data in {folder} was made with "
            f"{manifest.vocabulary}"
        )
    elif manifest.tokenizer_sha256 not in (None, tokenizer.sha256):
        yield (
            f"tokenizer {tokenizer.path} has sha256 {tokenizer.sha256}, but the data in {folder} was made with "
            f"{manifest.tokenizer_sha256}"
        )


def file_faults(
    folder: Path,
    files: Mapping[str, FileEntry],
    *,
    quick: bool = False,
    jobs: int | None = None,
    advance: Advance = silent,
) -> list[str]:
    """Return a line for each file that is missing, has another size or, unless `quick`, has other bytes.

    Files are read on `jobs` threads, as many as cores if None, the largest first. `advance` counts the bytes of every
    file, whether it is read or not.
    """

    stop = Event()
    counted = until(stop, advance)

    def fault(name: str) -> str | None:
        return _file_fault(folder / name, files[name], quick=quick, advance=counted)

    largest_first = sorted(files, key=lambda name: -files[name].bytes)
    fault_of = dict(zip(largest_first, in_parallel(fault, largest_first, jobs, stop), strict=True))
    return [text for name in files if (text := fault_of[name]) is not None]


def _file_fault(path: Path, entry: FileEntry, *, quick: bool, advance: Advance) -> str | None:
    fault = size_fault(path, entry.bytes)
    if fault is not None or quick or entry.checksum is None:
        return fault
    algorithm, expected = entry.checksum
    try:
        checksum = digest(path, algorithm, advance)
    except OSError as error:
        return f"{path}: {error.strerror}"
    return None if checksum == expected else f"{path} has {algorithm} {checksum}, expected {expected}"


def size_fault(path: Path, expected: int | None) -> str | None:
    """Return what is wrong with a file's size, if anything; with `expected` None, any size is right."""
    wanted = "" if expected is None else f", expected {expected} bytes"
    try:
        status = path.stat()
    except OSError as error:
        return f"{path}: {error.strerror}{wanted}"
    if not S_ISREG(status.st_mode):
        return f"{path} is not a file{wanted}"
    return f"{path} has {status.st_size} bytes, expected {expected}" if expected not in (None, status.st_size) else None


def unexpected_files(folder: Path, files: Mapping[str, object]) -> list[str]:
    """Return a line for each file below the folder that is not in `files`, and for each folder that cannot be read."""
    faults: list[str] = []
    names = _names_below(folder, lambda error: faults.append(f"{_shown(Path(error.filename))}: {error.strerror}"))
    return sorted(faults) + [f"{_shown(folder / name)} is not expected" for name in names if name not in files]


def _shown(path: Path) -> str:
    """Return a path as a terminal can show it; anybody may have named it."""
    return str(path) if str(path).isprintable() else ascii(str(path))[1:-1]


def files_below(folder: Path) -> list[str]:
    """Return the relative paths of all files below a folder, sorted, except its manifest (even a half-written one).

    Hidden files are included. A link to a file counts as a file. A link to a folder is listed but not followed: no
    manifest describes what is behind it.

    Raises:
        DataError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: {error.strerror}") from None

    return _names_below(folder, refuse)


def _names_below(folder: Path, unreadable: Callable[[OSError], object]) -> list[str]:
    """Return the paths for `files_below`; `unreadable` is called for each folder that cannot be read."""
    names: list[str] = []
    for place, folders, files in walk(folder, unreadable):
        here = Path(place)
        links = [name for name in folders if (here / name).is_symlink()]
        names += [(here / name).relative_to(folder).as_posix() for name in (*files, *links)]
    return sorted(name for name in names if name != FILE_NAME and not _UNFINISHED.fullmatch(name))


def describe_files(folder: Path, names: Sequence[str], advance: Advance = silent) -> dict[str, FileEntry]:
    """Return the entries of files as they are now.

    Raises:
        DataError: one of them cannot be read.
    """
    stop = Event()
    described = in_parallel(partial(_describe, folder, until(stop, advance)), names, stop=stop)
    return dict(zip(names, described, strict=True))


def _describe(folder: Path, advance: Advance, name: str) -> FileEntry:
    path = folder / name
    try:
        return FileEntry(bytes=path.stat().st_size, sha256=digest(path, advance=advance))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
