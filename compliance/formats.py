"""A report as text and for programs: JSON, JUnit XML, SARIF 2.1.0; any text made harmless to a terminal or a parser."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import click

from compliance.check import Report
from compliance.findings import Finding, Severity, count

JSON_FORMAT = 1
"""Version of the machine formats; a field that goes or changes its meaning raises it."""

TOOL = "llama31 check"

_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: "cyan"}
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def printable(text: str) -> str:
    """The text with everything but characters that print and line breaks as escape sequences."""
    return "".join(char if char.isprintable() or char == "\n" else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


def details(finding: Finding) -> dict[str, str]:
    """What a finding says beside its message, by name."""
    texts = {"expected": finding.expected, "actual": finding.actual, "source": finding.source}
    return {name: text for name, text in texts.items() if text}


def text(report: Report, noun: str = "log") -> str:
    """Every finding, and a line that says how many of them there are; `noun` is what was checked."""
    return "\n".join([*map(_finding_text, report.findings), _summary(report, noun)])


def _finding_text(finding: Finding) -> str:
    where = finding.file if finding.line is None else f"{finding.file}:{finding.line}"
    severity = click.style(f"{finding.severity:<7}", fg=_COLOURS[finding.severity])
    lines = [f"{finding.rule}  {where}", f"  {finding.message}"]
    lines += [f"  {name:<8}  {text}" for name, text in details(finding).items()]
    return severity + "  " + printable("\n".join(line.replace("\n", "\\n") for line in lines)) + "\n"


def _summary(report: Report, noun: str) -> str:
    verdict = click.style("PASS", fg="green") if report.passed else click.style("FAIL", fg="red")
    errors, warnings = (count(report.findings, severity) for severity in (Severity.ERROR, Severity.WARNING))
    return f"{verdict}  {_plural(len(report.logs), noun)}, {_plural(errors, 'error')}, {_plural(warnings, 'warning')}"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def as_json(report: Report) -> str:
    """Everything that a report holds."""
    document = {
        "format": JSON_FORMAT,
        "passed": report.passed,
        "logs": report.logs,
        "counts": {severity.lower(): count(report.findings, severity) for severity in Severity},
        "findings": [dataclasses.asdict(finding) for finding in report.findings],
    }
    return json.dumps(document, indent=2)


def junit(report: Report) -> str:
    """A suite for each file or directory, a case for each finding in it; only an ERROR is a failure."""
    root = ElementTree.Element("testsuites", name=TOOL)
    found = sorted(report.findings, key=lambda finding: finding.file)
    by_file = {file: list(findings) for file, findings in groupby(found, key=lambda finding: finding.file)}
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
    """One run with a result for each finding."""
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
    """A relative path stays relative, so that a viewer can find it in its own checkout."""
    return ("file://" if Path(file).is_absolute() else "") + quote(os.fsencode(file))
