"""Event lines: what is written decodes to itself, what is malformed is refused, names are the official ones."""

from __future__ import annotations

import inspect
import json
import math
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlperf_logging.mllog import constants

from benchmark.announce import announce
from benchmark.console import Console
from benchmark.errors import UnwritableError
from benchmark.eventlog import EventLog
from benchmark.mllog import END, POINT, START, TOKEN, MalformedEventError, decode, read
from tests.fakes import EPOCH, FakeClock, FakeStep, configured, read_events

LINE = '{"namespace": "", "time_ms": 1, "event_type": "POINT_IN_TIME", "key": "seed", "value": 7, "metadata": {}}'

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
METADATA = st.dictionaries(st.text().filter(lambda name: name not in {"at", "file", "lineno"}), JSON, max_size=3)


def changed(**fields: Any) -> str:
    """A valid event with fields replaced, or left out where the value is `...`."""
    values = json.loads(LINE) | fields
    return json.dumps({name: value for name, value in values.items() if value is not ...})


def refusal(text: str) -> str:
    """Why a text is not an event; empty if it is one."""
    try:
        decode(text)
    except MalformedEventError as error:
        return str(error)
    return ""


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / "result_0.txt", FakeClock())


def events_of(log: EventLog) -> list[Any]:
    assert log.path is not None
    return read_events(log.path)


# Reading.


def test_decode_reads_every_field() -> None:
    """A well-formed line becomes the event that it describes."""
    event = decode(changed(namespace="n", metadata={"samples_count": 3}))
    assert (event.namespace, event.time_ms, event.event_type) == ("n", 1, POINT)
    assert (event.key, event.value, event.metadata) == ("seed", 7, {"samples_count": 3})


def test_decode_allows_spaces_around_and_no_namespace() -> None:
    """White space around the object and a missing namespace, both found in published logs, are accepted."""
    assert decode(f"  {changed(namespace=...)} \r\n").namespace == ""


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("field", ["value", "time_ms", "metadata"])
def test_decode_refuses_what_is_not_finite(number: str, field: str) -> None:
    """No number that is not finite gets in anywhere, though Python's own decoder accepts it."""
    text = changed(**{field: {"deep": [0.5]} if field == "metadata" else 0.5}).replace("0.5", number)
    with pytest.raises(MalformedEventError, match="finite"):
        decode(text)


@pytest.mark.parametrize(
    "text",
    [LINE.replace('"value": 7', '"value": 7, "value": 8'), LINE.replace("{}", '{"a": {"b": 1, "b": 2}}')],
    ids=["field", "metadata"],
)
def test_decode_refuses_a_name_given_twice(text: str) -> None:
    """A repeated name is refused and named, because readers disagree on which one counts."""
    with pytest.raises(MalformedEventError, match=r"unique names.*'(value|b)' twice"):
        decode(text)


@pytest.mark.parametrize("field", ["key", "value", "event_type", "time_ms", "metadata"])
def test_decode_refuses_a_missing_field(field: str) -> None:
    """A line without one of the five fields is refused with its name."""
    with pytest.raises(MalformedEventError, match=f"missing {field}"):
        decode(changed(**{field: ...}))


WRONG: dict[str, tuple[Any, ...]] = {
    "key": (None, 1, "", [], {}),
    "event_type": (None, 1, "POINT", [], {}),
    "time_ms": (None, "1", True, -1, [], {}),
    "metadata": (None, 1, "x", []),
    "namespace": (None, 1, [], {}),
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_decode_refuses_a_field_of_the_wrong_type(field: str, value: Any) -> None:
    """A field of another type is refused with its name and what was read."""
    with pytest.raises(MalformedEventError, match=f"expected {field}"):
        decode(changed(**{field: value}))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "1", '"text"', "null", LINE[:-1], f"{LINE} {LINE}", f"{LINE} trailing", "\0", "{'key': 1}"]
)
def test_decode_refuses_what_is_no_object(text: str) -> None:
    """Truncated, doubled and foreign texts are refused."""
    with pytest.raises(MalformedEventError, match="expected"):
        decode(text)


@pytest.mark.parametrize("depth", [500, 900, 950, 990, 1000, 100_000])
@pytest.mark.parametrize("field", ["key", "value", "event_type", "time_ms", "metadata", "namespace"])
def test_decode_survives_deep_nesting(field: str, depth: int) -> None:
    """However deep a line nests, it is an event or it is refused, and nothing else happens."""
    refused = refusal(changed(**{field: 0.5}).replace("0.5", "[" * depth + "]" * depth))
    if field != "value" or depth > 1000:
        assert refused
    assert len(refused) < 300


def test_decode_refuses_an_endless_number() -> None:
    """An integer of a hundred thousand digits is refused, not computed."""
    with pytest.raises(MalformedEventError):
        decode(changed(value=0.5).replace("0.5", "9" * 100_000))


@given(text=st.text() | st.text().map(lambda tail: LINE[:40] + tail) | JSON.map(json.dumps))
def test_decode_only_ever_refuses(text: str) -> None:
    """Whatever the text, the answer is an event or a short refusal."""
    assert len(refusal(text)) < 300


# Writing.


@given(key=st.text(min_size=1), value=JSON, metadata=METADATA, time_ms=st.integers(0, 2**43))
def test_what_is_written_decodes_to_itself(key: str, value: Any, metadata: dict[str, Any], time_ms: int) -> None:
    """Any key, value and metadata that are strict JSON come back equal, on one line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result_0.txt"
        EventLog(path, FakeClock(start=time_ms / 1000)).event(key, value, **metadata)
        (event,) = read_events(path)
    assert (event.key, event.value, event.event_type) == (key, value, POINT)
    assert {name: event.metadata[name] for name in metadata} == metadata
    assert abs(event.time_ms - time_ms) <= 1


def test_intervals_have_their_event_types(log: EventLog) -> None:
    """`start` and `end` write the two ends of an interval, without a value."""
    log.start("run_start", samples_count=0)
    log.end("run_stop", status="success")
    assert [(event.event_type, event.value) for event in events_of(log)] == [(START, None), (END, None)]


def test_time_is_the_clocks_in_whole_milliseconds(log: EventLog) -> None:
    """Events carry the injected clock's time, or the one given."""
    log.event("seed", 1)
    log.event("seed", 1, at=EPOCH + 1.2345)
    assert [event.time_ms for event in events_of(log)] == [int(EPOCH * 1000), int(EPOCH * 1000) + 1234]


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, {1, 2}, b"bytes", len, {"deep": [math.nan]}], ids=repr
)
@pytest.mark.parametrize("place", ["value", "metadata"])
def test_value_that_is_no_strict_json_is_refused_and_not_written(log: EventLog, value: Any, place: str) -> None:
    """A value that a strict reader would reject raises at the writer and leaves the log as it was."""
    log.event("seed", 1)
    with pytest.raises(ValueError, match="event 'eval_accuracy'"):
        log.event("eval_accuracy", **{place: value}) if place == "metadata" else log.event("eval_accuracy", value)
    assert [event.key for event in events_of(log)] == ["seed"]


def test_nothing_is_created_before_the_first_event(log: EventLog) -> None:
    """A run that is refused before it logs leaves no file."""
    assert log.path is not None
    assert not log.path.exists()


def test_each_event_is_on_disk_when_the_call_returns(log: EventLog) -> None:
    """A log can be followed while it is written, and ends with the last event if the process dies."""
    for count in (1, 2, 3):
        log.event("seed", count)
        assert len(events_of(log)) == count


def test_a_log_is_appended_to(log: EventLog) -> None:
    """A run that continues after a crash continues the same log."""
    log.event("seed", 1)
    EventLog(log.path, FakeClock()).event("seed", 2)
    assert [event.value for event in events_of(log)] == [1, 2]


def test_two_logs_do_not_mix(log: EventLog, tmp_path: Path) -> None:
    """Runs in one process write each to its own file."""
    other = EventLog(tmp_path / "result_1.txt", FakeClock())
    log.event("seed", 1)
    other.event("seed", 2)
    assert [[event.value for event in events_of(each)] for each in (log, other)] == [[1], [2]]


def test_nothing_is_printed(log: EventLog, capfd: pytest.CaptureFixture[str]) -> None:
    """Events go to the file alone."""
    log.event("seed", 1)
    assert capfd.readouterr() == ("", "")


def test_a_log_that_cannot_be_written_raises() -> None:
    """A full disk ends the run with one line that names the file; no event is lost in silence."""
    with pytest.raises(UnwritableError, match=r"^/dev/full cannot be written: No space left on device$"):
        EventLog(Path("/dev/full"), FakeClock()).event("seed", 1)


def test_a_full_disk_leaves_no_half_line(log: EventLog) -> None:
    """The part of a line that fitted is taken back, and is not written later when there is room again."""
    assert log.path is not None
    log.event("seed", 1)
    with limited_to(log.path.stat().st_size + 20), pytest.raises(UnwritableError, match="File too large"):
        log.event("seed", 2)
    assert [event.value for event in events_of(log)] == [1]
    log.event("seed", 3)
    assert [event.value for event in events_of(log)] == [1, 3]


@contextmanager
def limited_to(size: int) -> Iterator[None]:
    """No file of this process can grow beyond this size, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_half_line_of_a_killed_writer_goes_before_the_next_event(log: EventLog) -> None:
    """The next writer removes it and begins at the start of a line."""
    assert log.path is not None
    log.event("seed", 1)
    with log.path.open("a") as file:
        file.write(':::MLLOG {"namespace"')
    EventLog(log.path, FakeClock()).event("seed", 2)
    assert [event.value for event in events_of(log)] == [1, 2]


def test_a_log_without_a_path_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks other than the first go through the same calls and leave no trace."""
    monkeypatch.chdir(tmp_path)
    log = EventLog(None, FakeClock())
    log.start("run_start")
    log.event("seed", 1)
    log.end("run_stop")
    assert list(tmp_path.iterdir()) == []


def test_a_console_has_the_losses(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The console shows each evaluation, and a step every few seconds."""
    now = 100.0
    log = EventLog(tmp_path / "result_0.txt", FakeClock(), Console(lambda: now))
    log.event("seed", 1)
    for step in range(1, 5):
        log.event(
            "tracked_stats", {"reduced_train_loss": 6.5, "train_step_time": 2.0}, step=step, samples_count=16 * step
        )
        now += 2.0
    log.event("eval_accuracy", 5.9, samples_count=64)
    assert capfd.readouterr().out.splitlines() == [
        "progress  step 1, 16 samples: loss 6.5000, 2.000 s",
        "progress  step 4, 64 samples: loss 6.5000, 2.000 s",
        "progress  evaluation after 64 samples: log perplexity 5.9000",
    ]


@pytest.mark.parametrize("method", ["event", "start", "end"])
def test_metadata_has_the_callers_file_and_line(log: EventLog, method: str) -> None:
    """The official seed checker wants the place of the call, as a path relative to the repository."""
    line = inspect.stack()[0].lineno + 1
    getattr(log, method)("seed")
    (event,) = events_of(log)
    assert (event.metadata["file"], event.metadata["lineno"]) == ("tests/benchmark/test_mllog.py", line)


# A log that is cut back, as when a run goes on from a checkpoint.


def test_sync_says_how_long_the_log_is(log: EventLog) -> None:
    """It returns the bytes of whole lines, or 0 if nothing is logged."""
    assert log.sync() == 0
    log.event("seed", 1)
    assert log.path is not None
    assert log.sync() == len(log.path.read_bytes()) > 0
    assert EventLog(None, FakeClock()).sync() == 0


def test_what_is_cut_off_is_kept_beside_the_log(log: EventLog) -> None:
    """Every byte of it is kept, even half a line, each time under a new name."""
    log.event("seed", 1)
    length = log.sync()
    assert log.path is not None
    kept = log.path.read_bytes()
    for tail in (b"half a li", b"another\n"):
        log.path.write_bytes(kept + tail)
        log.cut(length)
        assert log.path.read_bytes() == kept
    folder = log.path.parent
    assert [(folder / f"{log.path.name}.cut-{k}").read_bytes() for k in (1, 2)] == [b"half a li", b"another\n"]


def test_nothing_to_cut_off_leaves_no_file(log: EventLog) -> None:
    """A run that stopped cleanly has only its log; other ranks have nothing to cut."""
    log.event("seed", 1)
    assert log.path is not None
    log.cut(log.sync())
    EventLog(None, FakeClock()).cut(0)
    assert list(log.path.parent.iterdir()) == [log.path]


def test_a_log_goes_on_where_it_was_cut(log: EventLog) -> None:
    """Lines logged after a cut follow the lines that were kept."""
    log.event("seed", 1)
    length = log.sync()
    log.event("seed", 2)
    log.cut(length)
    log.event("seed", 3)
    assert [event.value for event in events_of(log)] == [1, 3]


def test_reading_a_log_passes_over_what_is_no_event(log: EventLog) -> None:
    """The reader skips noise, and a line that the end of a process has cut off."""
    log.event("seed", 1)
    assert log.path is not None
    with log.path.open("a") as file:
        file.write('noise\n:::MLLOG {"namespace')
    assert [event.key for event in read(log.path)] == ["seed"]


# Names.

CONSTANTS = {value for name, value in vars(constants).items() if name.isupper() and isinstance(value, str)}

# What no constant exists for, and why it is logged nevertheless.
OURS = {
    "target_accuracy": "published logs carry it",
    "tracked_stats": "published logs carry it: loss and time of each step",
}


def test_event_types_are_the_official_ones() -> None:
    """The three event types have the package's names."""
    assert (POINT, START, END) == (constants.POINT_IN_TIME, constants.INTERVAL_START, constants.INTERVAL_END)


def test_line_starts_with_the_official_token(log: EventLog) -> None:
    """Lines begin as the package writes them."""
    log.event("seed", 1)
    assert log.path is not None
    assert log.path.read_text(encoding="utf-8").startswith(f"{TOKEN} {{")


def test_announced_keys_are_official() -> None:
    """Every key announced is a constant of the package, or one of ours with a reason."""
    keys = {key for key, _ in announce(configured(SEED=1))}
    assert keys - CONSTANTS <= set(OURS)


def test_fake_step_sees_the_log(log: EventLog) -> None:
    """The fake trainer notes the last event before each call, which other tests rely on."""
    assert log.path is not None
    step = FakeStep(log.path)
    step.warm_up()
    log.event("seed", 1)
    step.open_data()
    assert step.calls == [("warm_up", None), ("open_data", "seed")]
