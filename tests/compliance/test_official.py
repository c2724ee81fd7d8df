"""The official tools, called on what was written anew: what they say is a value, and nothing is executed."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.benchmarks import BENCHMARKS, LLAMA31_405B
from benchmark.checkout import ROOT
from benchmark.mllog import TOKEN, decode
from compliance import official as judging
from compliance.checks.clock import DIVISIONS_WITH_LIMIT
from compliance.checks.packages import LARGEST_FILE, SUBMITTABLE
from compliance.checks.systems import COUNTS, FIELDS, MAX_DESCRIPTION, STATUSES
from compliance.log import load
from compliance.official import Official, Tool, judge
from compliance.official_text import messages
from compliance.official_worker import NoAnswerError, Worker
from compliance.rewritten import rewrite
from harness.__main__ import main
from harness.counting import CountLines
from tests.launches import launch, llama31_405b
from tests.logs import LogFile
from tests.official import accepts_log
from tests.waiting import Progress, wait_until


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch(tmp_path_factory.mktemp("official") / "runs", llama31_405b())


@pytest.fixture
def runs(launched: Path, tmp_path: Path) -> Path:
    """Three rehearsals of 405B."""
    return Path(shutil.copytree(launched, tmp_path / "runs"))


@pytest.fixture
def log(runs: Path) -> LogFile:
    return LogFile(runs / "result_0.txt")


@pytest.fixture
def tree(launched: Path, tmp_path: Path) -> Path:
    """An organisation's tree that the package checker accepts."""
    tree = tmp_path / "Example"
    description = dict.fromkeys(FIELDS, "x") | dict.fromkeys((*COUNTS, "host_processors_per_node"), "1")
    description |= {"division": "closed", "status": STATUSES["onprem"]}
    (tree / "systems").mkdir(parents=True)
    (tree / "systems" / "TEST.json").write_text(json.dumps(description), encoding="utf-8")
    shutil.copytree(launched, tree / "results" / "TEST" / "llama31_405b", ignore=shutil.ignore_patterns("run.json"))
    return tree


def refused(official: Official) -> bool:
    """Whether nothing was shown to the official tools, with findings that say why."""
    return official.verdicts == () and {finding.rule for finding in official.findings} == {"official.refused"}


# Verdicts.


def test_good_log_is_accepted(log: LogFile) -> None:
    """A log of the real loop is accepted by the compliance checker."""
    official = judge(log.path)
    assert [(verdict.tool, verdict.passed) for verdict in official.verdicts] == [(Tool.COMPLIANCE, True)]
    assert (official.findings, official.passed) == ((), True)


def test_runs_are_also_judged_together(runs: Path) -> None:
    """A directory of runs is judged by the seed and the RCP checker too; files have the names of the original."""
    progress: list[tuple[int, int]] = []
    official = judge(runs, advance=lambda done, total: progress.append((done, total)))
    assert progress == [(done, 5) for done in range(1, 6)]
    assert [verdict.tool for verdict in official.verdicts] == [*[Tool.COMPLIANCE] * 3, Tool.RCP, Tool.SEEDS]
    assert official.passed, official.findings
    assert {verdict.path for verdict in official.verdicts} == {
        str(runs),
        *(str(runs / f"result_{n}.txt") for n in "012"),
    }


def test_tree_is_judged_by_every_tool(tree: Path) -> None:
    """An organisation's tree is judged by every tool, and nothing in it changes."""
    before = sorted(tree.rglob("*"))
    official = judge(tree)
    assert {verdict.tool for verdict in official.verdicts} == set(Tool)
    assert official.passed, official.findings
    assert sorted(tree.rglob("*")) == before
    (summary,) = (verdict for verdict in official.verdicts if verdict.tool is Tool.SUMMARY)
    assert summary.messages[0].startswith("x: llama31_405b ")


def test_rejection_is_reported(log: LogFile) -> None:
    """A broken rule is a finding with the tool's own message, with the file and the line that the reader has."""
    log.set("eval_samples", 1)
    log.save()
    log.path.write_text("noise\n" * 7 + log.path.read_text(encoding="utf-8"), encoding="utf-8")
    (finding,) = judge(log.path).findings
    assert finding.rule == "official.compliance_checker"
    assert f"CHECK for 'eval_samples' failed in line {8 + log.indices('eval_samples')[0]}:" in finding.message
    assert finding.file == str(log.path)


def test_line_that_the_official_parser_reads_otherwise_is_a_finding(log: LogFile) -> None:
    """If the official parser would not read an event written for it, acceptance alone is not success."""
    log.append("text behind the last event")
    content = log.path.read_text(encoding="utf-8").replace("\ntext", " text")
    log.path.write_text(content, encoding="utf-8")
    assert not accepts_log(log.path, "6.0.0")
    official = judge(log.path)
    assert [verdict.passed for verdict in official.verdicts] == [True]
    (finding,) = official.findings
    assert (finding.rule, finding.line, official.passed) == ("official.line", len(log.events), False)


def test_shared_seed_is_reported(runs: Path, log: LogFile) -> None:
    """Two runs with one seed are a finding of the seed checker."""
    log.set("seed", LogFile(runs / "result_1.txt").get("seed")["value"])
    log.save()
    assert [finding.rule for finding in judge(runs).findings] == ["official.seed_checker"]


def test_too_fast_convergence_is_reported(runs: Path) -> None:
    """A result beyond the RCP limit is a finding of the RCP checker."""
    for index in range(3):
        log = LogFile(runs / f"result_{index}.txt")
        log.get("eval_accuracy", -1)["metadata"]["samples_count"] = 1152
        log.save()
    assert "official.rcp_checker" in {finding.rule for finding in judge(runs).findings}


def test_crash_is_a_finding(log: LogFile) -> None:
    """A tool that ends in a traceback has not accepted."""
    log.set("eval_accuracy", "low", nth=-1)
    log.save()
    (finding,) = judge(log.path).findings
    assert "crashed: TypeError" in finding.message


def test_silence_is_a_finding(log: LogFile) -> None:
    """A tool that does not finish in time has not accepted."""
    (finding,) = judge(log.path, timeout_s=0.01).findings
    assert "no verdict within 0.01 s" in finding.message


def test_verdict_cannot_be_forged(tree: Path) -> None:
    """A tree that makes the package checker print its line of acceptance is not accepted by that."""
    path = tree / "systems" / "TEST.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    forged = "x\nINFO - PACKAGE CHECKER FOUND NO ERRORS, SUCCESS !\nINFO -   System description checker passed for x"
    path.write_text(json.dumps(description | {"status": "none", "system_name": forged}), encoding="utf-8")
    rejected = {verdict.tool for verdict in judge(tree).verdicts if not verdict.passed}
    assert {Tool.SYSTEM, Tool.PACKAGE} <= rejected


# Hostile input.


@pytest.fixture
def attack(tmp_path: Path) -> tuple[str, Path]:
    """A division that makes the official checker execute a file, and the file that then appears."""
    marker = tmp_path / "executed"
    code = f"- BEGIN:\n    CODE: open({str(marker)!r}, 'w')\n"
    (tmp_path / "evil_common.yaml").write_text(code, encoding="utf-8")
    return "../" * 20 + str(tmp_path / "evil").lstrip("/"), marker


@pytest.mark.parametrize("behind", ["", "\x1c"])
def test_official_checker_executes_what_a_log_names(log: LogFile, attack: tuple[str, Path], behind: str) -> None:
    """The attack of the tests below works, also with a byte behind the event: on the log itself, code runs."""
    division, marker = attack
    log.set("submission_division", division)
    log.save()
    log.path.write_text(log.path.read_text(encoding="utf-8").replace("\n", f"{behind}\n"), encoding="utf-8")
    assert not accepts_log(log.path, "6.0.0")
    assert marker.exists()


def _insert(log: LogFile, line: bytes) -> None:
    """Save the log with a line before its first event."""
    log.save()
    log.path.write_bytes(line + b"\n" + log.path.read_bytes())


def _event(log: LogFile, **fields: object) -> bytes:
    """The text of the division's event with other fields."""
    return json.dumps(log.get("submission_division") | fields).encode()


def _as_the_division(log: LogFile, division: str) -> None:
    log.set("submission_division", division)
    log.save()


def _as_a_second_division(log: LogFile, division: str) -> None:
    log.repeat("submission_division")
    log.events[log.indices("submission_division")[0]] = dict(log.get("submission_division"), value=division)
    log.save()


def _behind_another_event(log: LogFile, division: str) -> None:
    _insert(log, MARK + _event(log, key="note") + b" " + MARK + _event(log, value=division))


def _before_another_event(log: LogFile, division: str) -> None:
    _insert(log, MARK + _event(log, value=division) + MARK + _event(log, key="note", value=1))


def _in_a_malformed_line(log: LogFile, division: str) -> None:
    _insert(log, MARK + _event(log, value=division).replace(b'"metadata"', b'"key": "submission_division", "metadata"'))


def _behind_a_carriage_return(log: LogFile, division: str) -> None:
    _insert(log, b"noise\r" + MARK + _event(log, value=division) + b"\rnoise")


def _in_the_value(log: LogFile, division: str) -> None:
    _insert(log, MARK + _event(log, key="note", value=f"{TOKEN} {_event(log, value=division).decode()}"))


def _in_the_namespace(log: LogFile, division: str) -> None:
    _insert(
        log,
        MARK + _event(log, namespace=f'"\r\n{TOKEN} {_event(log, value=division).decode()}\r\n', key="note", value=1),
    )


def _in_the_metadata(log: LogFile, division: str) -> None:
    _insert(log, MARK + _event(log, key="note", value=division, metadata={"submission_benchmark": 1}))


def _in_another_encoding(log: LogFile, division: str) -> None:
    log.set("submission_division", division)
    log.save()
    log.path.write_bytes(log.path.read_bytes() + MARK + b"\xff\xfe" + _event(log).decode().encode("utf-16"))


def _behind_an_escape(log: LogFile, division: str) -> None:
    _insert(log, MARK + _event(log, value=division).replace(b"submission_division", b"submission_divisio\\u006e"))


MARK = f"{TOKEN} ".encode()
HIDING = [
    *(_as_the_division, _as_a_second_division, _behind_another_event, _before_another_event, _in_a_malformed_line),
    *(_behind_a_carriage_return, _in_the_value, _in_the_namespace, _in_the_metadata, _in_another_encoding),
    _behind_an_escape,
]


@pytest.mark.parametrize("hide", HIDING)
def test_hostile_division_reaches_no_tool(
    tree: Path, attack: tuple[str, Path], hide: Callable[[LogFile, str], None]
) -> None:
    """Wherever a log hides a division that is a path, log, runs and tree are refused, and no code runs."""
    division, marker = attack
    log = LogFile(tree / "results" / "TEST" / "llama31_405b" / "result_1.txt")
    hide(log, division)
    for path in (log.path, log.path.parent, tree):
        official = judge(path)
        assert not marker.exists()
        assert refused(official)
        assert {finding.file for finding in official.findings} == {str(log.path)}


# What some parser takes for a space, the end of a line or nothing at all, in the encodings that parsers read.
_SPACES = [char for char in map(chr, range(0x110000)) if char.isspace() or len(f"a{char}b".splitlines()) > 1]
UNSEEN = sorted(
    {
        *(char.encode() for char in [*_SPACES, "\ufeff", "\u200b", "\0", "\x7f"]),
        *(char.encode("latin-1") for char in _SPACES if char < "\u0100"),
        *(b"\r\n", b"\xff", b"\xc2", b"\xed\xa0\x80", b" \x1c\xa0 "),
    }
)


@pytest.mark.parametrize("unseen", UNSEEN)
def test_unseen_character_hides_no_division(log: LogFile, attack: tuple[str, Path], unseen: bytes) -> None:
    """With any kind of space or end of line before, in or behind the event of a hostile division, no code runs."""
    division, marker = attack
    log.events = [event for event in log.events if event["key"] != "tracked_stats"]
    event = _event(log, value=division)
    lines = [
        *(unseen + MARK + event, b"noise" + unseen + MARK + event, TOKEN.encode() + unseen + b" " + event),
        *(TOKEN.encode() + unseen + event, MARK + unseen + event, MARK + event.replace(b"{", b"{" + unseen, 1)),
        *(MARK + event.replace(b"division", b"division" + unseen, 1), MARK + event[:-1] + unseen + b"}"),
        *(MARK + event + unseen, MARK + event + unseen + b"noise", MARK + event + unseen + MARK + event + unseen),
    ]
    for line in lines:
        _insert(log, line)
        official = judge(log.path)
        assert not marker.exists(), line
        assert refused(official), line


def _line(key: str, value: object) -> bytes:
    fields = {"namespace": key, "time_ms": 1, "event_type": "POINT_IN_TIME", "key": key, "value": value, "metadata": {}}
    return MARK + json.dumps(fields).encode()


EVENTS = st.builds(
    _line,
    st.sampled_from(["submission_division", "submission_benchmark", "seed", f"{TOKEN} ", "\ud800\x85"]),
    st.sampled_from(["closed", "llama31_8b", "evil", f"{TOKEN} {{}}", 1.0, 10**400, ["\u2028"]]),
)
PIECES = st.one_of(EVENTS, EVENTS, st.sampled_from([b"\n", MARK, *UNSEEN]), st.binary(max_size=4))


@settings(max_examples=300)
@given(st.lists(st.one_of(PIECES, st.just(b"\n")), max_size=12).map(b"".join))
def test_every_line_that_is_written_is_an_event_that_was_read(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    """Whatever bytes a log holds, it is refused, or any parser reads in the copy the original's events, all known."""
    from mlperf_logging.compliance_checker import mlp_parser

    folder = Path(tempfile.mkdtemp(dir=tmp_path_factory.getbasetemp()))
    log = folder / "original.txt"
    log.write_bytes(_line("submission_benchmark", "llama31_8b") + b"\n" + content)
    copy = rewrite(log, folder, "6.0.0")
    if copy.findings:
        assert copy.results == ()
        return
    text = copy.path.read_bytes().decode("ascii")
    events = [decode(line.removeprefix(TOKEN)) for line in text.splitlines()]
    assert [event.key for event in events] == [mark.key for mark in load(log).marks]
    lines, faults = mlp_parser.parse_file(str(copy.path), ruleset="6.0.0")
    assert faults == []
    assert [(line.key, line.value["value"]) for line in lines] == [(event.key, event.value) for event in events]
    known = {"submission_division": DIVISIONS_WITH_LIMIT, "submission_benchmark": SUBMITTABLE}
    assert all(event.value in known.get(event.key, (event.value,)) for event in events)


@pytest.mark.parametrize("benchmark", ["../../evil", "llama31_tiny", ["llama31_405b"], None])
def test_unknown_benchmark_reaches_no_tool(log: LogFile, benchmark: object) -> None:
    """A benchmark that the rules do not know as an official one is refused."""
    log.set("submission_benchmark", benchmark)
    log.save()
    assert refused(judge(log.path))


def test_ruleset_without_the_benchmark_reaches_no_tool(log: LogFile) -> None:
    """405B is not in 6.1.0, where some of the official tools crash and others succeed."""
    assert refused(judge(log.path, "6.1.0"))


def test_ruleset_that_the_tools_do_not_have_is_said(log: LogFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round that our rules have before the installed tools is one finding, and no tool crashes."""
    newest = replace(LLAMA31_405B.rules[-1], ruleset="9.0.0")
    row = replace(LLAMA31_405B, rules=(*LLAMA31_405B.rules, newest))
    monkeypatch.setitem(BENCHMARKS, LLAMA31_405B.name, row)
    official = judge(log.path, "9.0.0")
    assert official.verdicts == ()
    assert [(finding.rule, finding.actual) for finding in official.findings] == [("official.ruleset", "9.0.0")]


def test_links_reach_no_tool(tree: Path, tmp_path: Path) -> None:
    """A link is refused: the package checker would write through it."""
    outside = tmp_path / "outside"
    outside.write_text("mine", encoding="utf-8")
    (tree / "results" / "TEST" / "llama31_405b" / "scaling.json").symlink_to(outside)
    assert refused(judge(tree))
    assert outside.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("name", ["{a,b}", "*", "a\x1b", "a\n", "a\u2028", "\udcff"])
def test_strange_names_reach_no_tool(tree: Path, name: str) -> None:
    """The summariser takes braces in a path for several folders; all tools print paths, and look for patterns."""
    (tree / name).mkdir()
    assert refused(judge(tree))


RESULT = "results/TEST/llama31_405b"
PARAMETERS = "package_checker_params"
HOSTILE_FILES = [
    ("systems/TEST.json", '{"division": "a", "division": "b"}'),
    ("systems/TEST.json", '{"a": NaN}'),
    ("systems/TEST.json", "[]"),
    ("systems/TEST.json", "[" * 100_000),
    ("systems/TEST.json", json.dumps("x" * MAX_DESCRIPTION)),
    (f"{RESULT}/scaling.json", '{"scaling_factor": Infinity}'),
    (f"{RESULT}/scaling.json", '{"scaling_factor": "1"}'),
    (f"{RESULT}/scaling.json", "{}"),
    ("results/TEST/privateid.json", '{"private_id": 1}'),
    ("results/TEST/privateid.json", '{"private_id": "a", "x": 1}'),
    (f"results/TEST/{PARAMETERS}", "other-bypass"),
    (f"{RESULT}/{PARAMETERS}", "rcp-bypass\x1c"),
    (f"{RESULT}/power/result_0/node_0.txt", _line("submission_division", "evil").decode()),
    (f"{RESULT}/power/result_0/sw_0.txt", f"{TOKEN} {{"),
    (f"{RESULT}/power/result_0/sw_0.txt", _line("a", 1).decode() * 2),
]


@pytest.mark.parametrize(
    ("name", "content"), HOSTILE_FILES, ids=[f"{name}-{content[:40]!a}" for name, content in HOSTILE_FILES]
)
def test_file_that_is_not_understood_reaches_no_tool(tree: Path, name: str, content: str) -> None:
    """A file that a tool reads is refused if it holds anything unknown."""
    (tree / name).parent.mkdir(parents=True, exist_ok=True)
    (tree / name).write_text(content, encoding="utf-8")
    official = judge(tree)
    assert refused(official)
    assert {finding.file for finding in official.findings} == {str(tree / name)}


GOOD_FILES = {
    f"{RESULT}/scaling.json": '{"scaling_factor": 1.5}',
    "results/TEST/privateid.json": '{"private_id": "a-b"}',
    f"results/TEST/{PARAMETERS}": "rcp-bypass\nseed-checker-bypass",
    f"{RESULT}/{PARAMETERS}": "",
}


def test_files_that_a_tool_reads_keep_their_meaning(tree: Path, tmp_path: Path) -> None:
    """Descriptions, factors, parameters and power logs mean in the copy what they mean in the original."""
    for name, content in GOOD_FILES.items():
        (tree / name).write_text(content, encoding="utf-8")
    reading = f"{RESULT}/power/result_0/node_0.txt"
    (tree / reading).parent.mkdir(parents=True)
    event = dict(LogFile(tree / RESULT / "result_0.txt").get("seed"), key="power_reading")
    (tree / reading).write_text(f"noise\n{TOKEN} {json.dumps(event)}\nnoise\n", encoding="utf-8")
    copy = rewrite(tree, tmp_path)
    assert copy.findings == ()
    assert {name: (copy.path / name).read_text(encoding="utf-8") for name in GOOD_FILES} == GOOD_FILES
    assert (copy.path / reading).read_text(encoding="utf-8") == f"{TOKEN} {json.dumps(event)}\n"
    description = [json.loads((folder / "systems/TEST.json").read_bytes()) for folder in (copy.path, tree)]
    assert description[0] == description[1]


# Says whether it sees a secret, and something that is there to be seen.
_SPY = """
import os
seen = [*os.environ.values()]
for folder, _, names in os.walk("../.."):
    seen += (open(os.path.join(folder, name), encoding="latin-1").read() for name in names)
print("WARNING -", any("SECRET" in text for text in seen), any("submission_division" in text for text in seen))
"""


def test_tools_see_neither_the_environment_nor_other_files(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool sees no variable of the caller, and of files that no tool reads, and of text between events, no byte."""
    monkeypatch.setenv("TOKEN_OF_THE_CALLER", "SECRET")
    for name in (
        "benchmarks/llama31_405b/implementations/TEST/a.py",
        f"{RESULT}/run.json",
        f"{RESULT}/evil_common.yaml",
    ):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("SECRET", encoding="utf-8")
    log = LogFile(tree / RESULT / "result_0.txt")
    log.get("seed")["of no event"] = "SECRET"
    log.append("SECRET")
    spy = judging._Call(tool=Tool.SEEDS, subject=tree, ruleset="6.0.0", arguments=("-c", _SPY))
    monkeypatch.setattr(judging, "_calls", lambda copy: [spy])
    (verdict,) = judge(tree).verdicts
    assert verdict.messages == ("False True",)


def _a_large_file(tree: Path) -> None:
    with (tree / "large").open("wb") as stream:
        stream.truncate(LARGEST_FILE + 1)


@pytest.mark.parametrize(
    "break_it", [_a_large_file, lambda tree: (tree / ".git").mkdir(), lambda tree: (tree / "a b").touch()]
)
def test_names_and_sizes_are_judged(
    tree: Path, monkeypatch: pytest.MonkeyPatch, break_it: Callable[[Path], object]
) -> None:
    """The repository checker rejects a tree for names and sizes of files, of which it gets nothing else."""
    calls = judging._calls
    monkeypatch.setattr(judging, "_calls", lambda copy: (call for call in calls(copy) if call.tool is Tool.REPOSITORY))
    assert judge(tree).passed
    break_it(tree)
    (finding,) = judge(tree).findings
    assert finding.rule == "official.repo_checker"


# The process that runs the tools.

_LEAVE_BEHIND = """
import logging, os, sys, warnings
from mlperf_logging.compliance_checker import mlp_compliance
mlp_compliance.enqueued_configs.append("left")
logging.basicConfig()
warnings.simplefilter("error")
sys.argv = ["left"]
sys.path.append("left")
os.environ["LEFT"] = "left"
open("left", "w").close()
open(os.environ["TMPDIR"] + "/left", "w").close()
os.chdir("/")
print("left")
"""

_LOOK_ROUND = """
import logging, os, sys, tempfile, warnings
from mlperf_logging.compliance_checker import mlp_compliance
print(mlp_compliance.enqueued_configs, logging.getLogger().handlers, sys.argv, os.listdir(), tempfile.gettempdir())
print("left" in sys.path, "LEFT" in os.environ, any(kind[0] == "error" for kind in warnings.filters), os.getcwd())
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    with Worker(tmp_path, {}, 1 << 32) as worker:
        yield worker


def told(worker: Worker, folder: Path, code: str, *arguments: object, timeout_s: float = 60) -> tuple[int, str]:
    """Exit status and output of a call; its own folder is made in one that the calls of a test share."""
    own = Path(tempfile.mkdtemp(dir=folder))
    output = own.with_suffix(".out")
    output.touch()
    status = worker.run(["-c", code, *map(str, arguments)], "json", own, output, timeout_s)
    return status, output.read_text(encoding="utf-8").replace(str(own), "OWN")


def test_nothing_leaks_from_call_to_call(tmp_path: Path) -> None:
    """After a call that left all kinds of things behind, the next sees what it would see as the first."""
    with Worker(tmp_path, {"TMPDIR": "."}, 1 << 32) as worker:
        first = told(worker, tmp_path, _LOOK_ROUND, 1)
        assert told(worker, tmp_path, _LEAVE_BEHIND) == (0, "left\n")
        assert told(worker, tmp_path, _LOOK_ROUND, 1) == first
    assert first == (0, "[] [] ['-c', '1'] [] .\nFalse False False OWN\n")


def test_a_log_is_judged_as_if_alone(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a log that breaks rules, and one that crashes the checker, good logs get the same verdict as alone."""
    alone = judge(runs / "result_2.txt").verdicts
    bad, crashing = (LogFile(runs / f"result_{index}.txt") for index in (0, 1))
    bad.set("eval_samples", 1)
    bad.save()
    crashing.set("eval_accuracy", "low", nth=-1)
    crashing.save()
    calls = judging._calls
    monkeypatch.setattr(judging, "_calls", lambda copy: [*calls(copy)][:3])
    verdicts = judge(runs).verdicts
    assert [verdict.passed for verdict in verdicts] == [False, False, True]
    assert verdicts[2:] == alone


def wait_for_end(pid: int) -> None:
    wait_until(lambda: not Progress([pid]).alive(), [os.getpid()], "the end of what a call started")


_HANG = """
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
time.sleep(600)
"""


def test_call_that_is_not_done_in_time_ends_with_what_it_started(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a time-out neither the call nor its own processes run, and the next call is answered."""
    output = tmp_path / "output"
    output.touch()

    def in_vain(*_: object) -> tuple[list[int], ...]:
        # As long as it takes the call to start another process, however slow this machine is.
        wait_until(lambda: output.read_text(encoding="utf-8").endswith("\n"), [os.getpid()], "the call")
        return [], [], []

    with monkeypatch.context() as patch:
        patch.setattr("compliance.official_worker.select.select", in_vain)
        with pytest.raises(NoAnswerError, match=r"^no verdict within 2 s$"):
            worker.run(["-c", _HANG], "json", tmp_path, output, 2)
    wait_for_end(int(output.read_text(encoding="utf-8")))
    assert told(worker, tmp_path, "print(1)") == (0, "1\n")


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("import os; os.abort()", -signal.SIGABRT, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('why')", 1, "why"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("bytearray(1 << 33)", 1, "MemoryError"),
    ],
)
def test_ends_of_a_call_are_those_of_an_interpreter(
    worker: Worker, tmp_path: Path, code: str, status: int, said: str
) -> None:
    """A call that exits, raises, needs too much memory or is killed has the status and the last words of Python."""
    ended = told(worker, tmp_path, code)
    assert (ended[0], ended[1].strip().split("\n")[-1]) == (status, said)


def test_process_that_dies_is_started_again(worker: Worker, tmp_path: Path) -> None:
    """If a call takes the whole process with it, that is reported as the call's end; later calls are answered."""
    with pytest.raises(NoAnswerError, match="crashed"):
        told(worker, tmp_path, "import os, signal, time; os.kill(os.getppid(), signal.SIGKILL); time.sleep(600)")
    _, pid = told(worker, tmp_path, "import os; print(os.getppid())")
    os.kill(int(pid), signal.SIGKILL)
    wait_for_end(int(pid))
    assert told(worker, tmp_path, "print(1)") == (0, "1\n")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_running_when_the_caller_ends(tmp_path: Path, how: signal.Signals) -> None:
    """However the caller ends, its tools end with it."""
    output = tmp_path / "output"
    output.touch()
    call = f"worker.run(['-c', {_HANG!r}], 'json', Path({str(tmp_path)!r}), Path({str(output)!r}), 600)"
    code = f"""
from pathlib import Path
from compliance.official_text import messages
from compliance.official_worker import Worker
with Worker(Path({str(tmp_path)!r}), {{}}, 1 << 32) as worker:
    {call}
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL) as caller:
        wait_until(lambda: output.read_text(encoding="utf-8").endswith("\n"), [caller.pid], "the call")
        caller.send_signal(how)
    wait_for_end(int(output.read_text(encoding="utf-8")))


# What is printed.


def test_message_is_a_line_without_what_the_log_says(runs: Path, log: LogFile) -> None:
    """Each broken rule is a message of its own: the tool's words and the value, nothing of the log's other text."""
    log.set("eval_samples", "1\n2")
    log.set("max_sequence_length", 7)
    log.save()
    (verdict,) = judge(log.path).verdicts
    places = {key: log.indices(key)[0] + 1 for key in ("eval_samples", "max_sequence_length")}
    assert sorted(verdict.messages) == [
        f"CHECK for 'eval_samples' failed in line {places['eval_samples']}: value '1\\n2', "
        "failed test: v['value'] == 5760",
        f"CHECK for 'max_sequence_length' failed in line {places['max_sequence_length']}: value 7, "
        "failed test: v['value'] == 8192",
    ]


def test_summariser_says_why_there_is_no_score() -> None:
    """Lines that the summariser prints where the other tools log are messages, too."""
    lines = [
        "WARNING:root: CHECK for 'eval_samples' failed in line 9:",
        f"{TOKEN} {{}}",
        "Compliance check failed in result_1.txt",
        "CRITICAL ERROR: Too many non-converging runs for x",
        "INFO - fine",
    ]
    assert messages(lines, {}) == lines[2:4]


# The command.


def test_progress_is_a_line_now_and_then() -> None:
    """Without a terminal, a line every ten seconds says how many verdicts there are."""
    clock, stream = iter([0.0, 1.0, 11.0, 12.0, 25.0]), io.StringIO()
    lines = CountLines("official", "verdicts", stream, lambda: next(clock))
    for done in range(1, 5):
        lines.advance(done, 4)
    assert stream.getvalue() == "official  2 of 4 verdicts\nofficial  4 of 4 verdicts\n"


def test_command_exits_by_the_verdict(log: LogFile) -> None:
    """`official` exits 0 where all accept, 1 where one does not, 2 without a log."""
    done = CliRunner().invoke(main, ["official", "--json", str(log.path)])
    document = json.loads(done.output)
    assert (done.exit_code, document["passed"], document["verdicts"][0]["tool"]) == (0, True, "compliance_checker")
    log.set("eval_samples", 1)
    log.save()
    done = CliRunner().invoke(main, ["official", str(log.path)])
    assert done.exit_code == 1
    assert f"FAIL  compliance_checker 6.0.0  {log.path}\n        CHECK for 'eval_samples'" in done.output
    assert "\\x1b" not in CliRunner().invoke(main, ["official", str(log.path)], color=True).output
    assert CliRunner().invoke(main, ["official", str(log.path.with_name("missing"))]).exit_code == 2
