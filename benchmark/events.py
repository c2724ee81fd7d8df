"""MLPerf log events: the writer that a run logs through, and the decoder that every reader uses.

A line is `:::MLLOG {"namespace": ..., "time_ms": ..., "event_type": ..., "key": ..., "value": ..., "metadata":
{...}}`. Written by mlperf_logging's own logger; its keys and event types are used by their names here so that reading
a log needs no import of that package. Source: mlcommons/logging, `mllog/mllog.py` and `mllog/constants.py` (compared
in a test).
"""

from __future__ import annotations

import json
import logging
import os
import re
import reprlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from math import isfinite
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.clock import Clock
from benchmark.files import beside, flush

TOKEN = ":::MLLOG"

POINT = "POINT_IN_TIME"
START = "INTERVAL_START"
END = "INTERVAL_END"
EVENT_TYPES = frozenset({POINT, START, END})

_ROOT = Path(__file__).resolve().parent.parent


class Event(NamedTuple):
    """One event of a log. A tuple, because a log may hold a million."""

    key: str
    value: Any
    event_type: str
    time_ms: int | float
    """Milliseconds since the epoch."""
    namespace: str
    metadata: Mapping[str, Any]


class MalformedEvent(ValueError):
    """What follows a `:::MLLOG` token is not an event; the message says what was expected and what was read."""

    def __init__(self, expected: str, read: object, *, because: object = "") -> None:
        super().__init__(expected, read, because)

    def __str__(self) -> str:
        # Composed when asked for: a file may hold a million malformed lines, of which few are shown.
        expected, read, because = self.args
        return f"expected {expected}, read {_short(read)}" + (f": {because}" if because else "")


def decode(text: str) -> Event:
    """The event in `text`, which is what follows the `:::MLLOG` token.

    Raises:
        MalformedEvent: as decode_at, or something follows the event.
    """
    event, end = decode_at(text, 0)
    if text[end:].strip():
        raise MalformedEvent("one JSON object", text, because="something follows it")
    return event


def events_in(line: str) -> Iterator[Event]:
    """The event of a line as a run writes it; none where there is none, or a broken one."""
    _, token, text = line.partition(TOKEN)
    if token:
        try:
            yield decode(text)
        except MalformedEvent:
            return


def read(path: Path) -> Iterator[Event]:
    """The events of a log of ours, in order. Checking a log is the business of `compliance.log`."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            yield from events_in(line)


def decode_at(text: str, start: int) -> tuple[Event, int]:
    """The event that starts at `start`, behind white space at most, and where it ends; what follows is not looked at.

    Strict where the official parser is not: JSON numbers must be finite, names unique, fields of the right type.

    Raises:
        MalformedEvent: with what was read and what was expected.
    """
    # One space is what mllog writes; this is called a million times.
    begin = start + 1 if text.startswith(" {", start) else _WHITE_SPACE.match(text, start).end()  # type: ignore[union-attr]
    if not text.startswith("{", begin):
        raise MalformedEvent("one JSON object", text[begin : begin + _LONGEST])
    try:
        fields, end = STRICT_JSON.raw_decode(text, begin)
    except MalformedEvent:
        raise
    except (ValueError, RecursionError) as error:
        read = text[begin : begin + _LONGEST]
        raise MalformedEvent("one JSON object", read, because=error) from None
    return _event_from(fields), end


def _event_from(fields: dict[str, Any]) -> Event:
    try:
        key, value, event_type, time_ms, metadata = _REQUIRED(fields)
    except KeyError:
        missing = ", ".join(name for name in REQUIRED if name not in fields)
        raise MalformedEvent(f"the fields {', '.join(REQUIRED)}; missing {missing}", fields) from None
    namespace = fields.get("namespace", "")
    # The decoder makes no subclasses of these types, and type() tells True from 1.
    if type(key) is not str or not key:
        raise MalformedEvent("key as a non-empty string", key)
    if type(event_type) is not str or event_type not in EVENT_TYPES:
        raise MalformedEvent(f"event_type among {', '.join(sorted(EVENT_TYPES))}", event_type)
    if type(time_ms) not in (int, float) or not 0 <= time_ms <= _LARGEST:
        raise MalformedEvent("time_ms as milliseconds since the epoch", time_ms)
    if type(metadata) is not dict:
        raise MalformedEvent("metadata as an object", metadata)
    if type(namespace) is not str:
        raise MalformedEvent("namespace as a string", namespace)
    return Event(key, value, event_type, time_ms, namespace, metadata)


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise MalformedEvent(f"unique names in an object, not {_short(twice)} twice", result)
    return result


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise MalformedEvent("a finite number", text)
    return number


def _refuse_constant(text: str) -> None:
    raise MalformedEvent("a finite number", text)


REQUIRED = ("key", "value", "event_type", "time_ms", "metadata")
"""The fields that every event has, as mllog writes them; a missing namespace is none."""

_LARGEST = sys.float_info.max
_REQUIRED = itemgetter(*REQUIRED)
_WHITE_SPACE = re.compile(r"\s*")
STRICT_JSON = json.JSONDecoder(object_pairs_hook=_unique_names, parse_constant=_refuse_constant, parse_float=_finite)
"""Python's own decoder, but names given twice and numbers that are not finite are a MalformedEvent."""

_LONGEST = 80
"""Characters of a value that a message shows."""
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _LONGEST


def _short(value: object) -> str:
    """A value of a line, however long and deep, for a message."""
    text = _REPR.repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


class EventLog:
    """Where a run logs its events: a file opened for append, one strict JSON line an event, flushed at once.

    Only rank 0 writes; on every other rank `path` is None and events go nowhere, so that the loop is the same code on
    all ranks. The file is opened at the first event: a run that is refused before leaves none behind.
    """

    def __init__(self, path: Path | None, clock: Clock) -> None:
        self.path = path
        self.clock = clock
        self._mllogger: Any = None

    def event(self, key: str, value: Any = None, /, *, at: float | None = None, **metadata: Any) -> None:
        """Log a point in time; `at` is seconds since the epoch, now if None.

        Raises:
            ValueError: value or metadata is no strict JSON (NaN, infinity, foreign types); nothing is written.
        """
        self._write(POINT, key, value, at, metadata)

    def start(self, key: str, /, *, at: float | None = None, **metadata: Any) -> None:
        """Log the start of an interval."""
        self._write(START, key, None, at, metadata)

    def end(self, key: str, /, *, at: float | None = None, **metadata: Any) -> None:
        """Log the end of an interval."""
        self._write(END, key, None, at, metadata)

    def sync(self) -> int:
        """Bytes of the log, all of them on disk when this returns; 0 where nothing is logged."""
        if self.path is None or not self.path.exists():
            return 0
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
            return file.seek(0, os.SEEK_END)

    def cut(self, length: int) -> None:
        """Cut the log back to its first `length` bytes; what follows them is kept beside it, as <log>.cut-<k>."""
        if self.path is None:
            return
        with self.path.open("r+b") as file:
            file.seek(length)
            rest = file.read()
            if rest:
                _keep(rest, self.path)
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
        log = {POINT: self._mllogger.event, START: self._mllogger.start, END: self._mllogger.end}[event_type]
        time_ms = int((self.clock.now() if at is None else at) * 1000)
        # The seed checker wants the file and line of the call: one frame up from event(), start() or end(), which is
        # two from here.
        log(key, value, metadata=metadata, time_ms=time_ms, stack_offset=3)


def _keep(rest: bytes, log: Path) -> None:
    with beside(log, "cut").open("xb") as file:
        file.write(rest)
        flush(file)


class _LogFile(logging.FileHandler):
    """A file whose failures raise (a full disk); logging's own way is to print them and lose the event."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - logging's signature
        raise


def _mllogger(path: Path) -> Any:
    from mlperf_logging.mllog.mllog import MLLogger

    handler = _LogFile(path, mode="a", encoding="utf-8")
    # A logger of our own: the package's default one also prints, and mllog.config() adds a handler at each call.
    logger = logging.Logger(f"mllog:{path}", level=logging.INFO)
    logger.addHandler(handler)
    # mlperf_logging uses root_dir as a regular expression.
    return MLLogger(logger=logger, root_dir=re.escape(str(_ROOT)))
