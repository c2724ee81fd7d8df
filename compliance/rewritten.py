"""What the official tools get to see: files that we have written, from what our own reader accepted.

Their checkers format what a log says into the path of a rule file and execute that file, and their parser takes other
bytes for an event than ours. So no byte of a stranger reaches them: a log is written anew event by event, any other
file that a tool reads from what it means, and of all the rest there are only the names and the sizes. What cannot be
written anew is refused.
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
"""Names that a tool looks for in an event, and the only values that it may have: the tool makes a path of them."""

# Braces are several folders to the summariser, the others patterns to all tools.
_PATTERNS = frozenset("{}[]*?")
_ESCAPED_TOKEN = "\\u003a" + TOKEN[1:]
"""The same text in JSON."""
_PARAMETERS = re.compile(rb"(?:(?:rcp-bypass|seed-checker-bypass)?\n){0,9}(?:rcp-bypass|seed-checker-bypass)?")
_MAX_PARAMETERS = 1000


_T = TypeVar("_T")


class _Refused(Exception):
    """What cannot be written anew, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A log or a tree that the tools may see, and what it was made of."""

    original: Path
    path: Path
    """In place of the original; the tools may write below it."""
    results: tuple[Result, ...] = ()
    """The original's; none where something is refused."""
    findings: tuple[Finding, ...] = ()
    """Why there is nothing that a tool may see; empty if there is."""

    @property
    def logs(self) -> Mapping[str, Log]:
        """What was read of each log, by the path of the file that was written."""
        return {str(self.of(run.log.path)): run.log for result in self.results for run in result.runs}

    @property
    def organisations(self) -> dict[Path, str]:
        """The folders of the original that look like an organisation's, each with the ruleset of its first result."""
        found: dict[Path, str] = {}
        for result in self.results:
            assert result.row is not None
            for folder in _organisations(self.original, result.directory):
                found.setdefault(folder, result.row.ruleset)
        return found

    def of(self, path: Path) -> Path:
        """Where the copy has a file or a folder of the original."""
        return self.path / path.relative_to(self.original)

    def restore(self, text: str) -> str:
        """A text of a tool with the names that the reader knows."""
        return text.replace(str(self.path), str(self.original))


def rewrite(original: Path, folder: Path, ruleset: str | None = None) -> Copy:
    """Write a log or a tree anew in `folder`, which is empty; time and room are linear in the size of the original.

    Args:
        ruleset: as compliance.check.check_paths.

    Raises:
        NoLogs: the path does not exist, or is a directory without logs.
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
    """The copy once its logs are written too."""
    results, findings = [], []
    for group in groups:
        runs = []
        for path in group.paths:
            try:
                runs.append(_write_run(path, copy.of(path), ruleset))
            except (_Refused, OSError) as error:
                findings.append(_refusal(path, error))
        results.append(Result(group.paths[0].parent, tuple(runs)))
    return replace(copy, results=() if findings else tuple(results), findings=tuple(findings))


def _refusal(path: Path, why: object) -> Finding:
    return Finding(
        rule="official.refused",
        severity=Severity.ERROR,
        file=str(path),
        message="not shown to the official tools, which may execute what it names",
        expected="plain names, no links, and in every file that a tool reads only what is known",
        actual=str(why),
    )


def _organisations(root: Path, directory: Path) -> Iterator[Path]:
    """The folders above a result, up to the root, that hold systems and results."""
    for folder in directory.parents:
        is_within = folder == root or root in folder.parents
        if is_within and (folder / "systems").is_dir() and (folder / "results").is_dir():
            yield folder


# A tree.


def _write_tree(original: Path, target: Path, logs: Collection[Path]) -> Iterator[Finding]:
    """Write everything but the logs; yields what is refused."""
    organisations = {above for log in logs for above in _organisations(original, log.parent)}
    target.mkdir()
    for here, folders, names in walk(original):
        kept = set()
        for name in [*folders, *names]:
            path = Path(here, name)
            try:
                _write_entry(path, target / path.relative_to(original), organisations, is_log=path in logs)
                kept.add(name)
            except (_Refused, OSError, ValueError, RecursionError) as error:
                yield _refusal(path, error)
        folders[:] = [name for name in folders if name in kept]


def _write_entry(path: Path, target: Path, organisations: Collection[Path], *, is_log: bool) -> None:
    status = path.lstat()
    if not path.name.isprintable() or not _PATTERNS.isdisjoint(path.name):
        raise _Refused("a name with control characters, or one of {}[]*?")
    if stat.S_ISDIR(status.st_mode):
        target.mkdir()
    elif not stat.S_ISREG(status.st_mode):
        raise _Refused("neither a file nor a folder")
    elif write := _writer(path, organisations):
        write(path, target)
    elif not is_log:
        # Nothing of it is read but whether it is too large.
        target.touch()
        os.truncate(target, min(status.st_size, LARGEST_FILE + 1))


def _writer(path: Path, organisations: Collection[Path]) -> Callable[[Path, Path], object] | None:
    """What writes a file anew that a tool reads in an organisation's tree; None for a log, and for what none reads."""
    places = [path.relative_to(folder).as_posix() for folder in path.parents if folder in organisations]
    return next((write for place in places for pattern, write in _READ if pattern.fullmatch(place)), None)


def _write_description(path: Path, target: Path) -> None:
    target.write_text(json.dumps(read_description(path)), encoding="ascii")


def _write_scaling(path: Path, target: Path) -> None:
    target.write_text(json.dumps({"scaling_factor": stated_factor(path)}), encoding="ascii")


def _write_id(path: Path, target: Path) -> None:
    text = _only(path, "private_id")
    if not isinstance(text, str):
        raise _Refused("private_id is no text")
    target.write_text(json.dumps({"private_id": text}), encoding="ascii")


def _only(path: Path, name: str) -> object:
    fields = read_description(path)
    if list(fields) != [name]:
        raise _Refused(f"expected one field, {name}")
    return fields[name]


def _write_parameters(path: Path, target: Path) -> None:
    with path.open("rb") as stream:
        content = stream.read(_MAX_PARAMETERS)
    if not _PARAMETERS.fullmatch(content):
        raise _Refused("expected lines rcp-bypass and seed-checker-bypass")
    target.write_bytes(content)


def _write_power(path: Path, target: Path) -> None:
    log = _written(target, lambda each: load(path, each))
    _refuse_defects(log)
    for line in log.crowded:
        raise _Refused(f"line {line}: an event that does not stand alone")


# Sources: package_checker.py, system_desc_checker.py, result_summarizer.py.
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
        named = ", ".join(show(event.event.value) for event in run.all("submission_benchmark")[:1])
        raise _Refused(f"submission_benchmark {named or 'missing'} in ruleset {run.chosen.ruleset or 'latest'}")
    return run


def _written(target: Path, read: Callable[[Callable[[int, Event], None]], _T]) -> _T:
    """What `read` returns; every event that it comes upon is written, one a line, as any parser reads it."""
    with target.open("wb") as file:

        def write(line: int, event: Event) -> None:
            try:
                file.write(line_of(event))
            except (OSError, ValueError, RecursionError) as error:
                raise _Refused(f"line {line}: {error}") from None

        return read(write)


def line_of(event: Event) -> bytes:
    """The line of an event as mllog writes it: ASCII without control characters, and one token.

    Raises:
        ValueError, RecursionError: a tool could make a path of its value, or it cannot be written.
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
        # The convergence checker takes the value of any line that has the name anywhere in it.
        if name in text and event.value not in values:
            raise ValueError(f"{name} {show(event.value)}")
    return f"{TOKEN} {text.replace(TOKEN, _ESCAPED_TOKEN)}\n".encode("ascii")


def _refuse_defects(log: Log) -> None:
    for defect in log.defects:
        raise _Refused(defect.message if defect.line is None else f"line {defect.line}: {defect.message}")
