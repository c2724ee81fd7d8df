"""Read one log file. Any bytes are accepted: text without an event is noise, a broken event is a Defect.

Time is linear in the size of the file; memory is taken for the events that rules look at, not for the file. The file is
read in blocks, and lines have a limited length. The `:::MLLOG` token may stand anywhere in a line, and a line may hold
several events, because ranks write into one pipe.
"""

from __future__ import annotations

import enum
import io
import math
import os
import re
import stat
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmark.mllog import TOKEN, Event, MalformedEventError, decode_at
from compliance.findings import as_number, show

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_FILE = 1 << 30
"""Bytes of a log that are read at most; published ones have under 2 million."""

MAX_LINE = 1 << 20
"""Bytes of the longest line that is decoded; a longer one with an event is a defect."""

MAX_KEPT = 20_000
"""Events of a log that are kept whole, besides train steps and what ranks repeat; published logs have under 500."""

MAX_KEPT_TEXT = 2 << 20
"""Characters of those events: in memory an event may take 30 times the size of its text."""

MAX_DEFECTS = 1000
"""Defects of each kind that are kept; the rest are counted."""

MAX_DEFECTS_OF_LINE = 16
"""Malformed events of a line after which its rest is skipped: each may cost time for the whole line."""

MAX_KNOWN = 64
"""Lines that are remembered, to be recognised when another rank writes them again."""

MAX_KNOWN_LINE = 4096
"""Bytes of the longest such line."""

PER_RANK = frozenset({"cache_clear", "init_start"})
"""Keys that every rank may log, thousands of times. Of equal events only the first and the last are kept."""

SIMULATED = "simulated"
"""The mark of a simulated run."""

NOT_A_RUN = frozenset({SIMULATED, "proxy", "mock_data", "forced_success"})
"""Marks: names in the value of a tracked_stats event by which a log says that its run does not count."""

_TOKEN_BYTES = TOKEN.encode()
_OFFICIAL_TOKEN = TOKEN + " "
_SPACES = re.compile(r" [ \t]*\{")
_NOTHING = re.compile(r"[ \t\n\v\f\x1c-\x1f]*(\r|\Z)")
_BLOCK = 1 << 18
"""Bytes that are read at a time, few enough to stay in a processor's cache."""
_SHOWN_OF_LINE = 60
"""Bytes of an overlong line that its defect shows."""
_SHOWN = 100
"""Characters of a malformed event that its defect shows."""
_HEAD = b':::MLLOG {"namespace": "", "time_ms": '
"""The start of a line of mllog. The milliseconds since the epoch follow, in 13 digits until the year 2286."""
_TIME = slice(len(_HEAD), len(_HEAD) + 13)
_EXACT = 1 << 53
"""Below 2**53 every whole number is exact as a float."""


class DefectKind(enum.Enum):
    """Faults of a file that show before any rule is asked."""

    UNREADABLE = enum.auto()
    LONG_LINE = enum.auto()
    MALFORMED = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """A place in a file that could not be read."""

    kind: DefectKind
    line: int | None = None
    message: str
    actual: str = ""


@dataclass(frozen=True, slots=True)
class Located:
    """An event and its place in the log."""

    index: int
    """Its number among the events of the file, from 0. It orders two events on one line."""
    line: int
    """Counted from 1."""
    event: Event


class TrainStep(NamedTuple):
    """One optimizer step as tracked_stats reports it."""

    line: int
    samples: float
    """Samples trained on so far; NaN if the event does not state them."""
    seconds: float
    """Duration; NaN if the event does not state it."""
    loss: float
    """Nats; NaN if it is not a finite number."""


class Mark(NamedTuple):
    """Key, line and time of one event."""

    key: str
    line: int
    time_ms: float


class Log:
    """What was read of one log file: events by key in file order, the mark of every event, and the training steps."""

    def __init__(self, path: Path, each: Callable[[int, Event], object] | None = None) -> None:
        self.path = path
        self._each = each
        self.events: dict[str, list[Located]] = {}
        """Kept events by key: few of PER_RANK keys, and of tracked_stats only those that report no training step."""
        self.counts: Counter[str] = Counter()
        """Events by key, kept or not."""
        self.defects: list[Defect] = []
        """Kept defects, in file order."""
        self.defect_counts: Counter[DefectKind] = Counter()
        """Defects by kind, kept or not."""
        self.dropped = 0
        """Events beyond MAX_KEPT or MAX_KEPT_TEXT, which no rule sees; without tracked_stats, which may be many."""
        self.not_a_run: set[str] = set()
        """The marks of NOT_A_RUN that some tracked_stats event has, kept or not."""
        self.crowded = array("q")
        """The line of each event that the official parser does not read because it does not stand alone."""
        self.lost: Counter[str] = Counter()
        """The events among them that it skips silently, by key; for each of the others it rejects the log."""
        self._kept = self._kept_text = 0
        # Columns of numbers: a log may hold a million events and steps.
        self._keys: list[str] = []
        self._lines = array("q")
        self._times = array("d")
        self._steps = (array("q"), array("d"), array("d"), array("d"))

    # Both are made without running Python code for each event, because rules walk them again and again.

    @property
    def marks(self) -> Iterator[Mark]:
        """The key, line and time of every event, in file order."""
        return map(tuple.__new__, repeat(Mark), zip(self._keys, self._lines, self._times, strict=True))

    @property
    def steps(self) -> Iterator[TrainStep]:
        """The training steps, in file order."""
        return map(tuple.__new__, repeat(TrainStep), zip(*self._steps, strict=True))

    def line(self, index: int) -> int | None:
        """Return the line of an event by its number in the file, from 0; None if there is no such event."""
        return self._lines[index] if index < len(self._lines) else None

    def add(self, line: int, event: Event, length: int) -> None:
        """Add the next event of the file, which takes `length` characters."""
        if self._each is not None:
            self._each(line, event)
        index, key = len(self._keys), sys.intern(event.key)
        self._keys.append(key)
        self._lines.append(line)
        self._times.append(event.time_ms)
        self.counts[key] += 1
        if key == "tracked_stats" and isinstance(event.value, dict) and not NOT_A_RUN.isdisjoint(event.value):
            self.not_a_run.update(name for name in NOT_A_RUN if event.value.get(name))
        if key == "tracked_stats" and _is_step(event):
            self._add_step(line, event)
        elif key in PER_RANK and _is_plain(event) and len(self.events.get(key, ())) > 1 and _is_plain(self._last(key)):
            self.events[key][-1] = Located(index, line, event)
        elif self._kept < MAX_KEPT and self._kept_text < MAX_KEPT_TEXT:
            self._kept += 1
            self._kept_text += length
            self.events.setdefault(key, []).append(Located(index, line, event))
        elif key != "tracked_stats":
            self.dropped += 1

    def _last(self, key: str) -> Event:
        return self.events[key][-1].event

    def add_defect(self, kind: DefectKind, message: object, *, line: int | None = None, actual: str = "") -> None:
        """Add the next defect of the file; its message is composed only if it is kept."""
        count = self.defect_counts[kind] = self.defect_counts[kind] + 1
        if count <= MAX_DEFECTS:
            self.defects.append(Defect(kind=kind, line=line, message=str(message), actual=actual and show(actual)))

    def _add_step(self, line: int, event: Event) -> None:
        value, metadata = event.value, event.metadata
        # v5.0 logs have no samples_count: their "step" is the number of samples trained on.
        samples = metadata["samples_count"] if "samples_count" in metadata else metadata.get("step")
        lines, places, times, losses = self._steps
        lines.append(line)
        places.append(_number(samples))
        times.append(_number(value.get("train_step_time")))
        losses.append(_number(value["reduced_train_loss"]))


def _is_plain(event: Event) -> bool:
    """Return whether an event of a rank says what others say: caches were cleared, or initialisation has started."""
    return event.value is True or event.key != "cache_clear"


def _is_step(event: Event) -> bool:
    """Return whether a tracked_stats event reports a training step."""
    return isinstance(event.value, dict) and "reduced_train_loss" in event.value


def _number(value: object) -> float:
    # The fast path for nearly all values; the decoder has refused numbers that are not finite.
    if type(value) is float or (type(value) is int and -_EXACT < value < _EXACT):
        return value
    number = as_number(value)
    return math.nan if number is None else number


class _Snapshot(io.RawIOBase):
    """Reads the bytes that a file has when it is opened, so that reading a growing file ends."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._left = self.size = os.fstat(file.fileno()).st_size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        read = self._file.readinto(memoryview(buffer)[: self._left])
        self._left -= read
        return read


class _Ranks:
    """Recognises lines of ranks that differ in their time only, so that only the first is decoded.

    mllog writes the time at a fixed place. A line that equals a decoded one byte for byte, except for the digits there,
    is the same event at another time.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, Event] = {}

    def recall(self, line: bytes) -> Event | None:
        """Return the event of a line that differs from a known one in its time only; None for any other line."""
        event = self._known.get(line[_TIME.stop :])
        time = line[_TIME]
        # No number in JSON starts with a zero.
        if event is None or not line.startswith(_HEAD) or not time.isdigit() or time < b"1":
            return None
        return Event(event.key, event.value, event.event_type, int(time), event.namespace, event.metadata)

    def learn(self, line: bytes, event: Event) -> None:
        """Remember a decoded line; only a few short ones, because a hostile log may hold any number."""
        if event.key not in PER_RANK or len(self._known) >= MAX_KNOWN or len(line) > MAX_KNOWN_LINE:
            return
        if line.startswith(_HEAD) and line.startswith(b",", _TIME.stop) and line.count(_TOKEN_BYTES) == 1:
            self._known[line[_TIME.stop :]] = event


class LineReader:
    """Reads a log from blocks of bytes, whether the file is complete or still being written.

    Only lines with a token are decoded; the others are counted, many at a time.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._ranks = _Ranks()
        self._lines = 0
        """Complete lines so far."""
        self._rest = b""
        """The incomplete last line, shorter than MAX_LINE; of a longer one, the bytes that may begin a token."""
        self._long: bytes | None = None
        """The start of the incomplete last line if it is overlong; else None."""
        self._has_token = False
        """Whether that overlong line holds a token."""

    def feed(self, data: bytes) -> None:
        """Add the next bytes, any number of them."""
        block = self._rest + data
        start = 0 if self._long is None else self._skip(block)
        if self._long is not None:
            return
        end = block.rfind(b"\n", start) + 1 or start
        self._take_lines(block, start, end)
        self._rest = block[end:]
        if len(self._rest) >= MAX_LINE:
            self._long, self._has_token = self._rest[:_SHOWN_OF_LINE], False
            self._skip(self._rest)

    def finish(self) -> None:
        """Add the last line, if it does not end in a line break."""
        if self._long is None and self._rest:
            self._take_lines(self._rest, 0, len(self._rest))

    def _take_lines(self, block: bytes, start: int, end: int) -> None:
        """Add the complete lines of a block."""
        number = self._lines + 1
        while (token := block.find(_TOKEN_BYTES, start, end)) >= 0:
            begin = block.rfind(b"\n", start, token) + 1 or start
            number += block.count(b"\n", start, begin)
            start = block.find(b"\n", token, end) + 1 or end
            if start - begin > MAX_LINE:
                self._add_long_line(number, block[begin : begin + _SHOWN_OF_LINE])
            else:
                self._take(number, block[begin:start])
            number += 1
        self._lines = number - 1 + block.count(b"\n", start, end)

    def _take(self, number: int, line: bytes) -> None:
        if event := self._ranks.recall(line):
            self._log.add(number, event, len(line))
        else:
            _read_line(number, line, self._log, self._ranks)

    def _skip(self, block: bytes) -> int:
        """Skip an overlong line, which is a defect if it holds a token; return where the next line starts."""
        end = block.find(b"\n") + 1
        if not self._has_token and block.find(_TOKEN_BYTES, 0, end or len(block)) >= 0:
            self._has_token = True
            self._add_long_line(self._lines + 1, self._long or b"")
        self._rest = block[1 - len(_TOKEN_BYTES) :]
        if end:
            self._lines, self._long = self._lines + 1, None
        return end

    def _add_long_line(self, number: int, start: bytes) -> None:
        text = start.decode(errors="replace")
        self._log.add_defect(
            DefectKind.LONG_LINE, "a line with an event is too long to be read", line=number, actual=text
        )


def load(path: Path, each: Callable[[int, Event], object] | None = None) -> Log:
    """Read a whole log. Raises nothing: the faults of the file are the log's defects.

    Args:
        each: called with the line and the event for every event, kept or not, in file order. Its exceptions end the
            reading; an OSError or ValueError would be taken for a fault of the file.
    """
    log = Log(path, each)
    try:
        # Opening a pipe would wait for a writer, and a device may have no end.
        if not stat.S_ISREG(path.stat().st_mode):
            log.add_defect(DefectKind.UNREADABLE, "not a regular file")
            return log
        with path.open("rb", buffering=0) as file:
            _read(_Snapshot(file), log)
    except (OSError, ValueError) as error:
        log.add_defect(DefectKind.UNREADABLE, f"cannot be read: {error}")
    return log


def _read(file: _Snapshot, log: Log) -> None:
    if file.size > MAX_FILE:
        log.add_defect(DefectKind.UNREADABLE, f"larger than {MAX_FILE} bytes", actual=f"{file.size} bytes")
        return
    reader = LineReader(log)
    while block := file.read(_BLOCK):
        reader.feed(block)
    reader.finish()


def _read_line(number: int, line: bytes, log: Log, ranks: _Ranks) -> None:
    """Add the event after each token of a line; text between events is noise."""
    text, end, left = line.decode(errors="replace"), 0, MAX_DEFECTS_OF_LINE
    while left and (start := text.find(TOKEN, end)) >= 0:
        start += len(TOKEN)
        try:
            event, end = decode_at(text, start)
        except MalformedEventError as error:
            left, end = left - 1, start
            log.add_defect(DefectKind.MALFORMED, error, line=number, actual=text[start : start + _SHOWN].strip())
        else:
            log.add(number, event, end - start)
            if _stands_alone(text, start, end):
                ranks.learn(line, event)
            else:
                log.crowded.append(number)
                log.lost[event.key] += _is_lost(text, start, end)


def _stands_alone(text: str, start: int, end: int) -> bool:
    """Return whether the official parser reads an event at its place in a line.

    That parser takes all text after the last token of a line, and one space, for it. A carriage return ends a line.
    """
    # Called a million times, so it makes no copy of the event.
    begins = text.startswith(" {", start) or _SPACES.match(text, start)
    if not begins or text.find("\r", start, end) >= 0 or text.find(_OFFICIAL_TOKEN, start, end) >= 0:
        return False
    return (end + 1 == len(text) and text[end] == "\n") or _NOTHING.match(text, end) is not None


def _is_lost(text: str, start: int, end: int) -> bool:
    """Return whether the official parser skips an event that does not stand alone, instead of rejecting its line.

    It does so if the event does not follow the parser's own token, which includes a space, or if that token comes again
    after the event.
    """
    if text.find("\r", start, end) >= 0 or text.find(_OFFICIAL_TOKEN, start, end) >= 0:
        return False
    if not text.startswith(" ", start):
        return True
    again = text.find(_OFFICIAL_TOKEN, end)
    return again >= 0 and text.find("\r", end, again) < 0
