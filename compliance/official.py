"""The official mlperf_logging tools, as subprocesses on a copy; their text is read, their exit status says too little.

Their checkers format what a log says into the path of a rule file and execute that file. So a log reaches them only
when every value that they would use is a known one; otherwise it is refused here, with a finding.
"""

from __future__ import annotations

import csv
import enum
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from benchmark.benchmarks import BENCHMARKS, UnknownRules, benchmark_named, find
from compliance.check import PROVENANCE, find_logs, open_result
from compliance.clock_checks import DIVISIONS_WITH_LIMIT
from compliance.findings import Finding, Severity, count, show
from compliance.result_checks import Result
from compliance.run import Run

TIMEOUT_S = 600.0
"""Seconds one tool may take; the slowest needs 30 for an organisation's tree, or 40 for a log of 100 MB."""

MOST_MESSAGES = 20
MESSAGE_LENGTH = 300
_OUTPUT_LIMIT = 1 << 20
_HARMFUL_NAME = re.compile(r"[{}\x00-\x1f]")
_MESSAGE = re.compile(r"^(?:ERROR|WARNING) - (.*?)(?=^(?:ERROR|WARNING|INFO) - |\Z)", re.MULTILINE | re.DOTALL)
_OFFICIAL_TOKEN = ":::MLLOG "
_LOG_OUTPUT = ("--log_output", "official.log")
_SUMMARY = "summary.csv"
_SEED_CHECK = """
import logging, sys
from mlperf_logging.package_checker.seed_checker import SeedChecker
logging.basicConfig(level=logging.INFO, format="%(levelname)s - %(message)s")
logging.info("seeds %s", "accepted" if SeedChecker(sys.argv[1]).check_seeds(sys.argv[2:]) else "refused")
"""


class Tool(enum.StrEnum):
    """The tools, by the names of their modules."""

    COMPLIANCE = "compliance_checker"
    RCP = "rcp_checker"
    SEEDS = "seed_checker"
    SYSTEM = "system_desc_checker"
    PACKAGE = "package_checker"
    REPOSITORY = "repo_checker"
    SUMMARY = "result_summarizer"


# Tool -> (a line that it prints where it accepts, a line that it prints where it does not). A log can make a tool print
# the first one, but not keep it from printing the second.
_VERDICTS = {
    Tool.COMPLIANCE: (r"INFO - SUCCESS", r"ERROR - FAILED"),
    Tool.RCP: (r"INFO - .*, RCP test PASSED", r"ERROR - .*RCP test FAILED.*"),
    Tool.SEEDS: (r"INFO - seeds accepted", r"INFO - seeds refused"),
    Tool.SYSTEM: (r"INFO -   System description checker passed .*", r"ERROR - .*"),
    Tool.PACKAGE: (r"INFO - PACKAGE CHECKER FOUND NO ERRORS, SUCCESS !", r"INFO - PACKAGE CHECKER FOUND ERRORS.*"),
    Tool.REPOSITORY: (r"INFO - ALL CHECKS PASSED\.", r"INFO - CHECKS FAILED\."),
    Tool.SUMMARY: (r"Strong Scaling Scores:", r".*CRITICAL ERROR.*"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one official tool says about one file or folder."""

    tool: Tool
    path: str
    ruleset: str
    passed: bool
    messages: tuple[str, ...]
    """Its errors and warnings, or how it ended without a verdict; of the summariser, the scores in minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Official:
    """What the official tools say about a path."""

    verdicts: tuple[Verdict, ...]
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        return count(self.findings, Severity.ERROR) == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copy:
    """Where the files lie that the tools see, and what they are copies of."""

    original: Path
    path: Path
    work: Path
    """The folder that the tools write their own logs into."""
    timeout_s: float

    def restore(self, text: str) -> str:
        """A text of a tool with the names that the reader knows."""
        return text.replace(str(self.path), str(self.original))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One run of one tool."""

    tool: Tool
    subject: Path
    ruleset: str
    arguments: tuple[str | Path, ...]
    """Of the interpreter."""


def judge(path: Path, ruleset: str | None = None, *, timeout_s: float = TIMEOUT_S) -> Official:
    """Ask every official tool that applies to a log, a directory of runs, or a tree of results.

    Args:
        ruleset: as compliance.check.check_paths.

    Raises:
        NoLogs: the path does not exist, or is a directory without logs.
    """
    find_logs([path])
    with tempfile.TemporaryDirectory(prefix="official-") as scratch:
        copy, findings = _copied(path, Path(scratch), timeout_s)
        results = [open_result(group, ruleset) for group in find_logs([copy.path])] if not findings else []
        findings += [_refusal(copy, run, why) for result in results for run in result.runs if (why := _hostile(run))]
        verdicts = () if findings else tuple(_ask(copy, call) for call in _calls(copy, results))
    findings += [_finding(verdict) for verdict in verdicts if not verdict.passed]
    return Official(verdicts=verdicts, findings=tuple(findings))


def _finding(verdict: Verdict) -> Finding:
    return Finding(
        rule=f"official.{verdict.tool}",
        severity=Severity.ERROR,
        file=verdict.path,
        message="; ".join(verdict.messages) or "no verdict",
        expected=f"accepted by {verdict.tool} of ruleset {verdict.ruleset}",
        source=f"mlcommons/logging, {verdict.tool}",
    )


# The copy, which the tools also write into.


def _copied(original: Path, scratch: Path, timeout_s: float) -> tuple[_Copy, list[Finding]]:
    """A copy of the files and folders, and a finding for each thing that is neither or has a name of harm."""
    tree, work = scratch / "tree", scratch / "work"
    work.mkdir()
    if original.is_dir():
        copy = _Copy(original=original, path=tree, work=work, timeout_s=timeout_s)
        return copy, [_finding_of_copy(path) for path in _copy_tree(original, tree)]
    copy = _Copy(original=original, path=tree / "result_0.txt", work=work, timeout_s=timeout_s)
    tree.mkdir()
    if not original.is_file() or not _copy_file(original, copy.path):
        return copy, [_finding_of_copy(original)]
    if (provenance := original.with_name(PROVENANCE)).is_file():
        _copy_file(provenance, tree / PROVENANCE)
    return copy, []


def _copy_tree(source: Path, target: Path) -> Iterator[Path]:
    """Copy files and folders; yields what is left out."""
    for folder, folders, names in os.walk(source):
        here = target / Path(folder).relative_to(source)
        here.mkdir(parents=True)
        entries = {name: Path(folder, name) for name in [*folders, *names]}
        kept = {name for name, path in entries.items() if _is_plain(path) and not _HARMFUL_NAME.search(name)}
        yield from (path for name, path in entries.items() if name not in kept)
        yield from (entries[name] for name in names if name in kept and not _copy_file(entries[name], here / name))
        folders[:] = [name for name in folders if name in kept]


def _is_plain(path: Path) -> bool:
    """Whether it is a file or a folder itself; a link may point anywhere, and the tools write."""
    return stat.S_IFMT(path.lstat().st_mode) in (stat.S_IFREG, stat.S_IFDIR)


def _copy_file(source: Path, target: Path) -> bool:
    try:
        shutil.copyfile(source, target)
    except OSError:
        return False
    return True


def _finding_of_copy(path: Path) -> Finding:
    return Finding(
        rule="official.refused",
        severity=Severity.ERROR,
        file=str(path),
        message="not shown to the official tools",
        expected="readable files and folders, without braces or control characters in their names",
    )


# What the tools must not read.


def _refusal(copy: _Copy, run: Run, why: str) -> Finding:
    return Finding(
        rule="official.refused",
        severity=Severity.ERROR,
        file=copy.restore(run.file),
        message="not shown to the official tools, which execute files that a log names",
        expected="a readable log with a known division and benchmark",
        actual=why,
    )


def _hostile(run: Run) -> str:
    """Why the official tools must not see a log; empty if they may."""
    if run.log.defects:
        defect = run.log.defects[0]
        return f"line {defect.line}: {defect.message}"
    for line, key, value in _as_official_parser(run.log.path):
        if key == "submission_division" and value not in DIVISIONS_WITH_LIMIT:
            return f"line {line}: {key} {show(value)}"
        if key == "submission_benchmark" and not _known(value, run.ruleset):
            return f"line {line}: {key} {show(value)} in ruleset {run.ruleset or 'latest'}"
    return "" if run.row is not None else "no submission_benchmark"


def _known(benchmark: object, ruleset: str | None) -> bool:
    try:
        return isinstance(benchmark, str) and benchmark_named(find(benchmark, ruleset).benchmark).submittable
    except UnknownRules:
        return False


def _as_official_parser(path: Path) -> Iterator[tuple[int, object, object]]:
    """Yield line, key and value of each event as the official parsers see it: what follows the last token of a line."""
    with path.open(encoding="latin-1") as lines:
        for number, line in enumerate(lines, start=1):
            _, token, text = line.rpartition(_OFFICIAL_TOKEN)
            event = _lenient(text) if token else None
            if isinstance(event, dict):
                yield number, event.get("key"), event.get("value")


def _lenient(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


# The tools and their arguments.


def _calls(copy: _Copy, results: Sequence[Result]) -> Iterator[_Call]:
    for result in results:
        assert result.row is not None
        ruleset = result.row.ruleset
        for run in result.runs:
            yield _module(Tool.COMPLIANCE, run.log.path, ruleset, "--ruleset", ruleset, *_LOG_OUTPUT, run.log.path)
        if copy.path.is_dir():
            yield _module(Tool.RCP, result.directory, ruleset, "--rcp_version", ruleset, *_LOG_OUTPUT, result.directory)
            logs = [str(run.log.path) for run in result.runs]
            arguments = ("-c", _SEED_CHECK, ruleset, *logs)
            yield _Call(tool=Tool.SEEDS, subject=result.directory, ruleset=ruleset, arguments=arguments)
    for organisation, ruleset in _organisations(copy.path, results).items():
        yield from _package_calls(organisation, ruleset)


def _organisations(root: Path, results: Sequence[Result]) -> dict[Path, str]:
    """The folders that look like an organisation's, each with the ruleset of its first result."""
    found: dict[Path, str] = {}
    for result in results:
        assert result.row is not None
        above = [folder for folder in result.directory.parents if folder == root or root in folder.parents]
        for folder in above:
            if (folder / "systems").is_dir() and (folder / "results").is_dir():
                found.setdefault(folder, result.row.ruleset)
    return found


def _package_calls(folder: Path, ruleset: str) -> Iterator[_Call]:
    for system in sorted((folder / "systems").glob("*.json")):
        yield _module(Tool.SYSTEM, system, ruleset, *_LOG_OUTPUT, system, "training", ruleset)
    for tool in (Tool.PACKAGE, Tool.REPOSITORY):
        yield _module(tool, folder, ruleset, *_LOG_OUTPUT, folder, "training", ruleset)
    # After the package checker: the scores are multiplied by the scaling.json that it writes.
    yield _module(Tool.SUMMARY, folder, ruleset, "--csv", _SUMMARY, folder, "training", ruleset)


def _module(tool: Tool, subject: Path, ruleset: str, *arguments: str | Path) -> _Call:
    module = ("-m", f"mlperf_logging.{tool}")
    return _Call(tool=tool, subject=subject, ruleset=ruleset, arguments=(*module, *arguments))


# One call and its text.


def _ask(copy: _Copy, call: _Call) -> Verdict:
    lines, ended = _output(copy, call)
    accepting, refusing = _VERDICTS[call.tool]
    accepted = not ended and _any(accepting, lines) and not _any(refusing, lines)
    messages = (ended,) if ended else tuple(islice(_messages(lines), MOST_MESSAGES))
    if call.tool is Tool.SUMMARY and accepted:
        messages = _scores(copy.work / _SUMMARY)
        accepted = bool(messages)
    return Verdict(
        tool=call.tool,
        path=copy.restore(str(call.subject)),
        ruleset=call.ruleset,
        passed=accepted,
        messages=tuple(copy.restore(message)[:MESSAGE_LENGTH] for message in messages),
    )


def _any(pattern: str, lines: Sequence[str]) -> bool:
    return any(re.fullmatch(pattern, line) for line in lines)


def _output(copy: _Copy, call: _Call) -> tuple[list[str], str]:
    """The lines that a tool printed, and how it ended where that is no verdict."""
    # -P: nothing is imported from the current directory.
    command = [sys.executable, "-P", *map(str, call.arguments)]
    with tempfile.TemporaryFile() as output:
        try:
            status = subprocess.run(
                command, cwd=copy.work, stdout=output, stderr=subprocess.STDOUT, timeout=copy.timeout_s, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return [], f"no verdict within {copy.timeout_s:g} s"
        output.seek(max(0, output.seek(0, os.SEEK_END) - _OUTPUT_LIMIT))
        lines = output.read().decode(errors="replace").split("\n")
    crash = next((line for line in reversed(lines) if line.strip()), "")
    return lines, f"crashed: {crash}" if "Traceback (most recent call last):" in lines or status not in (0, 1) else ""


def _messages(lines: Sequence[str]) -> Iterator[str]:
    """The errors and warnings, each with the lines that belong to it."""
    return (" ".join(message.split()) for message in _MESSAGE.findall("\n".join(lines)))


def _scores(table: Path) -> tuple[str, ...]:
    """The scores that the summariser wrote, in minutes."""
    with table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return tuple(
        f"{row['system']}: {benchmark} {float(row[benchmark])}"
        for row in rows
        for benchmark in BENCHMARKS
        if row.get(benchmark)
    )
