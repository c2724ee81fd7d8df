"""What a dataset folder holds: sizes and checksums of its files, which of them are for what, and their tokenizer.

`manifest.json` stands beside the `.bin` and `.idx` files. It is written by what prepares the data and verified before
each run: training on the wrong bytes costs more than reading a page. No torch here.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from reference_impl.tokenizer import Tokenizer, sha256

FILE_NAME = "manifest.json"


class DataError(ValueError):
    """A dataset that must not be trained on; the message lists every fault."""


class FileEntry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    sha256: str


class Part(BaseModel):
    """One `.bin`/`.idx` pair of the training blend."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefix: str
    """Path inside the folder, without the suffix."""
    weight: float
    """Share of the blend."""


class Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    corpus: str
    """Where the text is from, for people."""
    tokenizer_sha256: str
    vocabulary: int
    train: tuple[Part, ...]
    validation: str
    """Prefix of the validation pair."""
    files: dict[str, FileEntry]

    def save(self, folder: Path) -> None:
        (folder / FILE_NAME).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load(folder: Path) -> Manifest:
    """The manifest of a dataset folder.

    Raises:
        DataError: it is missing or malformed.
    """
    path = folder / FILE_NAME
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; a dataset folder holds .bin, .idx and {FILE_NAME}") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (ValidationError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is no manifest: {error}") from None


def verify(folder: Path, tokenizer: Tokenizer) -> Manifest:
    """The manifest, once every file of it is there with its bytes and the tokenizer is the data's own.

    Raises:
        DataError: listing every mismatch, with what was found and what was expected.
    """
    manifest = load(folder)
    faults = [fault for name, entry in manifest.files.items() for fault in _file_faults(folder / name, entry)]
    for prefix in [part.prefix for part in manifest.train] + [manifest.validation]:
        unlisted = [name for name in (f"{prefix}.bin", f"{prefix}.idx") if name not in manifest.files]
        faults += [f"{folder / FILE_NAME} uses {name} but does not list it under files" for name in unlisted]
    if tokenizer.vocab_size != manifest.vocabulary:
        faults.append(
            f"tokenizer {tokenizer.path} has {tokenizer.vocab_size} pieces, the data in {folder} was made with "
            f"{manifest.vocabulary}"
        )
    elif tokenizer.sha256 != manifest.tokenizer_sha256:
        faults.append(
            f"tokenizer {tokenizer.path} has sha256 {tokenizer.sha256}, the data in {folder} was made with "
            f"{manifest.tokenizer_sha256}"
        )
    if faults:
        raise DataError("\n".join(faults))
    return manifest


def _file_faults(path: Path, entry: FileEntry) -> list[str]:
    try:
        size = path.stat().st_size
    except OSError as error:
        return [f"{path}: {error.strerror}, expected {entry.bytes} bytes"]
    if size != entry.bytes:
        return [f"{path} has {size} bytes, expected {entry.bytes}"]
    digest = sha256(path)
    return [] if digest == entry.sha256 else [f"{path} has sha256 {digest}, expected {entry.sha256}"]


def describe_files(folder: Path, names: list[str]) -> dict[str, FileEntry]:
    """Entries for files that were just made."""
    return {name: FileEntry(bytes=(folder / name).stat().st_size, sha256=sha256(folder / name)) for name in names}
