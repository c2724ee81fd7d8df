"""A folder of large files, written file by file, so that a killed program can continue where it stopped.

The folder's journal has one line for each complete file: its checksum and whatever its writer must remember. The
journal is removed last, so a folder without one is either complete or not one of ours.
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
"""Most bytes of a journal. A line has some hundreds, and a checkpoint some thousand files."""


@dataclass(frozen=True, slots=True)
class Written:
    """A complete file."""

    entry: FileEntry
    memory: Any
    """The value that its writer returned, as JSON."""


class ChecksummedFile:
    """A file that is being written; it counts and checksums every byte."""

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
        """Do nothing: no byte is held back."""

    def close(self) -> FileEntry:
        os.fsync(self._file.fileno())
        self._file.close()
        return FileEntry(bytes=self._position, sha256=self._hash.hexdigest())


def complete_bytes(folder: Path) -> int:
    """Return the bytes of the files that an unfinished job has completed; 0 if there is no job."""
    try:
        _, done = _journal(folder / JOURNAL)
    except OSError:
        return 0
    return sum(file.entry.bytes for file in done.values())


def _journal(path: Path) -> tuple[str, dict[str, Written]]:
    """Return a journal's job, empty if not even that was written, and the files that are complete.

    Raises:
        OSError: the journal cannot be read.
        CheckpointError: the file is not a journal.
    """
    try:
        # A kill may have cut off the last line.
        lines = read_regular(path, _MOST_OF_JOURNAL).split(b"\n")[:-1]
        done = dict(_written(from_json(line)) for line in lines[1:])
        return lines[0].decode() if lines else "", done
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError([f"{path} is not a journal of unfinished work: {one_line(error)}"]) from None


def _written(line: dict[str, Any]) -> tuple[str, Written]:
    return checked_name(line["name"]), Written(FileEntry(**line["entry"]), line["memory"])


def _cut_to_lines(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


Fill = Callable[[ChecksummedFile], Any]
"""Writes a file's content, and returns what to remember of it as JSON."""


class PartFolder:
    """The folder of one job.

    Args:
        job: what is written, as JSON. A folder that was begun for another job is refused.

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
            raise CheckpointError([f"cannot write to {folder}: {error.strerror}"]) from None

    def _resume(self) -> dict[str, Written]:
        """Return the files that are already complete."""
        if not self._journal.exists():
            if any(self.folder.iterdir()):
                raise CheckpointError(
                    [f"{self.folder} is not empty and holds no unfinished work of this kind; name another folder"]
                )
            self._append(self._job)
            return {}
        job, done = _journal(self._journal)
        _cut_to_lines(self._journal)
        if not job:
            self._append(self._job)
        elif job != self._job:
            raise CheckpointError(
                [f"{self.folder} holds another call's unfinished work: that call was {job}, this one is {self._job}"]
            )
        return done

    def _append(self, line: str) -> None:
        with self._journal.open("a", encoding="utf-8") as journal:
            journal.write(line + "\n")
            flush(journal)

    def write(self, files: Sequence[tuple[str, Fill]], advance: Advance, jobs: int | None = None) -> dict[str, Any]:
        """Write files, except those that are already complete.

        Args:
            files: (name, function that writes its content, always the same) pairs.
            advance: called with the number of bytes written, from any thread.
            jobs: files written at once; as many as cores if None.

        Returns:
            What each file's writer returned, by name, in the order of `files`.

        Raises:
            CheckpointError: the disk is full or broken. Complete files stay for the next call.
        """
        try:
            in_parallel(partial(self._write, advance), [file for file in files if file[0] not in self.written], jobs)
        except OSError as error:
            raise CheckpointError([f"cannot write to {self.folder}: {error.strerror}"]) from None
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
        """Write the small files that belong to the large ones and the manifest of all, then end the job."""
        for name, content in small:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        entries = {name: file.entry for name, file in self.written.items()}
        entries |= describe_files(self.folder, [name for name, _ in small])
        FolderManifest(files=dict(sorted(entries.items()))).save(self.folder)
        self._journal.unlink()
