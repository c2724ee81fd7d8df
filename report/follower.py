"""Follows a log that is still being written: reads each line once, and keeps the run up to date."""

from __future__ import annotations

import os
from pathlib import Path

from compliance.log import MAX_LINE, LineReader, Log
from compliance.ruleset import choose
from compliance.run import Run

_CHUNK = 1 << 20
"""Bytes that are read at a time."""


class LineFollower:
    """The lines of a file that is still being written, each once, when it is complete.

    Args:
        longest: bytes of a line that is looked at, a megabyte at most.
    """

    def __init__(self, path: Path, longest: int = _CHUNK) -> None:
        self._path = path
        self._longest = longest
        self._position = 0
        self._inode = 0
        self._skipping = False
        """Within a line that is too long to be looked at."""

    def poll(self) -> tuple[bool, list[bytes]]:
        """Whether the file begins anew (it was cut back or replaced), and some of its lines since the last call.

        At most a megabyte of them; none before the file exists; an empty one for a line that is too long to be read.
        """
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return False, []
        with file:
            status = os.fstat(file.fileno())
            anew = self._inode != 0 and (status.st_ino != self._inode or status.st_size < self._position)
            if anew:
                self._position, self._skipping = 0, False
            self._inode = status.st_ino
            file.seek(self._position)
            return anew, self._complete(file.read(_CHUNK))

    def _complete(self, read: bytes) -> list[bytes]:
        end = read.rfind(b"\n") + 1
        if end == 0 and len(read) < self._longest:
            return []
        self._position += end or len(read)
        complete = [text + b"\n" for text in read[:end].split(b"\n")[:-1]]
        if self._skipping and complete:
            complete[0] = b"\n"
        self._skipping = end == 0
        return complete


class LogFollower:
    """Keeps up with a log that grows.

    Args:
        ruleset: as compliance.ruleset.choose.
    """

    def __init__(self, path: Path, ruleset: str | None = None) -> None:
        self._path = path
        self._chosen = choose(path.parent, ruleset)
        self._follower = LineFollower(path, longest=MAX_LINE)
        self._begin()

    def _begin(self) -> None:
        self._log = Log(self._path)
        self._reader = LineReader(self._log)
        self._lines = 0

    def poll(self) -> bool:
        """Read everything new since the last call. Returns whether there was anything."""
        news = False
        while True:
            anew, lines = self._follower.poll()
            if anew:
                self._begin()
            for line in lines:
                self.take(line)
            news = news or anew or bool(lines)
            if not lines:
                return news

    def take(self, line: bytes) -> None:
        """The next line of the log."""
        self._lines += 1
        self._reader.take(self._lines, line)

    @property
    def run(self) -> Run:
        """The log so far, as the rules look at it."""
        return Run(self._log, self._chosen)
