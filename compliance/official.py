"""Run the official mlperf_logging tools in a process of their own and read their verdicts.

Their exit status says too little, so their text is read. They only read files that compliance.rewritten has written
into a folder of ours, and see nothing of the caller's environment.
"""

from __future__ import annotations

import csv
import enum
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from benchmark.benchmarks import BENCHMARKS
from compliance.checks.events import OFFICIAL_LINE
from compliance.findings import Finding, Severity, count
from compliance.official_text import messages, shortened
from compliance.official_worker import NoAnswerError, Worker
from compliance.rewritten import Copy, rewrite

TIMEOUT_S = 600.0
"""Seconds that one tool may take; the slowest needs 30 for an organisation's tree and 40 for a log of 100 MB."""

MOST_MEMORY = 16 << 30
"""Bytes of address space that one tool may have; a log of 1 GiB takes half of it."""

_OUTPUT_LIMIT = 1 << 20
"""Bytes of a tool's output that are read, from its end."""
_LOG_OUTPUT = ("--log_output", "official.log")
_SUMMARY = "summary.csv"
_SEED_CHECK = """
import logging, sys
from mlperf_logging.package_checker.seed_checker import SeedChecker
logging.basicConfig(level=logging.INFO, format="%(levelname)s - %(message)s")
logging.info("seeds %s", "accepted" if SeedChecker(sys.argv[1]).check_seeds(sys.argv[2:]) else "refused")
"""


class Tool(enum.StrEnum):
    """The official tools, by the names of their modules."""

    COMPLIANCE = "compliance_checker"
    RCP = "rcp_checker"
    SEEDS = "seed_checker"
    SYSTEM = "system_desc_checker"
    PACKAGE = "package_checker"
    REPOSITORY = "repo_checker"
    SUMMARY = "result_summarizer"


# Tool -> the module that takes long to import, which the worker imports once.
_MODULES = {tool: f"mlperf_logging.{tool}.{tool}" for tool in Tool} | {
    Tool.COMPLIANCE: "mlperf_logging.compliance_checker.mlp_compliance",
    Tool.SEEDS: "mlperf_logging.package_checker.seed_checker",
}

# Tool -> (a line that it prints if it accepts, a line that it prints if it does not). A log can make a tool print the
# first line, but cannot keep it from printing the second.
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
class OfficialVerdict:
    """The verdict of one official tool on one file or folder."""

    tool: Tool
    path: str
    ruleset: str
    passed: bool
    messages: tuple[str, ...]
    """Its errors and warnings, or how it ended without a verdict; for the summariser, the scores in minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Official:
    """The verdicts of the official tools on a path."""

    verdicts: tuple[OfficialVerdict, ...]
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        return count(self.findings, Severity.ERROR) == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One run of one tool."""

    tool: Tool
    subject: Path
    ruleset: str
    arguments: tuple[str | Path, ...]
    """The arguments of the Python interpreter."""


Advance = Callable[[int, int], object]
"""Called after each verdict with the number of verdicts so far and the number of all."""


def judge(
    path: Path, ruleset: str | None = None, *, timeout_s: float = TIMEOUT_S, advance: Advance = lambda *_: None
) -> Official:
    """Ask every official tool that applies to a log, a folder of runs, or a tree of results.

    Args:
        ruleset: as for compliance.check.check_paths.
        timeout_s: seconds that one call of a tool may take.

    Raises:
        NoLogsError: the path does not exist, or is a folder without logs.
    """
    with tempfile.TemporaryDirectory(prefix="official-") as scratch:
        work = Path(scratch, "work")
        work.mkdir()
        copy = rewrite(path, Path(scratch), ruleset)
        unknown = tuple(_unknown_rulesets(copy))
        verdicts = () if unknown else tuple(_verdicts(copy, work, timeout_s, advance))
    rejections = (_finding(verdict) for verdict in verdicts if not verdict.passed)
    return Official(verdicts=verdicts, findings=(*copy.findings, *unknown, *_read_otherwise(copy), *rejections))


def rulesets() -> tuple[str, ...]:
    """Return the rulesets that the installed tools have; this harness may have a new one earlier.

    Raises:
        FileNotFoundError: the tools are not installed.
    """
    spec = find_spec("mlperf_logging")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("mlperf_logging is not installed")
    folders = Path(spec.origin).with_name("compliance_checker").glob("training_*")
    return tuple(sorted(folder.name.removeprefix("training_") for folder in folders))


def _unknown_rulesets(copy: Copy) -> Iterator[Finding]:
    """Yield a finding for each result whose ruleset the tools lack: some would crash, others would accept anything."""
    known = rulesets()
    for result in copy.results:
        assert result.row is not None
        if result.row.ruleset not in known:
            yield Finding(
                rule="official.ruleset",
                severity=Severity.ERROR,
                file=result.file,
                message="the installed mlperf_logging lacks this ruleset, so no official tool was asked",
                expected=f"one of {', '.join(known)}",
                actual=result.row.ruleset,
            )


def _read_otherwise(copy: Copy) -> Iterator[Finding]:
    """Yield a finding for each log of which the official parser would read other events than the copy has."""
    for run in (run for result in copy.results for run in result.runs):
        for finding in OFFICIAL_LINE.findings(run):
            yield replace(finding, rule="official.line", message=f"{finding.message}; the verdicts assume that it does")


def _finding(verdict: OfficialVerdict) -> Finding:
    return Finding(
        rule=f"official.{verdict.tool}",
        severity=Severity.ERROR,
        file=verdict.path,
        message="; ".join(verdict.messages) or "no verdict",
        expected=f"accepted by {verdict.tool} of ruleset {verdict.ruleset}",
        source=f"mlcommons/logging, {verdict.tool}",
    )


# The calls of the tools.


def _calls(copy: Copy) -> Iterator[_Call]:
    for result in copy.results:
        assert result.row is not None
        ruleset, logs = result.row.ruleset, [copy.of(run.log.path) for run in result.runs]
        for log in logs:
            yield _module(Tool.COMPLIANCE, log, ruleset, "--ruleset", ruleset, *_LOG_OUTPUT, log)
        # As in package_checker, convergence and seeds are not checked in the open division.
        if copy.original.is_dir() and not result.is_open:
            folder = copy.of(result.directory)
            yield _module(Tool.RCP, folder, ruleset, "--rcp_version", ruleset, *_LOG_OUTPUT, folder)
            yield _Call(tool=Tool.SEEDS, subject=folder, ruleset=ruleset, arguments=("-c", _SEED_CHECK, ruleset, *logs))
    for organisation, ruleset in copy.organisations.items():
        yield from _package_calls(copy.of(organisation), ruleset)


def _package_calls(folder: Path, ruleset: str) -> Iterator[_Call]:
    for system in sorted((folder / "systems").glob("*.json")):
        yield _module(Tool.SYSTEM, system, ruleset, *_LOG_OUTPUT, system, "training", ruleset)
    for tool in (Tool.PACKAGE, Tool.REPOSITORY):
        yield _module(tool, folder, ruleset, *_LOG_OUTPUT, folder, "training", ruleset)
    # Comes after the package checker, because it multiplies the scores by the scaling.json that that one writes.
    yield _module(Tool.SUMMARY, folder, ruleset, "--csv", _SUMMARY, folder, "training", ruleset)


def _module(tool: Tool, subject: Path, ruleset: str, *arguments: str | Path) -> _Call:
    module = ("-m", f"mlperf_logging.{tool}")
    return _Call(tool=tool, subject=subject, ruleset=ruleset, arguments=(*module, *arguments))


# One call and its output.


def _verdicts(copy: Copy, work: Path, timeout_s: float, advance: Advance) -> Iterator[OfficialVerdict]:
    calls = list(_calls(copy))
    with Worker(work, _environment(), MOST_MEMORY) as worker:
        for done, call in enumerate(calls, start=1):
            # Each call has a folder of its own, so that no tool sees what another left behind.
            with tempfile.TemporaryDirectory(dir=work) as folder:
                yield _ask(copy, call, worker, Path(folder), timeout_s)
            advance(done, len(calls))


def _ask(copy: Copy, call: _Call, worker: Worker, folder: Path, timeout_s: float) -> OfficialVerdict:
    lines, ended = _output(call, worker, folder, timeout_s)
    accepting, refusing = _VERDICTS[call.tool]
    accepted = not ended and _any(accepting, lines) and not _any(refusing, lines)
    texts: Sequence[str] = [ended] if ended else messages(lines, copy.logs)
    if call.tool is Tool.SUMMARY and accepted:
        texts = _scores(folder / _SUMMARY)
        accepted = bool(texts)
    return OfficialVerdict(
        tool=call.tool,
        path=copy.restore(str(call.subject)),
        ruleset=call.ruleset,
        passed=accepted,
        messages=shortened(copy.restore(message) for message in texts),
    )


def _any(pattern: str, lines: Sequence[str]) -> bool:
    return any(re.fullmatch(pattern, line) for line in lines)


def _output(call: _Call, worker: Worker, folder: Path, timeout_s: float) -> tuple[list[str], str]:
    """Return the lines that a tool printed, and how it ended without a verdict; empty if it gave one."""
    arguments = [str(argument) for argument in call.arguments]
    with tempfile.NamedTemporaryFile(dir=folder.parent) as output:
        try:
            status = worker.run(arguments, _MODULES[call.tool], folder, Path(output.name), timeout_s)
        except NoAnswerError as error:
            return [], str(error)
        lines = _last_lines(output)
    if "Traceback (most recent call last):" in lines or status not in (0, 1):
        return lines, f"crashed: {next((line for line in reversed(lines) if line.strip()), f'status {status}')}"
    return lines, ""


def _last_lines(output: IO[bytes]) -> list[str]:
    output.seek(max(0, output.seek(0, os.SEEK_END) - _OUTPUT_LIMIT))
    return output.read().decode(errors="replace").split("\n")


def _environment() -> dict[str, str]:
    """Return the environment of a tool: what it needs, and nothing else of the caller's, such as a token."""
    inherited = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    # "." is the folder of the call.
    ours = dict.fromkeys(("HOME", "TMPDIR"), ".") | dict.fromkeys(("LANG", "LC_ALL"), "C.UTF-8")
    # A thread for each processor would take address space, and no tool computes enough to need one.
    return inherited | ours | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def _scores(table: Path) -> tuple[str, ...]:
    """Read the scores that the summariser wrote, in minutes."""
    with table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return tuple(
        f"{row['system']}: {benchmark} {float(row[benchmark])}"
        for row in rows
        for benchmark in BENCHMARKS
        if row.get(benchmark)
    )
