"""Results: shown while they are made and afterwards, and packaged for submission."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click

from benchmark.arguments import RULESET, SETTINGS, PathArgument, refusing_files
from benchmark.errors import error_lines
from compliance import formats
from compliance.check import Report
from harness.arguments import PATHS
from harness.verbs.runs import require_checkout

_REHEARSED = 3
"""Exit status of a package that passes every check except that it is a rehearsal."""

_FOLDER = PathArgument(exists=True, file_okay=False)


@click.command(context_settings=SETTINGS)
@PATHS
@RULESET
@click.option("-o", "--out", type=PathArgument(), help="File to write; if not given, the terminal.")
@click.option("--md", "form", flag_value="md", help="Write Markdown instead of HTML, for a pull request.")
@click.option("--csv", "form", flag_value="csv", help="Write a CSV line for each run instead of HTML.")
@click.option("--published", "folder", type=_FOLDER, help="Compare with the published results below this folder.")
def report(
    paths: tuple[Path, ...], ruleset: str | None, out: Path | None, form: str | None, folder: Path | None
) -> None:
    """Write a page with verdicts, scores, curves and speed of one result or of several.

    \b
    llama31 report results/logs/tiny/20261123T143742Z -o report.html
    """
    from report.write import render

    with refusing_files():
        text = render(paths, form or "html", ruleset=ruleset, published=folder)
        if out is None:
            _print(text)
        else:
            out.write_text(text, encoding="utf-8", newline="")


_PLAIN = str.maketrans({"–": "-", "—": "-", "…": "...", "±": "+-"})
"""Plain characters for a terminal that lacks these."""


def _print(text: str) -> None:
    """Print text; a character that the terminal lacks becomes a plain one, or an escape sequence."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_PLAIN).encode(encoding, "backslashreplace").decode(encoding)
    click.echo(text, nl=False)


@click.command(context_settings=SETTINGS)
@click.argument("one", metavar="A", type=PathArgument())
@click.argument("other", metavar="B", type=PathArgument())
@RULESET
def diff(one: Path, other: Path, ruleset: str | None) -> None:
    """Compare two results or two logs: differences in configuration, versions, curves and findings.

    \b
    llama31 diff results/logs/tiny/20261123T143742Z results/logs/tiny/20261124T090000Z
    """
    from report.diff import open_one, text

    _print(text(open_one(one, ruleset), open_one(other, ruleset)))


@click.command(context_settings=SETTINGS)
@PATHS
@RULESET
@click.option("--csv", "table", type=PathArgument(dir_okay=False), help="Write a CSV file.")
@click.option(
    "--tensorboard",
    "folder",
    type=PathArgument(file_okay=False),
    help="Write TensorBoard event files below this folder.",
)
def curves(paths: tuple[Path, ...], ruleset: str | None, table: Path | None, folder: Path | None) -> None:
    """Write evaluations, training losses and step times of runs for other programs.

    \b
    llama31 curves results/logs/tiny --csv curves.csv
    llama31 curves results/logs/tiny --tensorboard runs
    """
    from report.curves import write_csv, write_tensorboard
    from report.results import gather

    if (table is None) == (folder is None):
        raise click.UsageError("expected --csv FILE or --tensorboard DIR")
    with refusing_files():
        results = gather(paths, ruleset)
        if table is not None:
            with table.open("w", encoding="utf-8", newline="") as file:
                number = write_csv(results, file)
        else:
            assert folder is not None
            number = write_tensorboard(results, folder)
    click.echo(f"{number:,} points of {sum(len(one.runs) for one in results)} runs: {table or folder}")


@click.command(context_settings=SETTINGS)
@click.argument("path", type=PathArgument(), metavar="LOG|FOLDER")
@RULESET
@click.option("--once", is_flag=True, help="Show the current state and exit.")
@click.pass_context
def watch(context: click.Context, path: Path, ruleset: str | None, once: bool) -> None:
    """Follow a LOG as it grows: losses, time to the target, convergence; exit 1 if a rule is broken.

    For a FOLDER, follow the log of its newest run.

    \b
    llama31 watch results/logs/latest
    llama31 watch results/logs/tiny/20261123T143742Z/result_0.txt
    """
    from report.follow import watch_log

    try:
        fine = watch_log(path, ruleset, once=once)
    except KeyboardInterrupt:
        context.exit(128 + signal.SIGINT)
    context.exit(int(not fine))


@click.command(context_settings=SETTINGS)
@click.argument("folders", nargs=-1, required=True, type=_FOLDER, metavar="RUNS_DIR...")
@click.option("--out", required=True, type=PathArgument(), help="The submission becomes OUT/<submitter>.")
@click.option("--system-yaml", required=True, type=PathArgument(exists=True, dir_okay=False))
@click.option("--submitter", help="Name of the submitter; if not given, the submission_org of the runs.")
@click.option("--rehearse", "rehearsal", is_flag=True, help="Package simulated runs as OUT/REHEARSAL-<submitter>.")
@click.pass_context
def package(
    context: click.Context,
    folders: tuple[Path, ...],
    out: Path,
    system_yaml: Path,
    submitter: str | None,
    rehearsal: bool,
) -> None:
    """Choose the runs that count and write a submission; if a check refuses it, exit 1 and write nothing.

    The system YAML describes what no machine knows about the system. A rehearsal exits with 3 if it passes every check
    except those that refuse rehearsals. It is not a submission, and `llama31 check` refuses it.

    \b
    llama31 package results/logs/DGXH100 --out submission --system-yaml dgxh100.yaml
    llama31 package results/simulated/DGXH100 --rehearse --out rehearsal --system-yaml dgxh100.yaml
    """
    require_checkout("package")
    from compliance.package.build import build
    from compliance.package.runs import NotPackageableError
    from harness.text import submission_lines

    try:
        submission = build(folders, out, system_yaml, submitter=submitter, rehearsal=rehearsal)
    except NotPackageableError as error:
        click.echo(error_lines(map(formats.printable, error.faults)), err=True, nl=False)
        context.exit(1)
    tree, findings = str(submission.path), submission.findings
    report = Report(logs=(tree,), findings=findings, unreadable=False, not_run=submission.not_run)
    lines = formats.printable("\n".join(submission_lines(submission)))
    click.echo(f"{formats.text(report, 'rehearsal' if rehearsal else 'submission')}\n{lines}")
    context.exit(_REHEARSED if submission.passed and rehearsal else int(not submission.passed))
