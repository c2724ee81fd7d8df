"""Judges a configuration before it runs, and anybody's results."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from benchmark.arguments import RULESET, SETTINGS, PathArgument, refusing_files
from benchmark.files import write_at_once
from compliance import formats
from compliance.check import Report, find_logs, open_results
from compliance.result import Result
from harness.arguments import AS_JSON, PATHS, STEP_SECONDS


@click.command(context_settings=SETTINGS)
@click.argument("file", required=False, type=PathArgument(exists=True, dir_okay=False))
@click.option("--step-seconds", type=STEP_SECONDS, help="Step time to judge WALLTIME by, instead of the planner's.")
@click.option(
    "--system-yaml",
    type=PathArgument(exists=True, dir_okay=False),
    help="Also judge the description of the system.",
)
@AS_JSON
@click.pass_context
def preflight(
    context: click.Context, file: Path | None, step_seconds: float | None, system_yaml: Path | None, as_json: bool
) -> None:
    """Check the configuration of FILE, or of the environment, before it runs; exit 1 if a run would be refused.

    It applies the rules that its logs must meet, and checks the data, weights and folders that this machine sees. It
    reads only their sizes and headers. WALLTIME is compared with the prediction of `llama31 plan`.

    \b
    llama31 preflight configs/config_DGXH100_64x8x288xtp8pp8cp2.sh --system-yaml system.yaml
    llama31 preflight config_DGX.sh --step-seconds 12
    """
    from harness.here import check_here
    from harness.preflight import check_plan, make_plan, warnings

    plan = make_plan(file, step_seconds=step_seconds, system_yaml=system_yaml)
    findings = (*check_plan(plan), *check_here(plan))
    report = Report(logs=(plan.file,), findings=findings, unreadable=False)
    warned = warnings(plan.possible) if plan.possible else []
    if as_json:
        click.echo(
            json.dumps({**json.loads(formats.as_json(report)), "warnings": warned, "origins": plan.origins}, indent=2)
        )
    else:
        click.echo("\n".join([*plan.origins, *warned, formats.text(report, "configuration")]))
    context.exit(int(not report.passed))


@click.command(context_settings=SETTINGS)
@PATHS
@RULESET
@AS_JSON
def score(paths: tuple[Path, ...], ruleset: str | None, as_json: bool) -> None:
    """Print minutes from run_start to run_stop; for a full set of runs, the olympic mean, raw and normalised.

    \b
    llama31 score results/logs/tiny/20261123T143742Z
    """
    from compliance.convergence.score import score as score_of
    from harness.text import score_lines

    scores = [score_of(result) for result in _results(paths, ruleset)]
    document = {
        "format": formats.JSON_FORMAT,
        "results": [{**dataclasses.asdict(one), "summarised_minutes": one.summarised_minutes} for one in scores],
    }
    _show(document, [line for result in scores for line in score_lines(result)], as_json=as_json)


@click.command(context_settings=SETTINGS)
@PATHS
@click.option(
    "--write",
    type=PathArgument(dir_okay=False),
    metavar="FILE",
    help="Compare nothing; write the runs as reference convergence points for rcp_checker --custom_rcps.",
)
@RULESET
@AS_JSON
@click.pass_context
def rcp(
    context: click.Context, paths: tuple[Path, ...], write: Path | None, ruleset: str | None, as_json: bool
) -> None:
    """Compare convergence with the reference; exit 1 beyond the limit of the policy or the official tool.

    Launches of one system and batch size are one result. With --write, exit 1 if the runs make no complete reference.

    \b
    llama31 rcp results/
    llama31 rcp --write rcp.json results/logs/tiny
    """
    results = _results(paths, ruleset)
    if write is None:
        context.exit(_compare(results, as_json=as_json))
    context.exit(_write_references(results, write, as_json=as_json))


def _compare(results: list[Result], *, as_json: bool) -> int:
    from compliance.convergence.pool import pooled
    from compliance.convergence.rcp import compare
    from harness.text import convergence_lines

    convergences = [compare(result) for result in pooled(results)]
    document = {
        "format": formats.JSON_FORMAT,
        "results": [{**dataclasses.asdict(convergence), "passed": convergence.passed} for convergence in convergences],
    }
    _show(document, [line for convergence in convergences for line in convergence_lines(convergence)], as_json=as_json)
    return int(not all(convergence.passed for convergence in convergences))


def _write_references(results: list[Result], file: Path, *, as_json: bool) -> int:
    from compliance.convergence.reference import document, references
    from harness.text import reference_lines

    points = references(results)
    with refusing_files():
        write_at_once(file, document(points))
    written = {
        "format": formats.JSON_FORMAT,
        "file": str(file),
        "references": [dataclasses.asdict(one) for one in points],
    }
    _show(written, list(reference_lines(points, file)), as_json=as_json)
    return int(any(point.lacks for point in points))


@click.command(context_settings=SETTINGS)
@click.argument("path", type=PathArgument())
@RULESET
@AS_JSON
@click.pass_context
def official(context: click.Context, path: Path, ruleset: str | None, as_json: bool) -> None:
    """Run the official mlperf_logging tools on a copy; exit 1 if one rejects it.

    PATH is a log, a directory of runs, or a submitter's tree.

    \b
    llama31 official results/logs/tiny/20261123T143742Z
    """
    from compliance.official import judge
    from harness.counting import counting
    from harness.text import official_lines

    with counting("official", "verdicts") as advance:
        verdicts = judge(path, ruleset, advance=advance)
    document = {"format": formats.JSON_FORMAT, "passed": verdicts.passed, **dataclasses.asdict(verdicts)}
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        for line in official_lines(verdicts):
            click.echo(formats.printable(line))
        click.echo(formats.text(Report(logs=(str(path),), findings=verdicts.findings, unreadable=False), "path"))
    context.exit(int(not verdicts.passed))


@click.command(context_settings=SETTINGS)
@click.argument("rule", required=False, metavar="[RULE]")
def rules(rule: str | None) -> None:
    """Explain one rule, or all of them, as in docs/rules.md.

    \b
    llama31 rules eval.cadence
    llama31 rules > docs/rules.md
    """
    from harness.rules_page import rule_text, rules_page

    click.echo(rules_page() if rule is None else rule_text(rule), nl=False)


def _results(paths: tuple[Path, ...], ruleset: str | None) -> list[Result]:
    return [result for _, result in open_results(find_logs(paths), ruleset)]


def _show(document: dict[str, Any], lines: list[str], *, as_json: bool) -> None:
    click.echo(json.dumps(document, indent=2) if as_json else formats.printable("\n".join(lines)))
