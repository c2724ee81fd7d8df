"""Turns paths into the text of a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from report import results
from report.markdown import to_markdown
from report.page import to_html
from report.table import to_csv


def render(
    paths: Sequence[Path], form: str = "html", *, ruleset: str | None = None, published: Path | None = None
) -> str:
    """Return the report on the results under some paths, as `html`, `md` or `csv`.

    Args:
        ruleset: as compliance.check.check_paths.
        published: a folder of results to compare with.

    Raises:
        NoLogsError: as compliance.check.find_logs.
    """
    found = results.gather(paths, ruleset)
    if form == "csv":
        return to_csv(found)
    others = [] if published is None else results.published(published)
    return {"html": to_html, "md": to_markdown}[form](found, others)
