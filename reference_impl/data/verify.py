"""Compares a folder with its manifest, or with a published set: every file with its bytes, and no other file.

Nothing here writes except `initialise`, which makes the manifest of a copy that is known to be good, and `repair`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmark.plurals import counted
from reference_impl.data.published import PublishedFiles, benchmark_faults, repaired_name
from reference_impl.files.manifest import (
    FILE_NAME,
    DataError,
    FolderManifest,
    Manifest,
    describe_files,
    file_faults,
    files_below,
    load_any,
    size_fault,
    unexpected_files,
)
from reference_impl.files.progress import Show, size


@dataclass(frozen=True)
class Comparison:
    faults: list[str]
    """One line for each file that is missing, unexpected or different."""
    summary: str
    """What was compared with what, if there are no faults."""


def compare(folder: Path, published: PublishedFiles | None, *, quick: bool, jobs: int | None, show: Show) -> Comparison:
    """Compare a folder with its manifest and with a published set if one is given, which may also replace the manifest.

    Args:
        quick: compare sizes without reading the bytes.
        jobs: files that are read at once; as many as cores if None.

    Raises:
        DataError: the folder has no manifest and no published set is given, or the manifest cannot be read.
    """
    faults = [] if published is None else published.size_faults(folder)
    if published is not None and not (folder / FILE_NAME).exists():
        faults += unexpected_files(folder, published.sizes)
        total = sum(known for known in published.sizes.values() if known is not None)
        compared = f"{counted(len(published.sizes), 'file')}, {size(total)}"
        return Comparison(faults, f"{compared}, sizes as published for the {published.about}; bytes not compared")
    manifest = load_any(folder)
    if published is not None and published.benchmark is not None and isinstance(manifest, Manifest):
        faults += benchmark_faults(published.benchmark, folder, manifest)
    with show("verify", 0 if quick else manifest.total_bytes) as advance:
        faults += file_faults(folder, manifest.files, quick=quick, jobs=jobs, advance=advance)
    faults += unexpected_files(folder, manifest.files)
    what = "sizes" if quick else "bytes"
    unhashed = sum(entry.checksum is None for entry in manifest.files.values())
    note = f"; {unhashed} of them have no checksum there" if unhashed and not quick else ""
    summary = f"{counted(len(manifest.files), 'file')}, {size(manifest.total_bytes)}, {what} as in {FILE_NAME}{note}"
    if published is not None:
        summary += f", sizes as published for the {published.about}"
    # A file of the wrong size is one fault, although two lists report it.
    return Comparison(list(dict.fromkeys(faults)), summary)


def initialise(folder: Path, published: PublishedFiles | None, show: Show) -> FolderManifest:
    """Write the manifest of a folder as it is now; with a published set, only if the folder matches it.

    Raises:
        DataError: there already is a manifest, the folder is empty, or it does not match the published set.
    """
    if (folder / FILE_NAME).exists():
        raise DataError(f"{folder / FILE_NAME} already exists; remove it to describe the folder anew")
    names = files_below(folder)
    faults = [fault for name in names if (fault := size_fault(folder / name, None))]
    if published is not None:
        faults += [*published.size_faults(folder), *unexpected_files(folder, published.sizes)]
    if not names:
        faults = [f"{folder} holds no files"]
    if faults:
        raise DataError("\n".join(faults))
    with show("hash", sum((folder / name).stat().st_size for name in names)) as advance:
        files = describe_files(folder, names, advance)
    manifest = FolderManifest(files=files) if published is None else published.manifest(files)
    manifest.save(folder)
    return manifest


def repair(folder: Path) -> list[str]:
    """Give the files of the published layout their right names; return one line for each.

    Raises:
        DataError: a right name is taken.
    """
    done: list[str] = []
    for name in files_below(folder):
        right = repaired_name(name)
        if right == name:
            continue
        wrong_path, right_path = folder / name, folder / right
        if right_path.is_file():
            raise DataError(f"{right_path} is already there, next to {wrong_path}; remove one of them")
        # The folder that holds a misspelt file may have the very name that the file is to get.
        aside = folder / f".{right}.renamed"
        wrong_path.rename(aside)
        if wrong_path.parent != folder and not any(wrong_path.parent.iterdir()):
            wrong_path.parent.rmdir()
        if right_path.is_dir():
            aside.rename(wrong_path)
            raise DataError(f"{right_path} holds more than {wrong_path.name}; move the rest away")
        aside.rename(right_path)
        done.append(f"{name} is now {right}")
    return done
