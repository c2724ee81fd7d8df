"""The log that a run writes its events to, through mlperf_logging's own logger."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from benchmark.checkout import ROOT
from benchmark.clock import Clock
from benchmark.errors import UnwritableError
from benchmark.files import beside, flush, sync_file
from benchmark.mllog import END, POINT, START

Heard = Callable[[str, Any, Mapping[str, Any]], object]


class EventLog:
    """Logs the events of a run to a file opened for append, one strict JSON line an event, written at once.

    No half line stays in the file, even if the disk is full or an earlier writer was killed. Only rank 0 writes; on
    every other rank `path` is None and events are dropped, so that the loop is the same code on all ranks. The file is
    opened at the first event: a run that is refused before that leaves none behind.

    Args:
        heard: called with key, value and metadata of each event after it is logged.
    """

    def __init__(self, path: Path | None, clock: Clock, heard: Heard | None = None) -> None:
        self.path = path
        self.clock = clock
        self._heard = heard
        self.keys: set[str] = set()
        """The keys of all events so far, including one that is being written."""
        self._mllogger: Any = None

    def event(self, key: str, value: Any = None, /, *, at: float | None = None, **metadata: Any) -> None:
        """Log a point in time; `at` is in seconds since the epoch, and now if None.

        Raises:
            UnwritableError: the file cannot be written; it ends with the line before.
            ValueError: value or metadata is not strict JSON (NaN, infinity, foreign types); nothing is written.
        """
        self._write(POINT, key, value, at, metadata)

    def start(self, key: str, /, *, at: float | None = None, **metadata: Any) -> None:
        """Log the start of an interval."""
        self._write(START, key, None, at, metadata)

    def end(self, key: str, /, *, at: float | None = None, **metadata: Any) -> None:
        """Log the end of an interval."""
        self._write(END, key, None, at, metadata)

    def sync(self) -> int:
        """Write the whole log to the disk, and return its length in bytes; 0 if nothing is logged.

        Raises:
            UnwritableError: the disk does not take it.
        """
        if self.path is None or not self.path.exists():
            return 0
        try:
            sync_file(self.path)
        except OSError as error:
            raise UnwritableError(self.path, error) from None
        return self.path.stat().st_size

    def cut(self, length: int) -> None:
        """Cut the log back to its first `length` bytes, and keep the rest next to it, as <log>.cut-<k>."""
        if self.path is None:
            return
        with self.path.open("r+b") as file:
            file.seek(length)
            beyond = file.read()
            if beyond:
                _keep(beyond, self.path)
                file.truncate(length)
                os.fsync(file.fileno())

    def _write(self, event_type: str, key: str, value: Any, at: float | None, metadata: dict[str, Any]) -> None:
        if self.path is None:
            return
        # mlperf_logging drops an event that it cannot encode, and writes a bare NaN; refuse both here.
        try:
            json.dumps([value, metadata], allow_nan=False)
        except (ValueError, TypeError) as error:
            raise ValueError(f"event {key!r}: {error}; value {value!r}, metadata {metadata!r}") from None
        if self._mllogger is None:
            self._mllogger = _mllogger(self.path)
        self.keys.add(key)
        log = {POINT: self._mllogger.event, START: self._mllogger.start, END: self._mllogger.end}[event_type]
        time_ms = int((self.clock.now() if at is None else at) * 1000)
        # The seed checker needs the file and line of the caller of event(), start() or end(), which is one frame above
        # that method and two above this one.
        log(key, value, metadata=metadata, time_ms=time_ms, stack_offset=3)
        if self._heard is not None:
            self._heard(key, value, metadata)


def _keep(rest: bytes, log: Path) -> None:
    with beside(log, "cut").open("xb") as file:
        file.write(rest)
        flush(file)


class _LogFile(logging.Handler):
    """A file of whole lines; logging's own handler would keep what it could not write, and write it later."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        try:
            # Also opened for reading, to see what a killed writer has left.
            self._file = path.open("a+b", buffering=0)
            if (end := end_of_lines(self._file)) < self._size():
                self._file.truncate(end)
        except OSError as error:
            raise UnwritableError(path, error) from None

    def emit(self, record: logging.LogRecord) -> None:
        unwritten, end = (self.format(record) + "\n").encode(), self._size()
        try:
            while unwritten:
                unwritten = unwritten[self._file.write(unwritten) :]
        except OSError as error:
            if self._size() > end:
                self._file.truncate(end)
            raise UnwritableError(self._path, error) from None

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size


_CHUNK = 1 << 16
"""Bytes that are read at a time."""


def end_of_lines(file: IO[bytes]) -> int:
    """Return the length in bytes of a log up to the end of its last whole line."""
    position = file.seek(0, os.SEEK_END)
    while position:
        start = file.seek(max(0, position - _CHUNK))
        newline = file.read(position - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        position = start
    return 0


def _mllogger(path: Path) -> Any:
    from mlperf_logging.mllog.mllog import MLLogger

    handler = _LogFile(path)
    # A logger of our own: the package's default one also prints, and mllog.config() adds a handler at each call.
    logger = logging.Logger(f"mllog:{path}", level=logging.INFO)
    logger.addHandler(handler)
    # mlperf_logging uses root_dir as a regular expression.
    return MLLogger(logger=logger, root_dir=re.escape(str(ROOT)))
