"""Malicious input, or files that were never logs, give a finding or one clear error, in bounded memory, without a
traceback.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmark.checkout import ROOT
from benchmark.files import RUN_JSON
from benchmark.mllog import TOKEN
from compliance.check import NoLogsError, check_paths, find_logs
from compliance.log import MAX_DEFECTS, MAX_FILE, MAX_KEPT_TEXT, MAX_LINE, DefectKind, Log, load
from harness.__main__ import main
from tests.compliance.test_log_reader import event
from tests.logs import LogFile

MEGABYTE = 1_000_000
MEMORY = 256 << 20
"""Bytes of address space in which any of these files must be judged; the interpreter and its libraries take 60 MB."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "result_0.txt"


def judged(*paths: Path | str) -> str:
    """What the command says about paths, in a process of bounded memory; it must end with 1 or 2."""
    done = subprocess.run(
        [sys.executable, "-m", "compliance", "check", *map(str, paths)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )
    assert "Traceback" not in done.stderr
    assert done.returncode in (1, 2), done.stderr[-1000:]
    return done.stdout + done.stderr


def kinds(log: Log) -> set[DefectKind]:
    return {defect.kind for defect in log.defects}


# Files of any content.


def _no_bytes(file: Path) -> None:
    file.touch()


def _binary(file: Path) -> None:
    file.write_bytes(os.urandom(MEGABYTE))


def _noise(file: Path) -> None:
    file.write_text(" 10%|####      | step 5 loss 3.4\n" * 1_000_000, encoding="utf-8")


def _malformed(file: Path) -> None:
    file.write_text(f"{TOKEN} {{\n" * 300_000, encoding="utf-8")


def _one_line(file: Path) -> None:
    with file.open("wb") as stream:
        stream.writelines([b"x" * MEGABYTE] * 100)


def _one_line_with_an_event(file: Path) -> None:
    _one_line(file)
    with file.open("a", encoding="utf-8") as stream:
        stream.write(event("seed") + "x" * MEGABYTE)


def _many_tokens(file: Path) -> None:
    file.write_text((TOKEN * (MAX_LINE // len(TOKEN) - 1) + "\n") * 20, encoding="utf-8")


def _many_open_objects(file: Path) -> None:
    file.write_text(((TOKEN + ' {"a":') * 60_000 + "\n") * 10, encoding="utf-8")


def _brackets(file: Path) -> None:
    file.write_text(f"{TOKEN} {'[' * 100_000}\n{event('seed', value=0).replace('0', '[' * 100_000, 1)}\n")


def _huge_numbers(file: Path) -> None:
    lines = [event(key).replace(": 1", f": {'9' * digits}") for key in ("seed", "x") for digits in (400, 4000, 400_000)]
    file.write_text("\n".join(lines), encoding="utf-8")


def _wide_values(file: Path) -> None:
    value = "[" + "[]," * 300_000 + "[]]"
    file.write_text((event("note", value=0).replace('"value": 0', f'"value": {value}') + "\n") * 40, encoding="utf-8")


def _many_keys(file: Path) -> None:
    file.write_text("\n".join(event(f"key {number}") for number in range(200_000)), encoding="utf-8")


def _many_ranks(file: Path) -> None:
    lines = (event("init_start", value="x" * 3000, metadata={"rank": rank}) for rank in range(10_000))
    file.write_text("\n".join(lines), encoding="utf-8")


def _sparse(file: Path) -> None:
    file.touch()
    os.truncate(file, MAX_FILE + 1)


CONTENTS = [
    (_no_bytes, "log.empty"),
    (_binary, "log.empty"),
    (_noise, "log.empty"),
    (_malformed, "log.malformed"),
    (_one_line, "log.empty"),
    (_one_line_with_an_event, "log.long_line"),
    (_many_tokens, "log.malformed"),
    (_many_open_objects, "log.malformed"),
    (_brackets, "log.malformed"),
    (_huge_numbers, "log.malformed"),
    (_wide_values, "log.flood"),
    (_many_keys, "log.flood"),
    (_many_ranks, "event.missing"),
    (_sparse, "log.unreadable"),
]


@pytest.mark.parametrize(("write", "rule"), CONTENTS, ids=[write.__name__.strip("_") for write, _ in CONTENTS])
def test_content_is_judged_in_bounded_memory(file: Path, write: Callable[[Path], None], rule: str) -> None:
    """Whatever a file holds, and however large it is, the command finds that it is not a valid log."""
    write(file)
    output = judged(file)
    assert rule in output
    assert "crashed" not in output
    assert len(output) < 100_000


def test_log_cut_anywhere_is_an_error(log: LogFile, subtests: pytest.Subtests) -> None:
    """A log that ends within any of its lines, or has lost its beginning, has an ERROR and no check crashes."""
    content = log.path.read_bytes()
    end = content.index(b"\n", content.index(b'"run_stop"'))
    for offset in range(1, end, 997):
        for part in (content[:offset], content[offset:]):
            log.path.write_bytes(part)
            with subtests.test(offset=offset):
                report = check_paths([log.path])
                assert not report.passed
                assert not [finding for finding in report.findings if "crashed" in finding.message]


def test_defects_beyond_those_kept_are_counted(file: Path) -> None:
    """Of a million malformed lines a thousand are described and all are counted."""
    _malformed(file)
    log = load(file)
    assert len(log.defects) == MAX_DEFECTS
    assert log.defect_counts == {DefectKind.MALFORMED: 300_000}


def test_large_values_are_not_kept_for_ever(file: Path) -> None:
    """Events are kept until their text fills the room there is, and the rest is counted."""
    line = event("note", value="x" * 100_000)
    file.write_text(f"{line}\n" * (2 * MAX_KEPT_TEXT // len(line)), encoding="utf-8")
    log = load(file)
    assert sum(len(kept.event.value) for kept in log.events["note"]) < MAX_KEPT_TEXT + len(line)
    assert log.dropped + len(log.events["note"]) == log.counts["note"]


def test_file_that_grows_is_read_to_its_first_end(file: Path) -> None:
    """Reading a file ends even if another process keeps writing to it."""
    file.write_text(event("seed") + "\n", encoding="utf-8")
    stop = threading.Event()

    def grow() -> None:
        with file.open("a", encoding="utf-8") as stream:
            while not stop.is_set():
                stream.write(event("seed") + "\n")

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        assert load(file).counts["seed"] > 0
    finally:
        stop.set()
        writer.join()


# Repeated lines, which are recognised rather than decoded again.

RANK = f'{TOKEN} {{"namespace": "", "time_ms": 1700000000000, "event_type": "POINT_IN_TIME", "key": "init_start", '
RANK += '"value": null, "metadata": {"file": "x.py", "lineno": 1}}'


def with_time(text: str) -> str:
    return RANK.replace("1700000000000", text)


@pytest.mark.parametrize(
    "text", ["0700000000000", "170000000000a", "-170000000000", "+170000000000", "1_70000000000", "170000000000 "]
)
def test_repeated_line_with_a_malformed_time_is_found(file: Path, text: str) -> None:
    """A line that equals the one before except for a malformed time is reported."""
    file.write_text(f"{RANK}\n{with_time(text)}\n{RANK}\n", encoding="utf-8")
    log = load(file)
    valid = text.endswith(" ")
    assert kinds(log) == (set() if valid else {DefectKind.MALFORMED})
    assert log.counts["init_start"] == 2 + valid


@pytest.mark.parametrize("text", ["1700000000001", "9999999999999", "170000000000", "17000000000000", "1700000000.123"])
def test_repeated_line_has_its_own_time(file: Path, text: str) -> None:
    """Each of the lines that differ in their time alone is an event at its own time, however long the number."""
    lines = [RANK, with_time(text), with_time(text), RANK]
    file.write_text("\n".join(lines), encoding="utf-8")
    assert [mark.time_ms for mark in load(file).marks] == [1.7e12, float(text), float(text), 1.7e12]


def test_repeated_line_with_two_events_has_both(file: Path) -> None:
    """Repeated lines with two events each give two events each time."""
    file.write_text(f"{RANK} {RANK}\n" * 3, encoding="utf-8")
    assert load(file).counts["init_start"] == 6


# Paths that are no log.


def _missing(path: Path) -> None: ...


def _empty_directory(path: Path) -> None:
    path.mkdir()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _broken_link(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [_missing, _empty_directory, _fifo, _loop, _endless, _broken_link])
def test_path_that_is_no_log_exits_2(file: Path, make: Callable[[Path], None]) -> None:
    """A path that is not a readable file is refused: exit 2 and one clear error or finding."""
    make(file)
    result = CliRunner().invoke(main, ["check", str(file)])
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert result.output.count("log.unreadable") + result.output.lower().count("error: ") == 1, result.output


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin", "/proc/self/mem", "x" * 5000, ""])
def test_strange_path_is_refused(path: str) -> None:
    """Devices, names that are too long and other strange paths are refused or have a finding."""
    result = CliRunner().invoke(main, ["check", path])
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit)


def test_an_empty_path_is_not_the_folder_one_stands_in(log: LogFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check "$LOGS"` without LOGS is refused, also where there are logs below."""
    monkeypatch.chdir(log.path.parent)
    assert CliRunner().invoke(main, ["check", "."]).exit_code == 0
    assert CliRunner().invoke(main, ["check", ""]).exit_code == 2


@pytest.mark.parametrize("make", [_fifo, _loop, _endless, _broken_link])
def test_tree_with_what_is_no_log_exits_2(log: LogFile, make: Callable[[Path], None]) -> None:
    """One unreadable log of a tree fails the tree, and the others are judged."""
    make(log.path.with_name("result_1.txt"))
    result = CliRunner().invoke(main, ["check", "--json", str(log.path.parent)])
    assert result.exit_code == 2
    document = json.loads(result.output)
    assert len(document["logs"]) == 2
    assert [finding["rule"] for finding in document["findings"] if finding["severity"] == "ERROR"] == ["log.unreadable"]


def test_log_that_may_not_be_read_is_a_finding(log: LogFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log without permission to read is unreadable."""
    # Whoever runs the tests may be allowed to read everything, so the refusal is played.
    monkeypatch.setattr(Path, "open", _refuse)
    assert kinds(load(log.path)) == {DefectKind.UNREADABLE}


def _refuse(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")


def test_directory_that_may_not_be_searched_is_refused(log: LogFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree with an unreadable part is refused: logs that nobody sees must not pass."""

    closed = log.path.with_name("closed")
    closed.mkdir()
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path == str(closed):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(NoLogsError, match=r"cannot be searched.*closed"):
        find_logs([log.path.parent])


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A folder with 1,500 others, one in another, in which Python's own walks recurse."""
    folder = tmp_path / "deep"
    folder.mkdir()
    here = os.open(folder, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    yield folder
    # pytest's own removal recurses, too.
    subprocess.run(["rm", "-r", folder], check=True)


@pytest.mark.parametrize("verb", ["check", "score", "rcp", "report", "official", "package"])
def test_folders_too_deep_are_one_error(log: LogFile, deep: Path, verb: str) -> None:
    """A tree of 1,500 folders one in another is refused in one line by every verb that searches trees."""
    facts = log.path.rename(log.path.with_name("system.yaml"))
    facts.write_text("system_name: A", encoding="utf-8")
    more = ["--out", str(deep / "out"), "--system-yaml", str(facts)] if verb == "package" else []
    result = CliRunner().invoke(main, [verb, str(deep), *more])
    assert isinstance(result.exception, SystemExit)
    assert re.fullmatch(r"error: .*folders are nested more than 64 deep.*\n", result.output), result.output


@pytest.mark.parametrize("name", ["result_\n.txt", "result_\x1b[31m.txt", "result_\udcff.txt", "result_ .txt"])
@pytest.mark.parametrize("form", ["text", "all", "summary", "json", "junit", "sarif"])
def test_strange_names_are_printed_harmlessly(log: LogFile, name: str, form: str) -> None:
    """A log of any name is found, judged and named without control characters in the output."""
    log.drop("seed")
    log.save().rename(log.path.with_name(name))
    result = CliRunner().invoke(main, ["check", "--format", form, str(log.path.parent)])
    assert result.exit_code == 1
    assert "seed is missing" in result.output or form == "summary"
    assert all(char.isprintable() or char == "\n" for char in result.output)
    assert len([line for line in result.output.splitlines() if line.strip().startswith("ERROR")]) == (
        form in ("text", "all")
    )


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "\x00", '{"ruleset": 6}', "9" * 100_000, '"x"'])
def test_strange_provenance_is_a_warning(log: LogFile, content: str) -> None:
    """A run.json that cannot be read is a WARNING, and the log is judged."""
    log.path.with_name(RUN_JSON).write_text(content, encoding="utf-8")
    report = check_paths([log.path])
    assert [finding.rule for finding in report.findings] == ["run.provenance"]
    assert report.passed
