"""`python -m compliance check PATH...` and `score PATH...`: the only page that prints.

Exit status: 0 no ERROR finding, 1 ERROR findings, 2 wrong usage or a log that cannot be read.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import NoReturn

import click

from compliance.check import NoLogs, Report, check_paths, find_logs, open_result
from compliance.findings import Finding, Severity, count
from compliance.score import Score, score

JSON_FORMAT = 1
"""Version of the machine format; a field that goes or changes its meaning raises it."""

_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: "cyan"}

_paths = click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
_ruleset = click.option("--ruleset", metavar="V", help="Judge by this ruleset, such as 6.0.0.")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Is it a valid MLPerf result? PATH is a log, a directory of runs, or any tree that holds result_*.txt."""


@main.command()
@_paths
@_ruleset
@_as_json
@click.pass_context
def check(context: click.Context, paths: tuple[Path, ...], ruleset: str | None, as_json: bool) -> None:
    """Check logs against the rules; exit 1 if one is broken."""
    try:
        report = check_paths(paths, ruleset)
    except NoLogs as error:
        _refuse(error)
    click.echo(_report_json(report) if as_json else _report_text(report))
    context.exit(2 if report.unreadable else int(not report.passed))


@main.command("score")
@_paths
@_ruleset
@_as_json
def score_command(paths: tuple[Path, ...], ruleset: str | None, as_json: bool) -> None:
    """Minutes from run_start to run_stop, and the olympic mean of a full set of runs."""
    try:
        scores = [score(open_result(group, ruleset)) for group in find_logs(paths)]
    except NoLogs as error:
        _refuse(error)
    document = {"format": JSON_FORMAT, "results": [dataclasses.asdict(result) for result in scores]}
    click.echo(json.dumps(document, indent=2) if as_json else "\n".join(map(_score_text, scores)))


def _refuse(error: Exception) -> NoReturn:
    raise click.UsageError(_printable(str(error)))


def _report_json(report: Report) -> str:
    document = {
        "format": JSON_FORMAT,
        "passed": report.passed,
        "logs": report.logs,
        "counts": {severity.lower(): count(report.findings, severity) for severity in Severity},
        "findings": [dataclasses.asdict(finding) for finding in report.findings],
    }
    return json.dumps(document, indent=2)


def _report_text(report: Report) -> str:
    return "\n".join([*map(_finding_text, report.findings), _summary(report)])


def _finding_text(finding: Finding) -> str:
    where = finding.file if finding.line is None else f"{finding.file}:{finding.line}"
    severity = click.style(f"{finding.severity:<7}", fg=_COLOURS[finding.severity])
    details = {"expected": finding.expected, "actual": finding.actual, "source": finding.source}
    lines = [f"{finding.rule}  {where}", f"  {finding.message}"]
    lines += [f"  {name:<8}  {text}" for name, text in details.items() if text]
    return severity + "  " + _printable("\n".join(lines)) + "\n"


def _summary(report: Report) -> str:
    verdict = click.style("PASS", fg="green") if report.passed else click.style("FAIL", fg="red")
    errors, warnings = (count(report.findings, severity) for severity in (Severity.ERROR, Severity.WARNING))
    return f"{verdict}  {_plural(len(report.logs), 'log')}, {_plural(errors, 'error')}, {_plural(warnings, 'warning')}"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _score_text(result: Score) -> str:
    lines = [
        f"{'no result' if minutes is None else f'{minutes:.3f} min':>14}  {log}"
        for log, minutes in zip(result.logs, result.minutes, strict=True)
    ]
    if result.olympic_minutes is not None:
        lines.append(f"{result.olympic_minutes:>10.3f} min  {result.directory} (olympic mean)")
    return _printable("\n".join(lines))


def _printable(text: str) -> str:
    """File names may hold bytes that are no text."""
    return text.encode(errors="backslashreplace").decode()


if __name__ == "__main__":
    main(prog_name="python -m compliance")
