"""Run this project's checker and the official tools on every mutation, and print the table.

`python -m tests.compliance.mutations > docs/mutations.md`
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from benchmark.errors import RefusedError
from compliance.check import check_paths
from compliance.findings import Severity
from tests.compliance.mutations.bases import Bases
from tests.compliance.mutations.mutation import Label, Mutation
from tests.compliance.mutations.official_tools import log_refusals, tree_refusals
from tests.compliance.mutations.table import CHANGED, LOGS, TREES

# Characters of an official refusal that are shown.
LONGEST = 120


@dataclass(frozen=True, kw_only=True)
class Row:
    """What each checker says about a mutation."""

    mutation: Mutation
    ours: tuple[str, ...]
    """Rules of which there is an ERROR."""
    official: tuple[str, ...]
    """Refusals."""

    @property
    def differs(self) -> str:
        """Who says something else than the label."""
        label = self.mutation.label
        ours = label is not Label.DEBATABLE and (label is Label.PASS) == bool(self.ours)
        official = bool(self.official) if label is Label.PASS else label is Label.OFFICIAL and not self.official
        return ", ".join(name for name, other in (("ours", ours), ("official", official)) if other)


def errors_of_ours(path: Path, ruleset: str) -> tuple[str, ...]:
    """The rules of which this project's checker has an ERROR, each once.

    A refusal to look at anything is one, and a crash of a rule says so.
    """
    try:
        findings = check_paths([path], ruleset).findings
    except RefusedError as refusal:
        return (f"refused: {type(refusal).__name__}",)
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    return tuple(sorted({f"{error.rule} crashed" if "crashed" in error.message else error.rule for error in errors}))


def rows() -> Iterator[Row]:
    """Judge every mutation; the official tools look at trees in a process of their own, beside."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as official,
    ):
        bases = Bases(Path(folder))
        for nth, log in enumerate(LOGS):
            into = Path(folder, f"log_{nth}")
            into.mkdir()
            path = bases.mutated_log(log, into)
            ours = errors_of_ours(path, log.ruleset)
            yield Row(mutation=log, ours=ours, official=tuple(log_refusals(path, log.ruleset)))
        asked: list[tuple[Mutation, tuple[str, ...], Future[list[str]]]] = []
        for nth, tree in enumerate(TREES):
            path = bases.mutated_tree(tree, Path(folder, f"tree_{nth}"))
            answer = official.submit(tree_refusals, path, tree.ruleset)
            asked.append((tree, errors_of_ours(path, tree.ruleset), answer))
        for mutation, ours, answer in asked:
            yield Row(mutation=mutation, ours=ours, official=tuple(answer.result()))


def markdown(table: Sequence[Row]) -> str:
    """The page: counts, every row, and the labels that were changed."""
    counts = Counter(row.mutation.label for row in table)
    parts = [
        "# Mutations",
        "",
        "This page is for comparing `llama31 check` with the official tools. Each row is a valid log or submission "
        "with one change. It shows whether the rules allow the change, and what both find. The labels were committed "
        "before this project's checker was run on any of the rows; [rules.md](rules.md#what-is-debatable) explains the "
        "debatable ones. "
        "`python -m tests.compliance.mutations` writes this page.",
        "",
        _table(("label", "meaning", "mutations"), [(label.name, label.value, str(counts[label])) for label in Label]),
        "",
        "## All",
        "",
        _table(
            ("mutation", "ruleset", "what was changed", "label", "ours", "official", "differs", "source"),
            [_cells(row) for row in table],
        ),
        "",
        "## Labels that were changed after the first run",
        "",
        _table(
            ("mutation", "from", "to", "why"),
            [(change.id, change.before.name, change.after.name, change.why) for change in CHANGED],
        ),
    ]
    return "\n".join(parts) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    mutation = row.mutation
    first, *others = row.official or ("accepts",)
    official = first[:LONGEST] + (f" (and {len(others)} more)" if others else "")
    return (
        mutation.id,
        mutation.ruleset,
        mutation.about,
        mutation.label.name,
        ", ".join(row.ours) or "passes",
        official,
        row.differs,
        mutation.source,
    )


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")
    return "".join(character if character.isprintable() else " " for character in escaped)


if __name__ == "__main__":
    sys.stdout.write(markdown(list(rows())))
