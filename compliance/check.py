"""Check paths and return findings: a path is a log, a folder of runs, or any tree that holds some."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from benchmark.errors import RefusedError
from benchmark.files import walk
from benchmark.mllog import Event
from benchmark.plurals import counted
from compliance.checks.packages import Package, check_package
from compliance.checks.results import check_result, with_one_excused
from compliance.checks.runs import check_run
from compliance.checks.systems import TreePlace, check_system, place_of
from compliance.convergence.score import score
from compliance.findings import Finding, Severity, count
from compliance.log import DefectKind, load
from compliance.result import LOG_NAME, Result
from compliance.ruleset import choose
from compliance.run import FREE_IN_OPEN, Run


class NoLogsError(RefusedError):
    """A path does not exist, cannot be searched, or is a folder without logs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogGroup:
    """Logs that are judged together."""

    paths: tuple[Path, ...]
    is_result: bool
    """True for all the runs of a folder, False for one file that was asked for alone."""

    @property
    def path(self) -> Path:
        return self.paths[0].parent if self.is_result else self.paths[0]

    @property
    def place(self) -> TreePlace | None:
        """Their place in the tree of a submission; None outside one."""
        return place_of(self.path) if self.is_result else None

    @property
    def system(self) -> Path | None:
        """The description of their system; None where they are not a result of a submission."""
        return None if self.place is None else self.place.system

    @property
    def organisation(self) -> Path | None:
        """The tree of the submission that they are part of; None outside one."""
        return None if self.place is None else self.place.tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A result, or a log that was asked for alone, and the ruleset that judged it."""

    path: str
    logs: tuple[str, ...]
    benchmark: str | None
    """None if the ruleset does not have the benchmark."""
    ruleset: str | None
    ruleset_from: str
    """Why this ruleset, in words."""
    is_open: bool = False
    """Whether any log is of the open division."""
    minutes: float | None = None
    """The score in minutes: normalised, or raw without a reference; None if it was not asked for or there is none."""
    marks: tuple[str, ...] = ()
    """As in compliance.result.Result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outcome of checking some paths."""

    logs: tuple[str, ...]
    findings: tuple[Finding, ...]
    unreadable: bool
    """Whether any log could not be read at all."""
    results: tuple[Judged, ...] = ()
    not_run: tuple[str, ...] = ()
    """Checks that did not run and why, one line each."""
    excused: tuple[str, ...] = ()
    """Logs of runs that may miss the target: at most one for each result."""

    @property
    def passed(self) -> bool:
        return count(self.findings, Severity.ERROR) == 0


def check_paths(paths: Sequence[Path], ruleset: str | None = None, *, scored: bool = False) -> Report:
    """Check every log under the paths, the runs of each folder together, each system, and each whole organisation.

    Args:
        ruleset: as for compliance.ruleset.choose.
        scored: whether to compute the scores too, which imports numpy.

    Raises:
        NoLogsError: a path does not exist, is a folder without logs, or holds a folder that cannot be searched.
    """
    groups = find_logs(paths)
    reports = [report for _, report in _each_organisation(groups, paths, ruleset, scored=scored)]
    judged = {result.path for report in reports for result in report.results}
    others = [group for group in groups if str(group.path) not in judged]
    if len(others) == len(groups):
        raise NoLogsError(f"{paths[0]} has no log of a benchmark that is judged here: {_names_of(others)}")
    empty = _trees_without(groups, paths)
    return Report(
        logs=tuple(log for report in reports for log in report.logs),
        findings=(
            *(finding for report in reports for finding in report.findings),
            *(finding for tree in empty for finding in check_package(Package(tree, ()))),
        ),
        unreadable=any(report.unreadable for report in reports),
        results=tuple(result for report in reports for result in report.results),
        not_run=(
            *_not_run(groups, paths),
            *_not_judged([result for report in reports for result in report.results]),
            *(f"all checks: {_names_of(others)}" for _ in others[:1]),
        ),
        excused=tuple(log for report in reports for log in report.excused),
    )


Opened = tuple[LogGroup, Result]


def check_in_turn(
    paths: Sequence[Path], ruleset: str | None = None
) -> Iterator[tuple[list[Opened], tuple[Finding, ...]]]:
    """Yield the results of each organisation, read once, with what a check of them finds.

    For callers who look at a round that does not fit into memory: they keep what they need, and let the logs go.

    Raises:
        NoLogsError: as check_paths, but for logs of other benchmarks, which are passed over.
    """
    for opened, report in _each_organisation(find_logs(paths), paths, ruleset, scored=False):
        yield opened, report.findings
        del opened, report


def _each_organisation(
    groups: Sequence[LogGroup], paths: Sequence[Path], ruleset: str | None, *, scored: bool
) -> Iterator[tuple[list[Opened], Report]]:
    for _, some in groupby(groups, key=lambda group: group.organisation or group.paths):
        together = list(some)
        opened = open_results(together, ruleset)
        yield opened, _check(opened, together[0].organisation, paths, scored=scored)
        # Before the next is read.
        del opened


def _check(opened: Sequence[Opened], organisation: Path | None, paths: Sequence[Path], *, scored: bool) -> Report:
    """Check the results of one organisation, or one group of logs that belongs to none."""
    groups = [group for group, _ in opened]
    results = [with_one_excused(result) if group.is_result else result for group, result in opened]
    runs = [run for result in results for run in result.runs]
    findings = [finding for run in runs for finding in check_run(run)]
    systems: dict[Path, list[Result]] = {}
    for group, result in zip(groups, results, strict=True):
        findings += check_result(result) if group.is_result else ()
        if group.system is not None:
            systems.setdefault(group.system, []).append(result)
    findings += [finding for system, of_it in systems.items() for finding in check_system(system, of_it)]
    if organisation is not None and _is_below(organisation, paths):
        package = Package(organisation, tuple(results))
        spare = [system.path for system in package.systems if system.path not in systems]
        findings += [finding for system in spare for finding in check_system(system, ())]
        findings += check_package(package)
    return Report(
        logs=tuple(run.file for run in runs),
        findings=tuple(findings),
        unreadable=any(defect.kind is DefectKind.UNREADABLE for run in runs for defect in run.log.defects),
        results=tuple(_judged(group, result, scored=scored) for group, result in zip(groups, results, strict=True)),
        excused=tuple(run.file for run in runs if run.excused),
    )


def _judged(group: LogGroup, result: Result, *, scored: bool) -> Judged:
    times = score(result) if scored else None
    return Judged(
        path=str(group.path),
        logs=tuple(run.file for run in result.runs),
        benchmark=None if result.row is None else result.row.benchmark,
        ruleset=result.ruleset,
        ruleset_from=result.ruleset_from,
        is_open=result.is_open,
        minutes=None if times is None else times.normalised_minutes or times.olympic_minutes,
        marks=result.marks,
    )


def _not_run(groups: Sequence[LogGroup], paths: Sequence[Path]) -> Iterator[str]:
    """Yield the checks that did not run because of how the logs were asked for, or where they lie."""
    alone = [group for group in groups if not group.is_result]
    loose = [group for group in groups if group.is_result and group.place is None]
    astray = [group for group in groups if group.place is not None and group.system is None]
    if alone:
        yield f"result, system and package checks: {counted(len(alone), 'log')} asked for alone, not as a folder"
    if loose:
        folders = counted(len(loose), "folder")
        yield f"system and package checks: {folders} of logs outside the tree of a submission, which `package` makes"
    if astray:
        yield f"system checks: {counted(len(astray), 'folder')} of logs not in results/<system>/<benchmark>/"
    trees = dict.fromkeys(group.organisation for group in groups if group.organisation is not None)
    for tree in trees:
        if not _is_below(tree, paths):
            yield f"package checks: only a part of {tree} was asked for"


def _not_judged(results: Sequence[Judged]) -> Iterator[str]:
    """Yield the checks that did not run because of the division."""
    if number := sum(result.is_open for result in results):
        yield f"the closed division's rules ({FREE_IN_OPEN}): {counted(number, 'result')} of the open division"


def _names_of(others: Sequence[LogGroup]) -> str:
    """Name the results that are of other benchmarks."""
    names = sorted({group.path.name for group in others})
    return f"{counted(len(others), 'folder')} of logs of other benchmarks ({', '.join(names)})"


def _is_below(folder: Path, paths: Sequence[Path]) -> bool:
    """Return whether all of a folder was asked for."""
    return any(folder.resolve().is_relative_to(path.resolve()) for path in paths)


def _trees_without(groups: Sequence[LogGroup], paths: Sequence[Path]) -> list[Path]:
    """Return the trees of submissions below the paths that have no log in their results."""
    known = {group.organisation for group in groups}
    return [tree for tree in dict.fromkeys(tree for path in paths for tree in _trees(path)) if tree not in known]


def _trees(path: Path) -> Iterator[Path]:
    for folder, folders, _ in walk(path, unreadable=lambda _: None):
        if {"systems", "results"} <= set(folders):
            yield Path(folder)
            folders.clear()


def find_logs(paths: Iterable[Path]) -> list[LogGroup]:
    """Return the logs under the paths, each once: a file itself, and every result_*.txt below a folder.

    Folders are walked in the order of their names; links to folders are not followed.

    Raises:
        NoLogsError: as check_paths.
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
        raise NoLogsError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise NoLogsError(f"{path} cannot be searched for logs: {error}") from None
    if not logs:
        raise NoLogsError(f"{path} has no log: no file result_*.txt in it or below it")
    groups = groupby(logs, key=lambda log: log.parent)
    return [LogGroup(paths=tuple(group), is_result=True) for _, group in groups]


def _logs_below(directory: Path) -> Iterator[Path]:
    # Raises for a folder that cannot be read: a log that nobody has seen must not pass.
    for folder, _, names in walk(directory):
        yield from (Path(folder, name) for name in names if LOG_NAME.fullmatch(name))


def _natural(path: Path) -> tuple[str, list[tuple[int, str]]]:
    """Return a key that sorts by folder, then result_2 before result_10."""
    parts = re.findall(r"\d+|\D+", path.name)
    return str(path.parent), [(int(part), "") if part.isdecimal() else (0, part) for part in parts]


def open_results(groups: Iterable[LogGroup], ruleset: str | None = None) -> list[Opened]:
    """Read the logs of each group as open_result does; results of benchmarks that are not judged here are left out."""
    opened = ((group, open_result(group, ruleset)) for group in groups)
    return [(group, result) for group, result in opened if not (group.place and result.is_of_another_benchmark)]


def open_result(group: LogGroup, ruleset: str | None = None) -> Result:
    """Read the logs of a group; `ruleset` is as for compliance.ruleset.choose. Raises nothing."""
    directory = group.paths[0].parent
    chosen = choose(directory, ruleset)
    return Result(directory, tuple(Run(load(path), chosen) for path in group.paths))


def open_run(path: Path, ruleset: str | None = None, *, each: Callable[[int, Event], object] | None = None) -> Run:
    """Read one log; `ruleset` is as for compliance.ruleset.choose, `each` as for compliance.log.load.

    Raises only what `each` raises.
    """
    return Run(load(path, each), choose(path.parent, ruleset))
