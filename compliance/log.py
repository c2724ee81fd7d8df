"""Reading one log file. Any bytes are accepted: what is no event is noise, what should be one and is not is a Defect.

Linear time; memory for the events that rules look at, not for the file. The file is read by lines of bounded length,
the `:::MLLOG` token may stand anywhere in a line, and a line may hold several events (ranks writing into one pipe).
"""

from __future__ import annotations

import enum
import json
import math
import stat
import sys
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from benchmark.events import TOKEN, Event, MalformedEvent, decode
from compliance.findings import as_number, show

MAX_LINE = 1 << 20
"""Bytes of a line that are looked at; a longer one is a defect."""

MAX_KEPT = 20_000
"""Events of a log that are kept whole, besides train steps and what ranks repeat; published logs have under 100."""

MAX_DEFECTS = 1000
"""Defects of each kind that are kept; the rest are counted."""

PER_RANK = frozenset({"cache_clear", "init_start"})
"""Keys that every rank may log, thousands of times; the first and the last event are kept."""

_TOKEN_BYTES = TOKEN.encode()


class DefectKind(enum.Enum):
    """What can be wrong with a file before any rule is asked."""

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
    """An event and where it stands."""

    index: int
    """Ordinal among the events of the file, from 0; orders two events on one line."""
    line: int
    """From 1."""
    event: Event


class TrainStep(NamedTuple):
    """One optimizer step as tracked_stats reports it."""

    line: int
    samples: float
    """Sequences trained on so far; NaN where the event does not say."""
    seconds: float
    """Duration; NaN where the event does not say."""
    loss: float
    """NaN where it is no finite number."""


class Mark(NamedTuple):
    """Key, line and time of one event."""

    key: str
    line: int
    time_ms: float


class Log:
    """One log file, read. Events by key in file order; every event's mark; train steps."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: dict[str, list[Located]] = {}
        """Kept events by key. Of PER_RANK keys only the first and the last; of tracked_stats none."""
        self.counts: Counter[str] = Counter()
        """Events by key, kept or not."""
        self.defects: list[Defect] = []
        """Kept defects, in file order."""
        self.defect_counts: Counter[DefectKind] = Counter()
        """Defects by kind, kept or not."""
        self.dropped = 0
        """Events beyond MAX_KEPT that no rule sees."""
        self._kept = 0
        # Columns, because a log may hold a million of each.
        self._keys: list[str] = []
        self._lines = array("q")
        self._times = array("d")
        self._steps = (array("q"), array("d"), array("d"), array("d"))

    @property
    def marks(self) -> Iterator[Mark]:
        """Every event's key, line and time, in file order."""
        return map(Mark, self._keys, self._lines, self._times)

    @property
    def steps(self) -> Iterator[TrainStep]:
        """The training steps, in file order."""
        return map(TrainStep, *self._steps)

    def add(self, item: Located | Defect) -> None:
        """Take in the next event or defect of the file."""
        if isinstance(item, Defect):
            self._add_defect(item)
            return
        event = item.event
        kept = self.events.get(event.key)
        self._keys.append(sys.intern(event.key))
        self._lines.append(item.line)
        self._times.append(event.time_ms)
        self.counts[event.key] += 1
        if event.key == "tracked_stats":
            self._add_step(item)
        elif event.key in PER_RANK and kept:
            kept[1:] = [item]
        elif self._kept < MAX_KEPT:
            self._kept += 1
            self.events.setdefault(event.key, []).append(item)
        else:
            self.dropped += 1

    def _add_defect(self, defect: Defect) -> None:
        self.defect_counts[defect.kind] += 1
        if self.defect_counts[defect.kind] <= MAX_DEFECTS:
            self.defects.append(defect)

    def _add_step(self, item: Located) -> None:
        value, metadata = item.event.value, item.event.metadata
        if not isinstance(value, dict) or "reduced_train_loss" not in value:
            return
        # v5.0 logs have the sequences trained on under "step", and no samples_count.
        samples = metadata.get("samples_count", metadata.get("step"))
        numbers = (samples, value.get("train_step_time"), value["reduced_train_loss"])
        lines, *columns = self._steps
        lines.append(item.line)
        for column, number in zip(columns, map(as_number, numbers), strict=True):
            column.append(math.nan if number is None else number)


def load(path: Path) -> Log:
    """Read a whole log; raises nothing, what is wrong with the file is in the log's defects."""
    log = Log(path)
    for item in read(path):
        log.add(item)
    return log


def read(path: Path) -> Iterator[Located | Defect]:
    """Yield the events of a file in order, and its defects where they stand; raises nothing."""
    try:
        # Opening a pipe would wait for a writer, and a device may never end.
        if not stat.S_ISREG(path.stat().st_mode):
            yield Defect(kind=DefectKind.UNREADABLE, message="not a regular file")
            return
        with path.open("rb") as stream:
            yield from _read_stream(stream)
    except (OSError, ValueError) as error:
        yield Defect(kind=DefectKind.UNREADABLE, message=f"cannot be read: {error}")


def _read_stream(stream: BinaryIO) -> Iterator[Located | Defect]:
    index = 0
    for line, text in enumerate(iter(lambda: stream.readline(MAX_LINE), b""), start=1):
        if not _ended(text):
            if _token_in_rest(stream, text):
                yield _long_line(line, text)
        elif _TOKEN_BYTES in text:
            for item in _line_items(index, line, text.decode(errors="replace")):
                index += isinstance(item, Located)
                yield item


def _ended(text: bytes) -> bool:
    return len(text) < MAX_LINE or text.endswith(b"\n")


def _token_in_rest(stream: BinaryIO, text: bytes) -> bool:
    """Read an overlong line to its end; whether a token stands anywhere in it."""
    found = _TOKEN_BYTES in text
    while not _ended(text):
        tail, text = text[-len(_TOKEN_BYTES) :], stream.readline(MAX_LINE)
        found = found or _TOKEN_BYTES in tail + text
    return found


def _long_line(line: int, text: bytes) -> Defect:
    start = show(text[:60].decode(errors="replace"))
    return Defect(
        kind=DefectKind.LONG_LINE, line=line, message="a line with an event is too long to be read", actual=start
    )


def _line_items(index: int, line: int, text: str) -> Iterator[Located | Defect]:
    for piece in _pieces(text):
        try:
            yield Located(index, line, _decode(piece))
            index += 1
        except MalformedEvent as error:
            yield Defect(kind=DefectKind.MALFORMED, line=line, message=str(error), actual=show(piece.strip()))


def _pieces(text: str) -> Iterator[str]:
    """Yield what follows each token in a line, up to the end of its JSON object where there is one."""
    start = text.find(TOKEN)
    while start >= 0:
        begin = start + len(TOKEN)
        end = _object_end(text, begin)
        yield text[begin:end]
        start = text.find(TOKEN, end)


def _object_end(text: str, begin: int) -> int:
    """Where the JSON object after a token ends; the next token, or the end of the line, where there is no object."""
    following = text.find(TOKEN, begin)
    limit = len(text) if following < 0 else following
    brace = text.find("{", begin, limit)
    try:
        return _LOCATOR.raw_decode(text, brace)[1] if brace >= 0 else limit
    except (ValueError, RecursionError):
        return limit


# Only finds where an object ends; benchmark.events.decode is what reads it.
_LOCATOR = json.JSONDecoder()


def _decode(text: str) -> Event:
    event = decode(text)
    if as_number(event.time_ms) is None:
        raise MalformedEvent(f"expected time_ms as milliseconds since the epoch, read {show(event.time_ms)}")
    return event
