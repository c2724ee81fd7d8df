"""Renders a report as Markdown for a pull request: verdicts, scores and findings, in tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from benchmark.plurals import counted
from compliance.findings import Severity, count
from compliance.formats import printable
from compliance.run import FREE_IN_OPEN
from report.results import ResultSummary
from report.table import PUBLISHED_COLUMNS, RESULT_COLUMNS, RUN_COLUMNS, STEP_COLUMNS, Column, Row, RunRow

MOST_FINDINGS = 50
"""Most findings of a result that are listed."""

# Characters that Markdown, or the pages that show it, would act on: markup, links, mentions.
_ACTIVE = re.compile(r"[\\`*_{}\[\]<>()#+!|~@&:$\-]")


def to_markdown(results: Sequence[ResultSummary], published: Sequence[ResultSummary] = ()) -> str:
    """Return the Markdown text."""
    return "\n".join(_lines(results, published)) + "\n"


def _lines(results: Sequence[ResultSummary], published: Sequence[ResultSummary]) -> Iterator[str]:
    yield "# Results"
    yield ""
    yield from _table(RESULT_COLUMNS, results)
    for result in results:
        yield f"\n## {escaped(result.name)}\n"
        rows = [RunRow(result, run) for run in result.runs]
        yield from _table(RUN_COLUMNS, rows)
        yield ""
        yield from _table(STEP_COLUMNS, rows)
        yield ""
        yield from _findings(result)
    if published:
        yield "\n## Published results\n"
        yield from _table(PUBLISHED_COLUMNS, published)


def _findings(result: ResultSummary) -> Iterator[str]:
    errors, warnings = (count(result.findings, severity) for severity in (Severity.ERROR, Severity.WARNING))
    yield f"{'PASS' if result.passed else 'FAIL'}: {counted(errors, 'error')}, {counted(warnings, 'warning')}."
    if result.is_open:
        yield f"Open division; not judged: {FREE_IN_OPEN}."
    yield ""
    for finding in result.findings[:MOST_FINDINGS]:
        where = "" if finding.line is None else f" line {finding.line}"
        said = "; ".join(text for text in (finding.message, finding.expected, finding.actual) if text)
        yield f"- {finding.severity} {escaped(finding.rule)}{where}: {escaped(said)}"
    if len(result.findings) > MOST_FINDINGS:
        yield f"- {len(result.findings) - MOST_FINDINGS} more"


def _table(columns: Sequence[Column[Row]], rows: Iterable[Row]) -> Iterator[str]:
    yield "| " + " | ".join(escaped(column.name) for column in columns) + " |"
    yield "|" + "|".join(" ---: " if column.form else " --- " for column in columns) + "|"
    for row in rows:
        yield "| " + " | ".join(escaped(column.text(row)) for column in columns) + " |"


def escaped(text: str) -> str:
    """Return Markdown that shows a text and does nothing else."""
    return _ACTIVE.sub(lambda found: f"&#{ord(found[0])};", printable(text).replace("\n", " "))
