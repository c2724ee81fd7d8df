"""Write new copies of the files that the official tools read, from what our own reader accepted.

Their checkers format values of a log into the path of a rule file and execute that file, and their parser takes other
bytes for an event than ours does. So no byte of a stranger reaches them. A log is written anew event by event, any
other file that a tool reads from its decoded content, and all other files as names and sizes only. A file that cannot
be written anew is refused.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from benchmark.errors import HarnessError
from benchmark.files import walk
from benchmark.mllog import TOKEN, Event
from compliance.check import LogGroup, find_logs, open_run
from compliance.checks.clock import DIVISIONS_WITH_LIMIT
from compliance.checks.packages import LARGEST_FILE, SUBMITTABLE
from compliance.checks.systems import read_description
from compliance.convergence.scaling import stated_factor
from compliance.findings import Finding, Severity, show
from compliance.log import Log, load
from compliance.result import Result
from compliance.run import Run

KNOWN = {"submission_division": DIVISIONS_WITH_LIMIT, "submission_benchmark": SUBMITTABLE}
"""Key that a tool looks for -> the only values that it may have, because the tool makes a path of them."""

# The summariser expands braces to several folders; all tools take the other characters for patterns.
_PATTERNS = frozenset("{}[]*?")
_ESCAPED_TOKEN = "\\u003a" + TOKEN[1:]
"""The token as JSON may also write it."""
_PARAMETERS = re.compile(rb"(?:(?:rcp-bypass|seed-checker-bypass)?\n){0,9}(?:rcp-bypass|seed-checker-bypass)?")
_MAX_PARAMETERS = 1000
"""Bytes of a package_checker_params that are read."""


_T = TypeVar("_T")


class _NotRewritableError(HarnessError):
    """A file or an event cannot be written anew; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A log or a tree that the tools may read, and its original."""

    original: Path
    path: Path
    """The log or tree that the tools read; they may write below it."""
    results: tuple[Result, ...] = ()
    """The results of the original; none if anything is refused."""
    findings: tuple[Finding, ...] = ()
    """Why the tools may not read it; empty if they may."""

    @property
    def logs(self) -> Mapping[str, Log]:
        """Path of a written log -> what was read of its original."""
        return {str(self.of(run.log.path)): run.log for result in self.results for run in result.runs}

    @property
    def organisations(self) -> dict[Path, str]:
        """The folders of the original that look like an organisation's, each with the ruleset of its first result."""
        rulesets: dict[Path, str] = {}
        for result in self.results:
            assert result.row is not None
            for folder in _organisations(self.original, result.directory):
                rulesets.setdefault(folder, result.row.ruleset)
        return rulesets

    def of(self, path: Path) -> Path:
        """Return the path in the copy of a file or folder of the original."""
        return self.path / path.relative_to(self.original)

    def restore(self, text: str) -> str:
        """Return a text of a tool with the original's path in place of the copy's."""
        return text.replace(str(self.path), str(self.original))


def rewrite(original: Path, folder: Path, ruleset: str | None = None) -> Copy:
    """Write a log or a tree anew in an empty folder, in time and space linear in its size.

    Args:
        ruleset: as for compliance.check.check_paths.

    Raises:
        NoLogsError: the path does not exist, or is a folder without logs.
    """
    groups = find_logs([original])
    if original.is_dir():
        path = folder / "tree"
        findings = list(_write_tree(original, path, {log for group in groups for log in group.paths}))
    else:
        path, findings = folder / "result_0.txt", []
    copy = Copy(original=original, path=path, findings=tuple(findings))
    return copy if findings else _with_logs(copy, groups, ruleset)


def _with_logs(copy: Copy, groups: Iterable[LogGroup], ruleset: str | None) -> Copy:
    """Write the logs of a copy, and return it with their results."""
    results, findings = [], []
    for group in groups:
        runs = []
        for path in group.paths:
            try:
                runs.append(_write_run(path, copy.of(path), ruleset))
            except (_NotRewritableError, OSError) as error:
                findings.append(_refusal(path, error))
        results.append(Result(group.paths[0].parent, tuple(runs)))
    return replace(copy, results=() if findings else tuple(results), findings=tuple(findings))


def _refusal(path: Path, why: object) -> Finding:
    return Finding(
        rule="official.refused",
        severity=Severity.ERROR,
        file=str(path),
        message="the official tools were not run on it, because they may execute what it names",
        expected="plain names, no links, and known content in every file that a tool reads",
        actual=str(why),
    )


def _organisations(root: Path, directory: Path) -> Iterator[Path]:
    """Yield the folders above a result, up to the root, that hold systems/ and results/."""
    for folder in directory.parents:
        is_within = folder == root or root in folder.parents
        if is_within and (folder / "systems").is_dir() and (folder / "results").is_dir():
            yield folder


# A tree.


def _write_tree(original: Path, target: Path, logs: Collection[Path]) -> Iterator[Finding]:
    """Write everything but the logs; yield a finding for each refusal."""
    organisations = {above for log in logs for above in _organisations(original, log.parent)}
    target.mkdir()
    for here, folders, names in walk(original):
        needed = set()
        for name in [*folders, *names]:
            path = Path(here, name)
            try:
                _write_entry(path, target / path.relative_to(original), organisations, is_log=path in logs)
                needed.add(name)
            except (_NotRewritableError, OSError, ValueError, RecursionError) as error:
                yield _refusal(path, error)
        folders[:] = [name for name in folders if name in needed]


def _write_entry(path: Path, target: Path, organisations: Collection[Path], *, is_log: bool) -> None:
    status = path.lstat()
    if not path.name.isprintable() or not _PATTERNS.isdisjoint(path.name):
        raise _NotRewritableError("the name has a control character, or one of {}[]*?")
    if stat.S_ISDIR(status.st_mode):
        target.mkdir()
    elif not stat.S_ISREG(status.st_mode):
        raise _NotRewritableError("it is neither a file nor a folder")
    elif write := _writer(path, organisations):
        write(path, target)
    elif not is_log:
        # The tools only look at its name, and whether it is too large.
        target.touch()
        os.truncate(target, min(status.st_size, LARGEST_FILE + 1))


def _writer(path: Path, organisations: Collection[Path]) -> Callable[[Path, Path], object] | None:
    """Return the function that writes a file anew; None for a log, and for a file that no tool reads."""
    places = [path.relative_to(folder).as_posix() for folder in path.parents if folder in organisations]
    return next((write for place in places for pattern, write in _READ if pattern.fullmatch(place)), None)


def _write_description(path: Path, target: Path) -> None:
    target.write_text(json.dumps(read_description(path)), encoding="ascii")


def _write_scaling(path: Path, target: Path) -> None:
    target.write_text(json.dumps({"scaling_factor": stated_factor(path)}), encoding="ascii")


def _write_id(path: Path, target: Path) -> None:
    text = _only(path, "private_id")
    if not isinstance(text, str):
        raise _NotRewritableError("private_id is not text")
    target.write_text(json.dumps({"private_id": text}), encoding="ascii")


def _only(path: Path, name: str) -> object:
    fields = read_description(path)
    if list(fields) != [name]:
        raise _NotRewritableError(f"expected the one field {name}, read {show(list(fields))}")
    return fields[name]


def _write_parameters(path: Path, target: Path) -> None:
    with path.open("rb") as stream:
        content = stream.read(_MAX_PARAMETERS)
    if not _PARAMETERS.fullmatch(content):
        raise _NotRewritableError("expected only lines rcp-bypass and seed-checker-bypass")
    target.write_bytes(content)


def _write_power(path: Path, target: Path) -> None:
    log = _written(target, lambda each: load(path, each))
    _refuse_defects(log)
    for line in log.crowded:
        raise _NotRewritableError(f"line {line}: an event does not stand alone on its line")


# The files that a tool reads, by their path in the tree. Sources: package_checker.py, system_desc_checker.py,
# result_summarizer.py.
_READ: tuple[tuple[re.Pattern[str], Callable[[Path, Path], object]], ...] = (
    (re.compile(r"systems/[^/]+\.json"), _write_description),
    (re.compile(r"results/[^/]+/privateid\.json"), _write_id),
    (re.compile(r"results/[^/]+/(?:[^/]+/)?package_checker_params"), _write_parameters),
    (re.compile(r"results/[^/]+/[^/]+/scaling\.json"), _write_scaling),
    (re.compile(r"results/[^/]+/[^/]+/power/[^/]+/(?:node|sw)_[^/]*\.txt"), _write_power),
)


# A log.


def _write_run(path: Path, target: Path, ruleset: str | None) -> Run:
    run = _written(target, lambda each: open_run(path, ruleset, each=each))
    _refuse_defects(run.log)
    if run.row is None:
        benchmark = ", ".join(show(event.event.value) for event in run.all("submission_benchmark")[:1])
        raise _NotRewritableError(
            f"submission_benchmark {benchmark or 'missing'} in ruleset {run.chosen.ruleset or 'latest'}"
        )
    return run


def _written(target: Path, read: Callable[[Callable[[int, Event], None]], _T]) -> _T:
    """Return what `read` returns; every event that it reads is written on a line of its own, as any parser reads it."""
    with target.open("wb") as file:

        def write(line: int, event: Event) -> None:
            try:
                file.write(line_of(event))
            except (OSError, ValueError, RecursionError) as error:
                raise _NotRewritableError(f"line {line}: {error}") from None

        return read(write)


def line_of(event: Event) -> bytes:
    """Return the line of an event as mllog writes it: ASCII without control characters, and one token.

    Raises:
        ValueError, RecursionError: a tool could make a path of its value, or it cannot be written as JSON.
    """
    fields = {
        "namespace": event.namespace,
        "time_ms": event.time_ms,
        "event_type": event.event_type,
        "key": event.key,
        "value": event.value,
        "metadata": event.metadata,
    }
    text = json.dumps(fields)
    for name, values in KNOWN.items():
        # The convergence checker takes the value of any line in which the key appears anywhere.
        if name in text and event.value not in values:
            raise ValueError(f"{name} {show(event.value)}")
    return f"{TOKEN} {text.replace(TOKEN, _ESCAPED_TOKEN)}\n".encode("ascii")


def _refuse_defects(log: Log) -> None:
    for defect in log.defects:
        raise _NotRewritableError(defect.message if defect.line is None else f"line {defect.line}: {defect.message}")
