"""Write a report as text, JSON, JUnit XML or SARIF 2.1.0, with all text of others escaped for terminals and parsers."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import click

from benchmark.plurals import counted
from compliance.check import Judged, Report
from compliance.findings import Finding, Severity, count
from compliance.result import in_capitals
from compliance.ruleset import judged_by

JSON_FORMAT = 1
"""Version of the JSON format; removing a field or changing its meaning raises it."""

TOOL = "llama31 check"

_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: "cyan"}
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def printable(text: str) -> str:
    """Return the text with every character escaped that neither prints nor is a line break."""
    return "".join(char if char.isprintable() or char == "\n" else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


def details(finding: Finding) -> dict[str, str]:
    """Return what a finding states besides its message, by name; empty fields are left out."""
    texts = {"expected": finding.expected, "actual": finding.actual, "source": finding.source}
    return {name: text for name, text in texts.items() if text}


def text(report: Report, noun: str = "log") -> str:
    """Write every finding, then each result, then a line with their numbers; `noun` names what was checked."""
    return "\n".join([*map(_finding_text, report.findings), *_ending(report, noun)])


def grouped(report: Report) -> str:
    """Write each result with its findings below it, those of one rule on one line."""
    lines = [line for subject in _subjects(report) for line in (_heading(subject), *_rule_lines(subject))]
    hint = ["`llama31 rules RULE` explains a rule; --all lists every finding"] if report.findings else []
    return "\n".join([*lines, *hint, *_not_run(report), _verdict(report, "log")])


def summary(report: Report) -> str:
    """Write one line for each result."""
    return "\n".join(_ending(report, "log"))


def _ending(report: Report, noun: str) -> Iterator[str]:
    if report.results:
        subjects = _subjects(report)
        shown = (subject for subject in subjects if subject.result or count(subject.findings, Severity.ERROR))
        yield from map(_heading, shown)
    yield from _not_run(report)
    yield _verdict(report, noun)


def _finding_text(finding: Finding) -> str:
    where = finding.file if finding.line is None else f"{finding.file}:{finding.line}"
    lines = [f"{finding.rule}  {where}", f"  {finding.message}"]
    lines += [f"  {name:<8}  {text}" for name, text in details(finding).items()]
    return _severity(finding.severity) + "  " + "\n".join(map(_line, lines)) + "\n"


def _severity(severity: Severity) -> str:
    return click.style(f"{severity:<7}", fg=_COLOURS[severity])


def _line(text: str) -> str:
    return printable(text.replace("\n", "\\n"))


@dataclass(frozen=True, slots=True)
class _Subject:
    """What findings are about: a result with its logs, a system or a tree."""

    path: str
    findings: tuple[Finding, ...]
    result: Judged | None = None


def _subjects(report: Report) -> list[_Subject]:
    """Return every result, and everything else that has findings."""
    of_log = {log: result.path for result in report.results for log in result.logs}
    by_path: dict[str, list[Finding]] = {result.path: [] for result in report.results}
    for finding in report.findings:
        by_path.setdefault(of_log.get(finding.file, finding.file), []).append(finding)
    results = {result.path: result for result in report.results}
    return [_Subject(path, tuple(findings), results.get(path)) for path, findings in by_path.items()]


def _heading(subject: _Subject) -> str:
    facts = [_counts(subject.findings)]
    if subject.result is not None:
        facts = [counted(len(subject.result.logs), "log"), *facts, f"ruleset {judged_by(subject.result)}"]
        facts += [] if subject.result.minutes is None else [f"{subject.result.minutes:.3f} min"]
        facts += [in_capitals(subject.result.marks)] if subject.result.marks else []
    return f"{_word(subject.findings)}  {_line('  '.join([subject.path, ', '.join(facts)]))}"


def _rule_lines(subject: _Subject) -> Iterator[str]:
    """Yield a line for each rule that logs break and for each finding about more than one log, the worst first."""
    logs = subject.result.logs if subject.result is not None else ()
    lines: dict[tuple[Severity, str, Finding | None], list[Finding]] = {}
    for finding in sorted(subject.findings, key=lambda finding: list(Severity).index(finding.severity)):
        alone = None if finding.file in logs else finding
        lines.setdefault((finding.severity, finding.rule, alone), []).append(finding)
    for (severity, rule, alone), findings in lines.items():
        example = findings[0]
        texts = {"expected": example.expected, "actual": example.actual}
        fault = "; ".join([example.message, *(f"{name} {text}" for name, text in texts.items() if text)])
        often = _how_often(findings, len(logs) if alone is None else 1)
        yield f"  {_severity(severity)}  {_line(f'{rule}  {often}{fault}{_place(example, subject)}')}"


def _how_often(findings: Sequence[Finding], logs: int) -> str:
    """Return in how many of the logs a finding is, and how often if that is more; empty for one finding in one log."""
    files = len({finding.file for finding in findings})
    parts = [f"{len(findings)} times"] if len(findings) > files else []
    parts += [f"in {files} of {logs} logs"] if logs > 1 else []
    return f"{' '.join(parts)}: " if parts else ""


def _place(example: Finding, subject: _Subject) -> str:
    name = "" if example.file == subject.path else os.path.basename(example.file)
    line = "" if example.line is None else f"line {example.line}"
    return f" ({', '.join(filter(None, (name, line)))})" if name or line else ""


def _not_run(report: Report) -> Iterator[str]:
    return (f"not run  {_line(checks)}" for checks in report.not_run)


def _verdict(report: Report, noun: str) -> str:
    return f"{_word(report.findings)}  {counted(len(report.logs), noun)}, {_counts(report.findings)}"


def _word(findings: Sequence[Finding]) -> str:
    return click.style("FAIL", fg="red") if count(findings, Severity.ERROR) else click.style("PASS", fg="green")


def _counts(findings: Sequence[Finding]) -> str:
    errors, warnings = (count(findings, severity) for severity in (Severity.ERROR, Severity.WARNING))
    return f"{counted(errors, 'error')}, {counted(warnings, 'warning')}"


def as_json(report: Report) -> str:
    """Write everything that a report holds as JSON."""
    document = {
        "format": JSON_FORMAT,
        "passed": report.passed,
        "logs": report.logs,
        "results": [dataclasses.asdict(result) for result in report.results],
        "not_run": report.not_run,
        "counts": {severity.lower(): count(report.findings, severity) for severity in Severity},
        "findings": [dataclasses.asdict(finding) for finding in report.findings],
    }
    return json.dumps(document, indent=2)


def junit(report: Report) -> str:
    """Write JUnit XML: a suite for each file or folder, a case for each finding in it. Only an ERROR is a failure."""
    root = ElementTree.Element("testsuites", name=TOOL)
    findings_by_name = sorted(report.findings, key=lambda finding: finding.file)
    by_file = {file: list(findings) for file, findings in groupby(findings_by_name, key=lambda finding: finding.file)}
    for file in dict.fromkeys([*report.logs, *by_file]):
        _add_suite(root, file, by_file.get(file, []))
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)


def _add_suite(root: ElementTree.Element, file: str, findings: list[Finding]) -> None:
    counts = {"tests": str(max(1, len(findings))), "failures": str(count(findings, Severity.ERROR))}
    suite = ElementTree.SubElement(root, "testsuite", {"name": printable(file), **counts})
    if not findings:
        ElementTree.SubElement(suite, "testcase", classname=printable(file), name="all rules")
    for finding in findings:
        case = ElementTree.SubElement(suite, "testcase", classname=printable(file), name=finding.rule)
        failed = finding.severity is Severity.ERROR
        attributes = {"type": finding.rule, "message": printable(finding.message)} if failed else {}
        place = {} if finding.line is None else {"line": str(finding.line)}
        lines = [str(finding.severity), finding.message]
        lines += [f"{name}: {text}" for name, text in (place | details(finding)).items()]
        outcome = ElementTree.SubElement(case, "failure" if failed else "system-out", attributes)
        outcome.text = printable("\n".join(lines))


def sarif(report: Report) -> str:
    """Write SARIF: one run with a result for each finding."""
    sources = {finding.rule: finding.source for finding in report.findings}
    rules = [{"id": rule, "help": {"text": source or rule}} for rule, source in sources.items()]
    run = {
        "tool": {"driver": {"name": TOOL, "rules": rules}},
        "artifacts": [{"location": {"uri": _uri(log)}} for log in report.logs],
        "results": [_result(finding) for finding in report.findings],
    }
    document = {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": [run]}
    return json.dumps(document, indent=2)


def _result(finding: Finding) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": _uri(finding.file)}}
    if finding.line is not None:
        place["region"] = {"startLine": finding.line}
    return {
        "ruleId": finding.rule,
        "level": _LEVELS[finding.severity],
        "message": {"text": "\n".join(_sentences(finding))},
        "locations": [{"physicalLocation": place}],
    }


def _sentences(finding: Finding) -> Iterator[str]:
    yield printable(finding.message)
    yield from (printable(f"{name}: {text}") for name, text in details(finding).items())


def _uri(file: str) -> str:
    """Return the URI of a file. A relative path stays relative, so that a viewer finds it in its own checkout."""
    return ("file://" if Path(file).is_absolute() else "") + quote(os.fsencode(file))
