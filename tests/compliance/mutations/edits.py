"""Edits of a log. Those that return a function are written where a table needs one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, TypeAlias

from tests.logs import EVALUATION_SECONDS, STEP_SECONDS, LogFile

Edit: TypeAlias = Callable[[LogFile], object]
Curve: TypeAlias = Sequence[tuple[int, float]]
"""Evaluations: after how many sequences, and the log perplexity."""

INTERVAL_EVENTS = ("block_start", "block_stop", "eval_start", "eval_accuracy", "eval_stop")


def all_of(*edits: Edit) -> Edit:
    """One edit after the other."""

    def edit(log: LogFile) -> None:
        for one in edits:
            one(log)

    return edit


# Single events.


def put(key: str, value: object, nth: int = 0) -> Edit:
    return lambda log: log.set(key, value, nth)


def put_metadata(key: str, nth: int = 0, **metadata: object) -> Edit:
    return lambda log: log.get(key, nth)["metadata"].update(metadata)


def without(*keys: str) -> Edit:
    """All events of the keys go."""

    def edit(log: LogFile) -> None:
        log.events[:] = [event for event in log.events if event["key"] not in keys]

    return edit


def without_metadata(key: str, name: str, nth: int = 0) -> Edit:
    return lambda log: log.get(key, nth)["metadata"].pop(name)


def again(key: str, **changes: object) -> Edit:
    """The first event of a key comes twice; the second time with other fields, if any are given."""

    def edit(log: LogFile) -> None:
        index = log.indices(key)[0]
        log.events.insert(index + 1, deepcopy(log.events[index]) | changes)

    return edit


def add(key: str, value: object, *, after: str, nth: int = -1, **metadata: object) -> Edit:
    """A new event, at the time of the one that it follows."""

    def edit(log: LogFile) -> None:
        log.events.insert(log.indices(after)[nth] + 1, event_like(log.get(after, nth), key, value, **metadata))

    return edit


def event_like(event: dict[str, Any], key: str, value: object, **metadata: object) -> dict[str, Any]:
    """An event of another key, at the time and the source line of one."""
    place = {name: event["metadata"][name] for name in ("file", "lineno")}
    return event | {"key": key, "value": value, "event_type": "POINT_IN_TIME", "metadata": place | metadata}


def move_after(key: str, after: str) -> Edit:
    """The first event of a key comes behind the first of another, at that one's time."""

    def edit(log: LogFile) -> None:
        event = log.events.pop(log.indices(key)[0])
        place = log.indices(after)[0]
        log.events.insert(place + 1, event | {"time_ms": log.events[place]["time_ms"]})

    return edit


# Times.


def shift(key: str, seconds: float, nth: int = 0) -> Edit:
    """One event happens earlier or later; no other does."""

    def edit(log: LogFile) -> None:
        log.get(key, nth)["time_ms"] += int(seconds * 1000)

    return edit


def from_then_on(key: str, seconds: float, nth: int = 0) -> Edit:
    """An event and all that follow in the file happen earlier or later."""

    def edit(log: LogFile) -> None:
        for event in log.events[log.indices(key)[nth] :]:
            event["time_ms"] += int(seconds * 1000)

    return edit


# Numbers of sequences.


def counts(by: Callable[[LogFile, int], object], *keys: str, nth: int | None = None) -> Edit:
    """Change the samples_count of the events of some keys, or of the nth of each key."""

    def edit(log: LogFile) -> None:
        for key in keys:
            events = [log.events[index] for index in log.indices(key)]
            for event in events if nth is None else [events[nth]]:
                event["metadata"]["samples_count"] = by(log, event["metadata"]["samples_count"])

    return edit


def batches(number: int) -> Callable[[LogFile, int], int]:
    """So many global batches more."""
    return lambda log, count: count + number * batch_of(log)


def batch_of(log: LogFile) -> int:
    return int(log.get("global_batch_size")["value"])


def evaluated_at(log: LogFile) -> list[int]:
    return [log.events[index]["metadata"]["samples_count"] for index in log.indices("eval_start")]


def target_of(log: LogFile) -> float:
    return float(log.get("target_accuracy")["value"])


def falling(log: LogFile, at: Sequence[int]) -> Curve:
    """A curve of which only the last evaluation reaches the target."""
    return [(count, target_of(log) + 0.01 * (len(at) - 1 - nth)) for nth, count in enumerate(at)]


def rerun(log: LogFile, curve: Curve) -> None:
    """Replace what is between run_start and run_stop by a run with these evaluations, and with steps if it had some."""
    first, last = log.indices("run_start")[0], log.indices("run_stop")[0]
    like = {key: log.get(key) for key in (*INTERVAL_EVENTS, "tracked_stats") if log.indices(key)}
    batch, stats = batch_of(log), like.get("tracked_stats", {}).get("value")
    now, done = like["block_start"]["time_ms"], 0
    events: list[dict[str, Any]] = []

    def emit(key: str, value: object, **metadata: object) -> None:
        place = like[key]["metadata"] | metadata
        events.append(like[key] | {"value": value, "time_ms": now, "metadata": place})

    for count, log_perplexity in curve:
        emit("block_start", None, samples_count=done)
        for step in range(done // batch + 1, count // batch + 1):
            now += int(STEP_SECONDS * 1000)
            if stats is not None:
                loss = stats["reduced_train_loss"] - 1e-3 * (step - 1)
                emit("tracked_stats", stats | {"reduced_train_loss": loss}, step=step, samples_count=step * batch)
        done = count
        emit("block_stop", None, samples_count=done)
        emit("eval_start", None, samples_count=done)
        now += int(EVALUATION_SECONDS * 1000)
        emit("eval_accuracy", log_perplexity, samples_count=done)
        emit("eval_stop", None, samples_count=done)
    stop, *after = log.events[last:]
    stop["metadata"]["samples_count"] = done
    for event in (stop, *after):
        event["time_ms"] = now
        if event["key"] == "train_samples":
            event["value"] = done
    log.events[first + 1 : last] = events
