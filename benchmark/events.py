"""MLPerf log events: the writer that a run logs through, and the decoder that every reader uses.

A line is `:::MLLOG {"namespace": ..., "time_ms": ..., "event_type": ..., "key": ..., "value": ..., "metadata":
{...}}`. Written by mlperf_logging's own logger; its keys and event types are used by their names here so that reading
a log needs no import of that package. Source: mlcommons/logging, `mllog/mllog.py` and `mllog/constants.py` (compared
in a test).
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.clock import Clock

TOKEN = ":::MLLOG"

POINT = "POINT_IN_TIME"
START = "INTERVAL_START"
END = "INTERVAL_END"
EVENT_TYPES = frozenset({POINT, START, END})

_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of a log."""

    key: str
    value: Any = None
    event_type: str = POINT
    time_ms: int | float
    """Milliseconds since the epoch."""
    namespace: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


class MalformedEvent(ValueError):
    """A text after the `:::MLLOG` token is not an event; the message says what was expected."""


def decode(text: str) -> Event:
    """The event in `text`, which is what follows the `:::MLLOG` token.

    Strict where the official parser is not: JSON numbers must be finite, keys unique, fields of the right type.

    Raises:
        MalformedEvent: with what was read and what was expected.
    """
    try:
        fields = _STRICT_JSON.decode(text.strip())
    except MalformedEvent:
        raise
    except (ValueError, RecursionError) as error:
        raise MalformedEvent(f"expected one JSON object, read {_shorten(text)}: {error}") from None
    return _event_from(fields)


def _event_from(fields: object) -> Event:
    if not isinstance(fields, dict):
        raise MalformedEvent(f"expected a JSON object, read {_shorten(fields)}")
    missing = [name for name in ("key", "value", "event_type", "time_ms", "metadata") if name not in fields]
    if missing:
        raise MalformedEvent(
            f"expected the fields key, value, event_type, time_ms, metadata; missing {', '.join(missing)}"
        )
    key, time_ms, metadata = fields["key"], fields["time_ms"], fields["metadata"]
    if not isinstance(key, str) or not key:
        raise MalformedEvent(f"expected key as a non-empty string, read {_shorten(key)}")
    event_type = fields["event_type"]
    if not isinstance(event_type, str) or event_type not in EVENT_TYPES:
        raise MalformedEvent(f"expected event_type among {', '.join(sorted(EVENT_TYPES))}, read {_shorten(event_type)}")
    if isinstance(time_ms, bool) or not isinstance(time_ms, int | float) or time_ms < 0:
        raise MalformedEvent(f"expected time_ms as milliseconds since the epoch, read {_shorten(time_ms)}")
    if not isinstance(metadata, dict):
        raise MalformedEvent(f"expected metadata as an object, read {_shorten(metadata)}")
    namespace = fields.get("namespace", "")
    if not isinstance(namespace, str):
        raise MalformedEvent(f"expected namespace as a string, read {_shorten(namespace)}")
    return Event(
        key=key,
        value=fields["value"],
        event_type=event_type,
        time_ms=time_ms,
        namespace=namespace,
        metadata=metadata,
    )


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise MalformedEvent(f"expected unique names in an object, read {twice!r} twice")
    return result


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise MalformedEvent(f"expected a finite number, read {text}")
    return number


def _refuse_constant(text: str) -> None:
    raise MalformedEvent(f"expected a finite number, read {text}")


_STRICT_JSON = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite)


def _shorten(value: object, limit: int = 80) -> str:
    # repr of a hostile value may be long; cut the text before and after.
    text = repr(value[:limit] if isinstance(value, str) else value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


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
