"""`python -m compliance check PATH...`, `rcp`, `score`, `official` and others: the only page that prints.

Exit status: 0 no ERROR finding, 1 ERROR findings, 2 wrong usage or a log that cannot be read.
"""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any, NoReturn

import click

from benchmark.arguments import PathArgument
from compliance.check import NoLogs, Report, check_paths, find_logs, open_result
from compliance.findings import Finding, Severity, count
from compliance.formats import details, junit, printable, sarif
from compliance.official import judge
from compliance.rcp import compare
from compliance.result_checks import Result
from compliance.score import score
from compliance.text import convergence_lines, official_lines, score_lines, submission_lines

JSON_FORMAT = 1
"""Version of the machine format; a field that goes or changes its meaning raises it."""

_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: "cyan"}

_paths = click.argument("paths", nargs=-1, required=True, type=PathArgument(), metavar="PATH...")
_path = PathArgument()
_file = PathArgument(exists=True, dir_okay=False)
_folder = PathArgument(exists=True, file_okay=False)
_ruleset = click.option("--ruleset", metavar="V", help="Judge by this ruleset, such as 6.0.0.")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class _Refused(click.ClickException):
    """Nothing that can be judged; one line, without the usage."""

    exit_code = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Is it a valid MLPerf result? PATH is a log, a directory of runs, or any tree that holds result_*.txt."""


@main.command()
@_paths
@_ruleset
@click.option("--format", "form", type=click.Choice(["text", "json", "junit", "sarif"]), default="text")
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
@click.pass_context
def check(context: click.Context, paths: tuple[Path, ...], ruleset: str | None, form: str) -> None:
    """Check logs against the rules; exit 1 if one is broken."""
    try:
        report = check_paths(paths, ruleset)
    except NoLogs as error:
        _refuse(error)
    click.echo({"text": _report_text, "json": _report_json, "junit": junit, "sarif": sarif}[form](report))
    context.exit(2 if report.unreadable else int(not report.passed))


@main.command("score")
@_paths
@_ruleset
@_as_json
def score_command(paths: tuple[Path, ...], ruleset: str | None, as_json: bool) -> None:
    """Minutes from run_start to run_stop; of a full set of runs the olympic mean, raw and normalised."""
    scores = [score(result) for result in _results(paths, ruleset)]
    document = {"format": JSON_FORMAT, "results": [dataclasses.asdict(result) for result in scores]}
    _show(document, [line for result in scores for line in score_lines(result)], as_json=as_json)


@main.command("rcp")
@_paths
@_ruleset
@_as_json
@click.pass_context
def rcp_command(context: click.Context, paths: tuple[Path, ...], ruleset: str | None, as_json: bool) -> None:
    """Convergence against the reference; exit 1 if a result is beyond the policy's limit or the official tool's."""
    found = [compare(result) for result in _results(paths, ruleset)]
    document = {
        "format": JSON_FORMAT,
        "results": [{**dataclasses.asdict(convergence), "passed": convergence.passed} for convergence in found],
    }
    _show(document, [line for convergence in found for line in convergence_lines(convergence)], as_json=as_json)
    context.exit(int(not all(convergence.passed for convergence in found)))


@main.command("official")
@click.argument("path", type=_path)
@_ruleset
@_as_json
@click.pass_context
def official_command(context: click.Context, path: Path, ruleset: str | None, as_json: bool) -> None:
    """Ask the official mlperf_logging tools, on a copy; exit 1 if one does not accept."""
    try:
        official = judge(path, ruleset)
    except NoLogs as error:
        _refuse(error)
    document = {"format": JSON_FORMAT, "passed": official.passed, **dataclasses.asdict(official)}
    report = Report(logs=(str(path),), findings=official.findings, unreadable=False)
    _show(document, [*official_lines(official), _report_text(report, "path")], as_json=as_json)
    context.exit(int(not official.passed))


@main.command("package")
@click.argument("folders", nargs=-1, required=True, type=_folder, metavar="RUNS_DIR...")
@click.option("--out", required=True, type=_path, help="The submission becomes OUT/<submitter>.")
@click.option("--system-yaml", required=True, type=_file, help="What no machine knows of the system.")
@click.option("--submitter", help="The submission_org of the runs if not given.")
@click.pass_context
def package_command(
    context: click.Context, folders: tuple[Path, ...], out: Path, system_yaml: Path, submitter: str | None
) -> None:
    """Choose the runs that count and write the tree of a submission; exit 1, and none, if a check refuses it."""
    from compliance.package.build import build
    from compliance.package.runs import NotPackageable

    try:
        submission = build(folders, out, system_yaml, submitter=submitter)
    except NotPackageable as error:
        click.echo("".join(f"error: {printable(fault)}\n" for fault in error.faults), err=True, nl=False)
        context.exit(1)
    report = Report(logs=(str(submission.path),), findings=submission.findings, unreadable=False)
    click.echo("\n".join([_report_text(report, "submission"), printable("\n".join(submission_lines(submission)))]))
    context.exit(int(not submission.passed))


@main.command()
@click.argument("file", required=False, type=PathArgument(exists=True, dir_okay=False))
@click.option("--step-seconds", type=click.FloatRange(min=0, min_open=True), help="To judge WALLTIME by.")
@_as_json
@click.pass_context
def preflight(context: click.Context, file: Path | None, step_seconds: float | None, as_json: bool) -> None:
    """Check the configuration of FILE, or of the environment, before it runs; exit 1 if its logs would break a rule."""
    from compliance.preflight import check_plan, make_plan

    plan = make_plan(file, step_seconds=step_seconds)
    report = Report(logs=(plan.file,), findings=check_plan(plan), unreadable=False)
    click.echo(_report_json(report) if as_json else _report_text(report, "configuration"))
    context.exit(int(not report.passed))


@main.command()
@click.argument("log", type=PathArgument(dir_okay=False))
@_ruleset
@click.option("--once", is_flag=True, help="Show where it stands, and end.")
@click.pass_context
def watch(context: click.Context, log: Path, ruleset: str | None, once: bool) -> None:
    """Follow a LOG as it grows: losses, time to the target, convergence; exit 1 if a rule is broken.

    For example: python -m compliance watch results/logs/tiny/20261123T143742Z/result_0.txt
    """
    from compliance.follow import watch_log

    try:
        fine = watch_log(log, ruleset, once=once)
    except NoLogs as error:
        _refuse(error)
    except KeyboardInterrupt:
        context.exit(128 + signal.SIGINT)
    context.exit(int(not fine))


@main.command("report")
@_paths
@_ruleset
@click.option("-o", "--out", type=_path, help="Write it here; to the terminal if not given.")
@click.option("--md", "form", flag_value="md", help="Markdown, for a pull request, instead of HTML.")
@click.option("--csv", "form", flag_value="csv", help="A line for each run, instead of HTML.")
@click.option("--published", "folder", type=_folder, help="Compare with the results below this folder.")
def report_command(
    paths: tuple[Path, ...], ruleset: str | None, out: Path | None, form: str | None, folder: Path | None
) -> None:
    """Write a page with verdicts, scores, curves and speed of one result or of several.

    For example: python -m compliance report results/logs/tiny/20261123T143742Z -o report.html
    """
    from compliance.report.write import render

    try:
        text = render(paths, form or "html", ruleset=ruleset, published=folder)
        if out is None:
            click.echo(text, nl=False)
        else:
            out.write_text(text, encoding="utf-8", newline="")
    except (NoLogs, OSError) as error:
        _refuse(error)


@main.command()
def rules() -> None:
    """Print every rule in words, as docs/rules.md has them."""
    from compliance.rules_page import rules_page

    click.echo(rules_page(), nl=False)


def _results(paths: tuple[Path, ...], ruleset: str | None) -> list[Result]:
    try:
        return [open_result(group, ruleset) for group in find_logs(paths)]
    except NoLogs as error:
        _refuse(error)


def _show(document: dict[str, Any], lines: list[str], *, as_json: bool) -> None:
    click.echo(json.dumps(document, indent=2) if as_json else printable("\n".join(lines)))


def _refuse(error: Exception) -> NoReturn:
    raise _Refused(printable(str(error)))


def _report_json(report: Report) -> str:
    document = {
        "format": JSON_FORMAT,
        "passed": report.passed,
        "logs": report.logs,
        "counts": {severity.lower(): count(report.findings, severity) for severity in Severity},
        "findings": [dataclasses.asdict(finding) for finding in report.findings],
    }
    return json.dumps(document, indent=2)


def _report_text(report: Report, noun: str = "log") -> str:
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


if __name__ == "__main__":
    main(prog_name="python -m compliance")
