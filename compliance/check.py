"""From paths to findings: a log, a directory of runs, or any tree that holds some."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NoReturn

from benchmark.files import RUN_JSON
from benchmark.mllog import Event
from benchmark.refusal import Refused
from compliance.checks.packages import Package, check_package
from compliance.checks.results import check_result
from compliance.checks.runs import check_run
from compliance.checks.systems import check_system, description_of
from compliance.findings import Finding, Severity, count
from compliance.log import DefectKind, load
from compliance.result import Result
from compliance.run import Run

# A name may hold a line break.
_LOG_NAME = re.compile(r"result_.*\.txt", re.DOTALL)


class NoLogs(Refused):
    """A path that does not exist or cannot be searched, or a directory without logs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogGroup:
    """Logs that are looked at together."""

    paths: tuple[Path, ...]
    is_result: bool
    """Whether they are all the runs of their directory, rather than one file that was asked for."""

    @property
    def system(self) -> Path | None:
        """Where the system of the runs is described; None where they are no result of a submission."""
        return description_of(self.paths[0].parent) if self.is_result else None

    @property
    def organisation(self) -> Path | None:
        """The tree of the submission that the runs are part of; None where they are part of none."""
        return None if self.system is None else self.system.parents[1]


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


def check_paths(paths: Sequence[Path], ruleset: str | None = None) -> Report:
    """Check every log under the paths, the runs of each directory together, each system, and each whole organisation.

    Args:
        ruleset: the one to judge by; if None, what the run.json beside a log says, else the latest that has the
            benchmark.

    Raises:
        NoLogs: a path does not exist, is a directory without logs, or holds one that cannot be searched.
    """
    together = groupby(find_logs(paths), key=lambda group: group.organisation or group.paths)
    reports = [_check(list(groups), paths, ruleset) for _, groups in together]
    return Report(
        logs=tuple(log for report in reports for log in report.logs),
        findings=tuple(finding for report in reports for finding in report.findings),
        unreadable=any(report.unreadable for report in reports),
    )


def _check(groups: Sequence[LogGroup], paths: Sequence[Path], ruleset: str | None) -> Report:
    """Check the results of one organisation, or one group of logs that belongs to none."""
    results = [open_result(group, ruleset) for group in groups]
    runs = [run for result in results for run in result.runs]
    findings = [finding for run in runs for finding in check_run(run)]
    for group, result in zip(groups, results, strict=True):
        findings += check_result(result) if group.is_result else ()
    by_system = groupby(zip(groups, results, strict=True), key=lambda pair: pair[0].system)
    for system, pairs in by_system:
        findings += () if system is None else check_system(system, [result for _, result in pairs])
    organisation = groups[0].organisation
    if organisation is not None and _is_below(organisation, paths):
        findings += check_package(Package(organisation, tuple(results)))
    return Report(
        logs=tuple(run.file for run in runs),
        findings=tuple(findings),
        unreadable=any(defect.kind is DefectKind.UNREADABLE for run in runs for defect in run.log.defects),
    )


def _is_below(folder: Path, paths: Sequence[Path]) -> bool:
    """Whether all of a folder was asked for."""
    return any(folder.resolve().is_relative_to(path.resolve()) for path in paths)


def find_logs(paths: Iterable[Path]) -> list[LogGroup]:
    """The logs under the paths, each once: a file as itself, and of a directory every result_*.txt below it.

    Directories are walked in the order of their names; links to directories are not followed.

    Raises:
        NoLogs: as check_paths.
    """
    groups = [group for path in paths for group in _groups(path)]
    return list({group.paths: group for group in groups}.values())


def _groups(path: Path) -> list[LogGroup]:
    try:
        path.stat()
        if not path.is_dir():
            return [LogGroup(paths=(path,), is_result=False)]
        logs = sorted(_logs_below(path), key=_natural)
    except FileNotFoundError:
        raise NoLogs(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise NoLogs(f"{path} cannot be searched for logs: {error}") from None
    if not logs:
        raise NoLogs(f"{path} has no log: no file result_*.txt in it or below it")
    groups = groupby(logs, key=lambda log: log.parent)
    return [LogGroup(paths=tuple(group), is_result=True) for _, group in groups]


def _logs_below(directory: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(directory, onerror=_give_up):
        yield from (Path(folder, name) for name in names if _LOG_NAME.fullmatch(name))


def _give_up(error: OSError) -> NoReturn:
    # Logs that cannot be seen are no logs that pass.
    raise error


def _natural(path: Path) -> tuple[str, list[tuple[int, str]]]:
    """Orders by directory, then result_2 before result_10."""
    parts = re.findall(r"\d+|\D+", path.name)
    return str(path.parent), [(int(part), "") if part.isdecimal() else (0, part) for part in parts]


def open_result(group: LogGroup, ruleset: str | None = None) -> Result:
    """Read the logs of a group; raises nothing."""
    return Result(group.paths[0].parent, tuple(open_run(path, ruleset) for path in group.paths))


def open_run(path: Path, ruleset: str | None = None, *, each: Callable[[int, Event], object] | None = None) -> Run:
    """Read one log, to be judged by `ruleset`, or by what the run.json beside it says.

    Raises nothing but what `each` does, which is as for compliance.log.load.
    """
    fault = ""
    if ruleset is None:
        try:
            ruleset = _recorded_ruleset(path.with_name(RUN_JSON))
        except (OSError, Refused) as error:
            fault = str(error)
    return Run(load(path, each), ruleset, provenance_fault=fault)


def _recorded_ruleset(path: Path) -> str | None:
    if not path.is_file():
        return None
    # pydantic takes a tenth of a second, which logs of others, without a run.json, need not.
    from benchmark.run_record import read

    return read(path).ruleset or None
