"""From paths to findings: a log, a directory of runs, or any tree that holds some."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from compliance.findings import Finding, Severity, count
from compliance.log import DefectKind, load
from compliance.result_checks import Result, check_result
from compliance.run import Run
from compliance.run_checks import check_run

PROVENANCE = "run.json"
_PROVENANCE_LIMIT = 1 << 20
_LOG_NAME = re.compile(r"result_.*\.txt")


class NoLogs(LookupError):
    """A path that does not exist, or a directory without logs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogGroup:
    """Logs that are looked at together."""

    paths: tuple[Path, ...]
    is_result: bool
    """Whether they are all the runs of their directory, rather than one file that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a check of some paths found."""

    logs: tuple[str, ...]
    findings: tuple[Finding, ...]
    unreadable: bool
    """Some log could not be read at all."""

    @property
    def passed(self) -> bool:
        return count(self.findings, Severity.ERROR) == 0


def check_paths(paths: Iterable[Path], ruleset: str | None = None) -> Report:
    """Check every log under the paths, and the runs of each directory together.

    Args:
        ruleset: the one to judge by; if None, what the run.json beside a log says, else the latest that has the
            benchmark.

    Raises:
        NoLogs: a path does not exist, or is a directory without logs.
    """
    logs: list[str] = []
    findings: list[Finding] = []
    unreadable = False
    for group in find_logs(paths):
        result = open_result(group, ruleset)
        for run in result.runs:
            logs.append(run.file)
            findings += check_run(run)
            unreadable |= any(defect.kind is DefectKind.UNREADABLE for defect in run.log.defects)
        findings += check_result(result) if group.is_result else ()
    return Report(logs=tuple(logs), findings=tuple(findings), unreadable=unreadable)


def find_logs(paths: Iterable[Path]) -> list[LogGroup]:
    """The logs under the paths, each once: a file as itself, and of a directory every result_*.txt below it.

    Directories are walked in the order of their names; links to directories are not followed.

    Raises:
        NoLogs: as check_paths.
    """
    groups = [group for path in paths for group in _groups(path)]
    return list({group.paths: group for group in groups}.values())


def _groups(path: Path) -> Iterator[LogGroup]:
    if not path.exists():
        raise NoLogs(f"{path} does not exist")
    if not path.is_dir():
        yield LogGroup(paths=(path,), is_result=False)
        return
    logs = sorted(_logs_below(path), key=_natural)
    if not logs:
        raise NoLogs(f"{path} has no log: no file result_*.txt in it or below it")
    for _, group in groupby(logs, key=lambda log: log.parent):
        yield LogGroup(paths=tuple(group), is_result=True)


def _logs_below(directory: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(directory):
        yield from (Path(folder, name) for name in names if _LOG_NAME.fullmatch(name))


def _natural(path: Path) -> tuple[str, list[tuple[int, str]]]:
    """Orders by directory, then result_2 before result_10."""
    parts = re.findall(r"\d+|\D+", path.name)
    return str(path.parent), [(int(part), "") if part.isdecimal() else (0, part) for part in parts]


def open_result(group: LogGroup, ruleset: str | None = None) -> Result:
    """Read the logs of a group; raises nothing."""
    return Result(group.paths[0].parent, tuple(open_run(path, ruleset) for path in group.paths))


def open_run(path: Path, ruleset: str | None = None) -> Run:
    """Read one log, to be judged by `ruleset`, or by what the run.json beside it says; raises nothing."""
    if ruleset is not None:
        return Run(load(path), ruleset)
    try:
        return Run(load(path), _recorded_ruleset(path.with_name(PROVENANCE)))
    except (OSError, ValueError, RecursionError) as error:
        return Run(load(path), provenance_fault=f"{type(error).__name__}: {error}")


def _recorded_ruleset(provenance: Path) -> str | None:
    if not provenance.is_file():
        return None
    with provenance.open("rb") as stream:
        record = json.loads(stream.read(_PROVENANCE_LIMIT))
    ruleset = record.get("ruleset", "") if isinstance(record, dict) else None
    if not isinstance(ruleset, str):
        raise ValueError("expected an object with a ruleset, such as 6.0.0")
    return ruleset or None
