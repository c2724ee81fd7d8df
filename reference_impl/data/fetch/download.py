"""Fetch listed files over many connections and in ranges; a file gets its name only once its checksum is right.

A file arrives in segments, on any connection, in `.download/` below its folder. One thread per file hashes the segments
in order, mostly out of the page cache, and moves the file to its name once the checksum is the listed one. After a
kill, a download fetches only the segments that are missing; those on the disk are hashed again.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event

from benchmark.files import locked
from reference_impl.data.fetch.listing import Listing, Wanted
from reference_impl.data.fetch.partial import Partial, Segment, bytes_on_disk
from reference_impl.data.fetch.sources import (
    READ_BYTES,
    RETRY_POLICY,
    Remote,
    RetryPolicy,
    Source,
    TransferInterruptedError,
)
from reference_impl.data.published import PublishedFiles
from reference_impl.files.checksum import BUFFER_BYTES, Advance, Algorithm, StoppedError, digest, in_parallel, new
from reference_impl.files.manifest import FILE_NAME, DataError, FileEntry, FolderManifest
from reference_impl.files.progress import Show, size, unseen

WORK = ".download"
"""Folder of unfinished files, below the folder that they belong to."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    connections: int = 8
    segment_bytes: int = 64 << 20
    """Bytes of one request: long compared with setting up a connection, short compared with what a kill may cost."""
    patience: RetryPolicy = RETRY_POLICY


SETTINGS = Settings()


@dataclass(frozen=True)
class Planned:
    """A file that exists at the source."""

    wanted: Wanted
    remote: Remote
    folder: Path

    @property
    def target(self) -> Path:
        return self.folder / self.wanted.local

    @property
    def unfinished(self) -> Path:
        return self.folder / WORK / "bytes" / self.wanted.local

    @property
    def journal(self) -> Path:
        return self.folder / WORK / "segments" / self.wanted.local

    @property
    def in_place(self) -> bool:
        """Whether a file of its size already has its name."""
        return self.target.is_file() and self.target.stat().st_size == self.remote.bytes


def download(
    source: Source, files: Sequence[Wanted], folder: Path, settings: Settings = SETTINGS, show: Show = unseen
) -> dict[str, FileEntry]:
    """Bring the files into the folder and return their entries.

    A file that is there and right is left alone; a wrong one is replaced. Bytes that do not match the listed checksum
    are fetched once more.

    Raises:
        DataError: listing every file that is missing at the source, has another length than listed, or arrives wrong
            twice; or there is not enough room. Files that arrived right are in the folder; the rest is kept for the
            next call.
    """
    with _alone_in(folder):
        planned = _plan(source, files, folder, settings)
        _refuse_without_room(folder, planned)
        with show("download", sum(file.remote.bytes for file in planned)) as advance:
            entries = _fetch_all(source, planned, settings, advance)
        shutil.rmtree(folder / WORK)
    return entries


def download_set(
    listing: Listing,
    folder: Path,
    published: PublishedFiles | None = None,
    settings: Settings = SETTINGS,
    show: Show = unseen,
) -> FolderManifest:
    """Download the listed files and write their manifest next to them.

    Raises:
        DataError: as for `download`, or the folder holds another set.
    """
    names = {file.local for file in listing.files}
    if (folder / FILE_NAME).exists() and not names >= FolderManifest.load(folder).files.keys():
        raise DataError(f"{folder} already holds other files, according to its {FILE_NAME}; name another folder")
    entries = download(listing.source, listing.files, folder, settings, show)
    if listing.manifest is not None and listing.manifest.files.keys() == names:
        manifest = listing.manifest.model_copy(update={"files": entries})
    else:
        manifest = FolderManifest(files=entries) if published is None else published.manifest(entries)
    manifest.save(folder)
    return manifest


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Lock the folder for unfinished files: a second download into it would write the same ones."""
    work = folder / WORK
    busy = DataError(f"another download into {folder} is running")
    with ExitStack() as stack:
        try:
            work.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(work, busy=busy, link=False))
        except OSError as error:
            raise DataError(f"{work}: {error.strerror}") from None
        yield


def _plan(source: Source, files: Sequence[Wanted], folder: Path, settings: Settings) -> list[Planned]:
    """Return what the source has of the files; all their faults are reported before the first is fetched."""

    def look(wanted: Wanted) -> Planned | DataError:
        try:
            _refuse_place(folder, wanted.local)
            remote = settings.patience.call(lambda: source.probe(wanted.name))
            if wanted.bytes not in (None, remote.bytes):
                raise DataError(
                    f"{source.where(wanted.name)} has {remote.bytes} bytes at the source, expected {wanted.bytes}"
                )
        except DataError as fault:
            return fault
        except OSError as error:
            return DataError(f"{folder / wanted.local}: {error.strerror}")
        return Planned(wanted, remote, folder)

    looked_up = in_parallel(look, files, settings.connections)
    _raise_all([answer for answer in looked_up if isinstance(answer, DataError)])
    return [answer for answer in looked_up if isinstance(answer, Planned)]


def _refuse_place(folder: Path, name: str) -> None:
    """Raise DataError for a file that would leave the folder through a link, or whose place is taken."""
    target = folder / name
    if name == FILE_NAME or name.split("/")[0] == WORK:
        raise DataError(f"{name} is a name that the download itself uses in {folder}; rename it at the source")
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{target.parent} leads out of {folder}")
    if target.is_dir():
        raise DataError(f"{target} is a folder where a file belongs; move it away")


def _refuse_without_room(folder: Path, planned: Sequence[Planned]) -> None:
    sizes = [file.remote.bytes - bytes_on_disk(file.unfinished) for file in planned if not file.in_place]
    needed = sum(max(0, missing) for missing in sizes)
    room = os.statvfs(folder)
    free = room.f_bavail * room.f_frsize
    if needed > free:
        raise DataError(
            f"{folder} has {free} bytes ({size(free)}) free, but the download takes {needed} ({size(needed)}) more; "
            f"{needed - free} ({size(needed - free)}) are missing"
        )


def _fetch_all(
    source: Source, planned: Sequence[Planned], settings: Settings, advance: Advance
) -> dict[str, FileEntry]:
    stop = Event()
    with ThreadPoolExecutor(settings.connections) as connections, ThreadPoolExecutor(settings.connections) as hashers:
        fetch = _Fetch(source, settings, connections, stop, advance)
        arriving = [hashers.submit(fetch.file, file) for file in planned]
        try:
            wait(arriving)
        finally:
            # For an exit by Ctrl-C; otherwise nothing is running any more.
            stop.set()
    errors = [error for future in arriving if not isinstance(error := future.exception(), StoppedError | None)]
    for error in errors:
        if not isinstance(error, DataError):
            raise error
    _raise_all(errors)
    return {file.wanted.local: future.result() for file, future in zip(planned, arriving, strict=True)}


def _raise_all(faults: Sequence[BaseException]) -> None:
    if faults:
        raise DataError("\n".join(str(fault) for fault in faults))


@dataclass(frozen=True)
class _Fetch:
    """Fetches single files, over connections that all of them share."""

    source: Source
    settings: Settings
    connections: ThreadPoolExecutor
    stop: Event
    advance: Advance

    def file(self, file: Planned) -> FileEntry:
        """Make one file right and return its entry.

        Raises:
            DataError: its bytes are wrong or unavailable; or they cannot be written, which ends the whole download.
            StoppedError: another file ended the download.
        """
        algorithm, expected = file.wanted.checksum or ("sha256", None)
        try:
            self._tell(0)
            if file.in_place:
                checksum = digest(file.target, algorithm, self._tell)
                if expected in (None, checksum):
                    return _entry(file, algorithm, checksum)
                self.advance(-file.remote.bytes)
            return self._arrive(file, algorithm, expected)
        except OSError as error:
            # Most likely a full disk: no other file will fare better.
            self.stop.set()
            raise DataError(f"{file.unfinished}: {error.strerror}") from None

    def _arrive(self, file: Planned, algorithm: Algorithm, expected: str | None) -> FileEntry:
        wrong: list[str] = []
        segment_bytes = self.settings.segment_bytes if file.remote.ranges else max(1, file.remote.bytes)
        with Partial(
            file.unfinished,
            file.journal,
            size=file.remote.bytes,
            segment_bytes=segment_bytes,
            version=file.remote.version,
        ) as arriving:
            while len(wrong) < 2:
                checksum = self._all_segments(file, arriving, algorithm)
                if expected in (None, checksum):
                    file.target.parent.mkdir(parents=True, exist_ok=True)
                    arriving.move_to(file.target)
                    return _entry(file, algorithm, checksum)
                wrong.append(checksum)
                arriving.restart()
                self.advance(-file.remote.bytes)
        raise DataError(
            f"{self.source.where(file.wanted.name)} has {algorithm} {wrong[0]}, and {wrong[1]} when fetched again; "
            f"expected {expected}"
        )

    def _all_segments(self, file: Planned, arriving: Partial, algorithm: Algorithm) -> str:
        """Fetch the missing segments, and hash all of them in order while later ones are on their way."""
        hasher = new(algorithm)
        buffer = memoryview(bytearray(BUFFER_BYTES))
        segments = iter(arriving.segments)
        ahead: deque[tuple[Segment, Future[None] | None]] = deque()
        try:
            while True:
                while len(ahead) <= self.settings.connections and (segment := next(segments, None)) is not None:
                    there = segment.index in arriving.done
                    work = partial(self._segment, file, arriving, segment)
                    ahead.append((segment, None if there else self.connections.submit(work)))
                if not ahead:
                    return hasher.hexdigest()
                segment, fetching = ahead.popleft()
                if fetching is not None:
                    fetching.result()
                for count in arriving.read(segment, buffer):
                    hasher.update(buffer[:count])
                    self._tell(count if fetching is None else 0)
        finally:
            # Their descriptors must stay open until nobody writes to them.
            on_their_way = [fetching for _, fetching in ahead if fetching is not None and not fetching.cancel()]
            wait(on_their_way)

    def _segment(self, file: Planned, arriving: Partial, segment: Segment) -> None:
        """Fetch a segment, over as many connections as it takes."""
        at, failures = segment.start, 0
        self._tell(0)
        while at < segment.stop:
            try_start = at
            try:
                for data in self.source.read(file.wanted.name, file.remote, at, segment.stop):
                    arriving.write(data, at)
                    at += len(data)
                    self._tell(len(data))
            except TransferInterruptedError as fault:
                if file.remote.ranges:
                    failures = 1 if at - try_start >= READ_BYTES else failures + 1
                else:
                    self.advance(try_start - at)
                    at, failures = try_start, failures + 1
                if self.stop.wait(self.settings.patience.pause_s(fault, failures)):
                    raise StoppedError from None
        arriving.complete(segment)

    def _tell(self, count: int) -> None:
        """Count finished bytes; raise StoppedError if the download is to end."""
        if self.stop.is_set():
            raise StoppedError
        self.advance(count)


def _entry(file: Planned, algorithm: Algorithm, found: str) -> FileEntry:
    return FileEntry(bytes=file.remote.bytes, **{algorithm: found})
