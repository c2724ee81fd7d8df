"""Follows a log that is still being written: reads each byte once and keeps the run up to date."""

from __future__ import annotations

import os
from pathlib import Path

from compliance.log import LineReader, Log
from compliance.ruleset import choose
from compliance.run import Run

_CHUNK = 1 << 20
"""Most bytes that are read at a time."""


class FileFollower:
    """Reads the bytes of a file that is still being written, each once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._inode = 0

    def poll(self) -> tuple[bool, bytes]:
        """Return whether the file starts again (it was cut back or replaced), and its next bytes, at most a megabyte.

        There are no bytes before the file exists.
        """
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return False, b""
        with file:
            status = os.fstat(file.fileno())
            anew = self._inode != 0 and (status.st_ino != self._inode or status.st_size < self._position)
            if anew:
                self._position = 0
            self._inode = status.st_ino
            file.seek(self._position)
            read = file.read(_CHUNK)
            self._position += len(read)
            return anew, read


class LogFollower:
    """Keeps up with a log that grows.

    Args:
        ruleset: as compliance.ruleset.choose.
    """

    def __init__(self, path: Path, ruleset: str | None = None) -> None:
        self._path = path
        self._chosen = choose(path.parent, ruleset)
        self._follower = FileFollower(path)
        self._begin()

    def _begin(self) -> None:
        self._log = Log(self._path)
        self._reader = LineReader(self._log)

    def poll(self) -> bool:
        """Read everything new since the last call, and return whether there was anything."""
        news = False
        while True:
            anew, read = self._follower.poll()
            if anew:
                self._begin()
            self.feed(read)
            news = news or anew or bool(read)
            if not read:
                return news

    def feed(self, read: bytes) -> None:
        """Take the next bytes of the log; a line is read when it is complete."""
        self._reader.feed(read)

    def finish(self) -> None:
        """Read an unterminated last line, as `check` does; nothing may be fed after this."""
        self._reader.finish()

    @property
    def run(self) -> Run:
        """Return the run, as logged so far."""
        return Run(self._log, self._chosen)
