"""MLPerf log events, and the strict decoder that every reader of logs uses; `eventlog` writes them.

A line is `:::MLLOG {"namespace": ..., "time_ms": ..., "event_type": ..., "key": ..., "value": ..., "metadata":
{...}}`, as mlperf_logging's own logger writes it. Keys and event types are spelt out here, so that reading a log does
not import that package. Source: mlcommons/logging, `mllog/mllog.py` and `mllog/constants.py` (compared
in a test).
"""

from __future__ import annotations

import json
import re
import reprlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from math import isfinite
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.errors import HarnessError

TOKEN = ":::MLLOG"

POINT = "POINT_IN_TIME"
START = "INTERVAL_START"
END = "INTERVAL_END"
EVENT_TYPES = frozenset({POINT, START, END})


class Event(NamedTuple):
    """One event of a log; a tuple, because a log may hold a million."""

    key: str
    value: Any
    event_type: str
    time_ms: int | float
    """Milliseconds since the epoch."""
    namespace: str
    metadata: Mapping[str, Any]


class MalformedEventError(HarnessError, ValueError):
    """The text after a `:::MLLOG` token is not an event; the message says what was expected and what was read."""

    def __init__(self, expected: str, read: object, *, because: object = "") -> None:
        super().__init__(expected, read, because)

    def __str__(self) -> str:
        # Composed only when shown: a file may hold a million malformed lines.
        expected, read, because = self.args
        return f"expected {expected}, read {_short(read)}" + (f": {because}" if because else "")


def decode(text: str) -> Event:
    """Decode the event in `text`, which is what follows the `:::MLLOG` token.

    Raises:
        MalformedEventError: as for decode_at, or something follows the event.
    """
    event, end = decode_at(text, 0)
    if text[end:].strip():
        raise MalformedEventError("one JSON object", text, because="something follows it")
    return event


def events_in(line: str) -> Iterator[Event]:
    """Yield the event of a line as a run writes it; nothing for a line without one or with a broken one."""
    _, token, text = line.partition(TOKEN)
    if token:
        try:
            yield decode(text)
        except MalformedEventError:
            return


def read(path: Path) -> Iterator[Event]:
    """Yield the events of a log that this harness wrote, in order; `compliance.log` reads logs of others."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            yield from events_in(line)


def decode_at(text: str, start: int) -> tuple[Event, int]:
    """Decode the event at `start`, after optional white space; return it and where it ends.

    Stricter than the official parser: JSON numbers must be finite, names unique, and fields of the right type. Text
    after the event is not read.

    Raises:
        MalformedEventError: there is no valid event; the message says what was read and what was expected.
    """
    # The fast path for the one space that mllog writes: this is called a million times.
    begin = start + 1 if text.startswith(" {", start) else _WHITE_SPACE.match(text, start).end()  # type: ignore[union-attr]
    if not text.startswith("{", begin):
        raise MalformedEventError("one JSON object", text[begin : begin + _LONGEST])
    try:
        fields, end = STRICT_JSON.raw_decode(text, begin)
    except MalformedEventError:
        raise
    except (ValueError, RecursionError) as error:
        read = text[begin : begin + _LONGEST]
        raise MalformedEventError("one JSON object", read, because=error) from None
    return _event_from(fields), end


def _event_from(fields: dict[str, Any]) -> Event:
    try:
        key, value, event_type, time_ms, metadata = _REQUIRED(fields)
    except KeyError:
        missing = ", ".join(name for name in REQUIRED if name not in fields)
        raise MalformedEventError(f"the fields {', '.join(REQUIRED)}; missing {missing}", fields) from None
    namespace = fields.get("namespace", "")
    # The decoder does not make subclasses of these types, and type() tells True from 1.
    if type(key) is not str or not key:
        raise MalformedEventError("key as a non-empty string", key)
    if type(event_type) is not str or event_type not in EVENT_TYPES:
        raise MalformedEventError(f"event_type among {', '.join(sorted(EVENT_TYPES))}", event_type)
    if type(time_ms) not in (int, float) or not 0 <= time_ms <= _LARGEST:
        raise MalformedEventError("time_ms as milliseconds since the epoch", time_ms)
    if type(metadata) is not dict:
        raise MalformedEventError("metadata as an object", metadata)
    if type(namespace) is not str:
        raise MalformedEventError("namespace as a string", namespace)
    return Event(key, value, event_type, time_ms, namespace, metadata)


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise MalformedEventError(f"unique names in an object, not {_short(twice)} twice", result)
    return result


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise MalformedEventError("a finite number", text)
    return number


def _refuse_constant(text: str) -> None:
    raise MalformedEventError("a finite number", text)


REQUIRED = ("key", "value", "event_type", "time_ms", "metadata")
"""The fields that every event must have, as mllog writes them; a missing namespace counts as empty."""

_LARGEST = sys.float_info.max
_REQUIRED = itemgetter(*REQUIRED)
_WHITE_SPACE = re.compile(r"\s*")
STRICT_JSON = json.JSONDecoder(object_pairs_hook=_unique_names, parse_constant=_refuse_constant, parse_float=_finite)
"""Python's own decoder, except that repeated names and numbers that are not finite raise MalformedEventError."""

_LONGEST = 80
"""Characters of a value that a message shows."""
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _LONGEST


def _short(value: object) -> str:
    """Return a value as short text for a message, however long and deep it is."""
    text = _REPR.repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
