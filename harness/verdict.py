"""Judges a finished set of runs: checks, score and report, and the last lines that a launch prints."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import click

from benchmark.config import RunConfig
from benchmark.files import write_at_once
from compliance.check import check_paths, find_logs, open_result
from compliance.convergence.score import score
from compliance.formats import grouped, printable
from harness.text import score_lines


def conclude(
    config: RunConfig,
    folder: Path,
    statuses: Mapping[str, int],
    causes: Sequence[str] = (),
    *,
    interrupted: bool = False,
) -> int:
    """Check the logs, print where everything is, and return the exit status.

    The verdict is FAIL only if a run did not succeed or a check refuses it. A score or a report that cannot be made is
    reported, and leaves the verdict as it is. So does the one run of a result that may miss the target, for whatever
    reason: it is excused as the slowest.

    Args:
        statuses: the exit status of each run, by the name of its log; 128 + n for signal n.
        causes: what is known about the runs that did not succeed.
        interrupted: the job was told to end, so the end of every run counts.
    """
    notes: list[str] = []
    excused: Collection[str] = ()
    marks: Collection[str] = ()
    if not any(folder.glob("result_*.txt")):
        refused = "no run has left a log"
    else:
        refused, excused, marks = _check(config, folder)
        notes += _attempt("score", lambda: _print_score(folder))
        page = folder / "report.html"
        notes += list(_attempt("report", lambda: _write_report(config, page))) or [f"report    {page}"]
    causes = [*causes, refused] if refused else causes
    counted = (status for log, status in statuses.items() if interrupted or log not in excused)
    worst = max(int(bool(refused)), *(min(status, 1) if status < 128 else status for status in counted))
    click.echo("".join(f"cause     {cause}\n" for cause in causes), nl=False)
    click.echo("".join(f"{note}\n" for note in notes), nl=False)
    click.echo(f"results   {folder}")
    click.echo(f"verdict   {', '.join(['PASS' if worst == 0 else 'FAIL', *marks])}")
    return worst


def _check(config: RunConfig, folder: Path) -> tuple[str, Collection[str], Collection[str]]:
    """Print the findings; return why the logs are refused, if they are, the excused logs, and the logs' marks."""
    try:
        report = check_paths([folder], config.rules.ruleset)
    except Exception as error:  # noqa: BLE001 - a check that crashes has not passed
        return f"compliance check crashed: {type(error).__name__}: {error}", (), ()
    click.echo(grouped(report))
    refused = "" if report.passed else "compliance check refuses the logs, see above"
    marks = dict.fromkeys(mark.upper() for result in report.results for mark in result.marks)
    return refused, {Path(log).name for log in report.excused}, marks


def _attempt(what: str, make: Callable[[], None]) -> Iterator[str]:
    """Call `make`; yield a line that says why it failed, if it did."""
    try:
        make()
    except Exception as error:  # noqa: BLE001 - whatever it was, the runs are as good as they were
        yield f"{what:9} not made: {type(error).__name__}: {error}"


def _print_score(folder: Path) -> None:
    for group in find_logs([folder]):
        click.echo(printable("\n".join(score_lines(score(open_result(group))))))


def _write_report(config: RunConfig, page: Path) -> None:
    from report.write import render

    text = render([page.parent], "html", ruleset=config.rules.ruleset)
    write_at_once(page, text)
