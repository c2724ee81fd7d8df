"""`python -m compliance check PATH...`: the same command as `llama31 check`, without the other verbs of `llama31`.

Exit status: 0 no ERROR finding, 1 ERROR findings, 2 wrong usage or a log that cannot be read.
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmark.arguments import RULESET, SETTINGS, PathArgument, Verbs
from compliance import formats
from compliance.check import check_paths

FORMATS = {
    "text": formats.grouped,
    "all": formats.text,
    "summary": formats.summary,
    "json": formats.as_json,
    "junit": formats.junit,
    "sarif": formats.sarif,
}
_SCORED = frozenset({"summary", "json"})


@click.group(cls=Verbs, context_settings=SETTINGS)
def main() -> None:
    """Judge MLPerf results."""


@main.command()
@click.argument("paths", nargs=-1, required=True, type=PathArgument(), metavar="PATH...")
@RULESET
@click.option("--format", "form", type=click.Choice(list(FORMATS)), default="text")
@click.option("--all", "form", flag_value="all", help="Print every finding with its source.")
@click.option("--summary", "form", flag_value="summary", help="Print one line for each result, with its score.")
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
@click.pass_context
def check(context: click.Context, paths: tuple[Path, ...], ruleset: str | None, form: str) -> None:
    """Check logs against the rules; exit 1 if one is broken.

    PATH is a log, a directory of runs, or any tree that holds result_*.txt.

    \b
    llama31 check results/
    llama31 check --summary training_results_v5.1/
    llama31 check --ruleset 5.1 --format sarif tree/ > findings.sarif
    """
    report = check_paths(paths, ruleset, scored=form in _SCORED)
    click.echo(FORMATS[form](report))
    context.exit(2 if report.unreadable else int(not report.passed))


if __name__ == "__main__":
    main(prog_name="python -m compliance")
