"""A folder of large files, written file by file, so that a killed program goes on where it was.

A file that is complete has a line in the folder's journal, with its checksum and what its writer has to remember of it.
The journal is removed last of all: a folder without one is complete, or not one of ours.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from benchmark.decode import from_json, one_line, read_regular
from benchmark.files import flush
from reference_impl.checkpoint.arrays import CheckpointError
from reference_impl.files.checksum import Advance, in_parallel
from reference_impl.files.manifest import FileEntry, FolderManifest, checked_name, describe_files

JOURNAL = "unfinished.jsonl"
_UNFINISHED = ".unfinished"

_MOST_OF_JOURNAL = 1 << 26
"""Bytes; a line has some hundreds, and a checkpoint some thousand files."""


@dataclass(frozen=True, slots=True)
class Written:
    """A complete file."""

    entry: FileEntry
    memory: Any
    """What its writer returned, as JSON has it."""


class ChecksummedFile:
    """A file that is being written: counts and checksums what goes through it."""

    def __init__(self, path: Path, advance: Advance) -> None:
        self._file = path.open("wb", buffering=0)
        self._advance = advance
        self._hash = hashlib.sha256()
        self._position = 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._hash.update(view)
        while view:
            count = self._file.write(view)
            view = view[count:]
            self._position += count
            self._advance(count)
        return memoryview(data).nbytes

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> FileEntry:
        os.fsync(self._file.fileno())
        self._file.close()
        return FileEntry(bytes=self._position, sha256=self._hash.hexdigest())


def complete_bytes(folder: Path) -> int:
    """Of the files that an unfinished job has completed; 0 where there is none."""
    try:
        _, done = _journal(folder / JOURNAL)
    except OSError:
        return 0
    return sum(file.entry.bytes for file in done.values())


def _journal(path: Path) -> tuple[str, dict[str, Written]]:
    """Return the job of a journal, empty where not even that is written, and what is complete of it.

    Raises:
        OSError: it cannot be read.
        CheckpointError: nobody who writes journals has written it.
    """
    try:
        # The last line may have been cut off.
        lines = read_regular(path, _MOST_OF_JOURNAL).split(b"\n")[:-1]
        done = dict(_written(from_json(line)) for line in lines[1:])
        return lines[0].decode() if lines else "", done
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError([f"{path} is no journal of unfinished work: {one_line(error)}"]) from None


def _written(line: dict[str, Any]) -> tuple[str, Written]:
    return checked_name(line["name"]), Written(FileEntry(**line["entry"]), line["memory"])


def _cut_to_lines(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


Fill = Callable[[ChecksummedFile], Any]
"""Writes a file's content and returns what to remember of it, as JSON has it."""


class PartFolder:
    """The folder of one job.

    Args:
        job: what is written, as JSON; a folder that was begun for something else is refused.

    Raises:
        CheckpointError: the folder holds something else, or cannot be written.
    """

    def __init__(self, folder: Path, job: dict[str, Any]) -> None:
        self.folder = folder
        self._journal = folder / JOURNAL
        self._job = json.dumps(job, sort_keys=True)
        self._lock = Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.written = self._resume()
        except OSError as error:
            raise CheckpointError([f"{folder} cannot be written to: {error.strerror}"]) from None

    def _resume(self) -> dict[str, Written]:
        """Return the files that are complete already."""
        if not self._journal.exists():
            if any(self.folder.iterdir()):
                raise CheckpointError([f"{self.folder} is not empty, and holds no work of this kind to go on with"])
            self._append(self._job)
            return {}
        job, done = _journal(self._journal)
        _cut_to_lines(self._journal)
        if not job:
            self._append(self._job)
        elif job != self._job:
            raise CheckpointError(
                [f"{self.folder} is the unfinished work of another call: it began as {job}, this is {self._job}"]
            )
        return done

    def _append(self, line: str) -> None:
        with self._journal.open("a", encoding="utf-8") as journal:
            journal.write(line + "\n")
            flush(journal)

    def write(self, files: Sequence[tuple[str, Fill]], advance: Advance, jobs: int | None = None) -> dict[str, Any]:
        """Write files, those left out that are complete already.

        Args:
            files: (name, what writes its content, always the same) pairs.
            advance: told how many bytes were written, from any thread.
            jobs: how many are written at once, as many as cores if None.

        Returns:
            What each file's writer returned, by name, in their order.

        Raises:
            CheckpointError: the disk is full, or broken; what is complete stays, for the next call.
        """
        try:
            in_parallel(partial(self._write, advance), [file for file in files if file[0] not in self.written], jobs)
        except OSError as error:
            raise CheckpointError([f"{self.folder} cannot be written to: {error.strerror}"]) from None
        return {name: self.written[name].memory for name, _ in files}

    def _write(self, advance: Advance, file: tuple[str, Fill]) -> None:
        name, fill = file
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + _UNFINISHED)
        output = ChecksummedFile(unfinished, advance)
        memory = fill(output)
        entry = output.close()
        unfinished.replace(path)
        with self._lock:
            self._append(json.dumps({"name": name, "entry": entry.model_dump(exclude_none=True), "memory": memory}))
            self.written[name] = Written(entry, memory)

    def finish(self, small: Sequence[tuple[str, bytes]]) -> None:
        """Write the small files that go with the large ones, the manifest of all, and end the job."""
        for name, content in small:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        entries = {name: file.entry for name, file in self.written.items()}
        entries |= describe_files(self.folder, [name for name, _ in small])
        FolderManifest(files=dict(sorted(entries.items()))).save(self.folder)
        self._journal.unlink()
