"""The reader takes any bytes: events come out where there are some, defects where there should be."""

from __future__ import annotations

import json
import os
import resource
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from benchmark.mllog import TOKEN
from compliance.check import open_run
from compliance.checks.runs import check_run
from compliance.log import MAX_LINE, DefectKind, LineReader, Log, load


def event(key: str, **fields: object) -> str:
    """The text of one event."""
    return f"{TOKEN} " + json.dumps(
        {"namespace": "", "time_ms": 1, "event_type": "POINT_IN_TIME", "key": key, "value": 1, "metadata": {}} | fields
    )


def keys(path: Path) -> list[str]:
    """The keys of the events that are read; fails on a defect."""
    log = load(path)
    assert log.defects == []
    return [mark.key for mark in log.marks]


def defects(path: Path) -> list[DefectKind]:
    return [defect.kind for defect in load(path).defects]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "result_0.txt"


@pytest.mark.parametrize(
    "line",
    [
        event("a") + event("b"),
        f"0: {event('a')} 1: {event('b')}",
        f"{event('a')} {{'loss': 3}} step 5 {event('b')} }}",
        f"\r 10%|# |{event('a')}\x00{event('b')}\r",
        event("a", value=f"text with {TOKEN} inside") + event("b"),
    ],
    ids=["adjacent", "rank prefixes", "noise with braces", "control characters", "token in a value"],
)
def test_two_events_on_a_line_are_both_read(file: Path, line: str) -> None:
    """Events that share a line, among whatever else ranks write, are all recovered in order."""
    file.write_text(f"{line}\n", encoding="utf-8")
    assert keys(file) == ["a", "b"]


def test_events_are_located(file: Path) -> None:
    """An event says in which line it stands, and which of the events of the file it is."""
    file.write_text(f"noise\n{event('a')}{event('b')}\n\n{event('c')}", encoding="utf-8")
    (a,), (b,), (c,) = load(file).events.values()
    assert [(event.index, event.line) for event in (a, b, c)] == [(0, 2), (1, 2), (2, 4)]


@pytest.mark.parametrize(
    "text",
    [
        f"{TOKEN} ",
        f"{TOKEN} {{",
        f"{TOKEN} []",
        f"{TOKEN} {'[' * 100_000}",
        f"{TOKEN} " + '{"a":' * 100_000,
        event("a")[:-2],
        event("a", value=float("nan")),
        event("a", time_ms=float("inf")),
        event("a", time_ms=10**400),
        event("a", time_ms=None),
        event("a").replace('"value": 1', '"value": 1, "value": 2'),
        event("a", value="x")[:-20] + TOKEN,
    ],
    ids=[
        *("nothing", "open", "list", "100k brackets", "100k braces", "truncated", "nan", "infinite", "beyond floats"),
        *("no time", "two values", "interrupted"),
    ],
)
def test_what_is_no_event_is_a_defect(file: Path, text: str) -> None:
    """A token without an event after it is a malformed line, and the events around it are read."""
    file.write_text(f"{event('before')}\n{text}\n{event('after')}\n", encoding="utf-8")
    log = load(file)
    assert {defect.kind for defect in log.defects} == {DefectKind.MALFORMED}
    assert {defect.line for defect in log.defects} == {2}
    assert list(log.counts) == ["before", "after"]


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00" * 1000, bytes(range(256)) * 100, event("a").encode("utf-16"), b"x" * (10 * MAX_LINE), b"\xff" * 100],
    ids=["empty", "zeros", "binary", "utf-16", "10 MB line", "no text"],
)
def test_file_without_events_is_one_finding(file: Path, content: bytes) -> None:
    """A file in which no event can be seen is one finding, not one for each event that a run should have."""
    file.write_bytes(content)
    assert [finding.rule for finding in check_run(open_run(file))] == ["log.empty"]


def test_long_line_with_an_event_is_a_defect(file: Path) -> None:
    """An event in a line that is too long is not dropped in silence, and reading continues."""
    line = "x" * (3 * MAX_LINE - 4) + event("hidden")
    file.write_text(f"{event('before')}\n{line}\n{event('after')}\n", encoding="utf-8")
    log = load(file)
    assert [(defect.kind, defect.line) for defect in log.defects] == [(DefectKind.LONG_LINE, 2)]
    assert list(log.counts) == ["before", "after"]


def test_lines_without_a_token_cost_nothing(file: Path) -> None:
    """Ten million empty lines are counted in a blink, and the event behind them stands where it stands."""
    file.write_bytes(b"\n" * 10_000_000 + event("last").encode())
    began = time.process_time()
    (last,) = load(file).events["last"]
    assert last.line == 10_000_001
    assert time.process_time() - began < 1


@given(st.lists(st.sampled_from([b"x", b"\n", b"\r", event("a").encode(), TOKEN.encode(), b"y" * MAX_LINE])), st.data())
def test_pieces_are_read_as_the_whole(parts: list[bytes], data: st.DataObject) -> None:
    """However the bytes of a log are cut when they come, its events and defects are the same, in the same lines."""
    whole, content = Log(Path("whole")), b"".join(parts)
    cut = Log(Path("cut"))
    edges = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=4)))
    for log, pieces in ((whole, [content]), (cut, [content[a:b] for a, b in pairwise([0, *edges, len(content)])])):
        reader = LineReader(log)
        for piece in pieces:
            reader.feed(piece)
        reader.finish()
    assert list(cut.marks) == list(whole.marks)
    assert cut.defects == whole.defects


def test_missing_file_is_a_defect(file: Path) -> None:
    """A file that does not exist is a defect of the log."""
    assert defects(file) == [DefectKind.UNREADABLE]


def test_directory_is_a_defect(tmp_path: Path) -> None:
    """A directory is not a log."""
    assert defects(tmp_path) == [DefectKind.UNREADABLE]


def test_pipe_is_a_defect(file: Path) -> None:
    """A pipe is not opened: that would wait for a writer forever."""
    os.mkfifo(file)
    assert defects(file) == [DefectKind.UNREADABLE]


def test_link_to_itself_is_a_defect(file: Path) -> None:
    """A symbolic link that leads to itself is a defect of the log."""
    file.symlink_to(file)
    assert defects(file) == [DefectKind.UNREADABLE]


@given(st.lists(st.one_of(st.binary(), st.just(TOKEN.encode()), st.just(event("seed").encode()), st.just(b"\n"))))
@example([TOKEN.encode(), b'{"key": "\\ud800"}'])
@example([event("\ud800", metadata={"samples_count": 1e308}).encode()])
def test_no_bytes_make_the_reader_or_a_check_raise(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]
) -> None:
    """Whatever the bytes, reading and checking end with findings, and no check crashes."""
    file = tmp_path_factory.getbasetemp() / "any.txt"
    file.write_bytes(b"".join(parts))
    found = check_run(open_run(file))
    assert found
    assert not [finding for finding in found if "crashed" in finding.message]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_no_value_makes_a_check_raise(made_logs: dict[str, Path], data: st.DataObject) -> None:
    """A valid log of which any event has any value and metadata is judged without a crash."""
    lines = made_logs["tiny"].read_text(encoding="utf-8").splitlines(keepends=True)
    index = data.draw(st.integers(0, len(lines) - 1))
    fields = json.loads(lines[index].removeprefix(TOKEN))
    fields |= {"value": data.draw(_JSON), "metadata": {"samples_count": data.draw(_JSON), "status": data.draw(_JSON)}}
    lines[index] = f"{TOKEN} {json.dumps(fields)}\n"
    file = made_logs["tiny"].with_name("any_value")
    file.write_text("".join(lines), encoding="utf-8")
    assert not [finding for finding in check_run(open_run(file)) if "crashed" in finding.message]


def test_many_events_are_read_in_bounded_memory(file: Path) -> None:
    """A log of 200,000 events that no run can have is read in seconds, and mostly not kept."""
    lines = f"{event('init_start')}\n{event('note')}\n" * 100_000
    file.write_text(lines, encoding="utf-8")
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    log = load(file)
    assert log.counts == {"init_start": 100_000, "note": 100_000}
    assert len(log.events["init_start"]) == 2
    assert log.dropped > 0
    assert time.process_time() - began < 20
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 60_000_000
