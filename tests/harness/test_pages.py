"""docs/variables.md and docs/commands.md equal what their commands write, and leave nothing out."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from benchmark.checkout import ROOT
from benchmark.config import NAMES
from harness.__main__ import main
from harness.commands_page import commands_page
from harness.variables_page import variable_text, variables_page


def test_variables_page_is_what_the_command_prints() -> None:
    """docs/variables.md is what `llama31 variables` prints."""
    result = CliRunner().invoke(main, ["variables"])
    page = (ROOT / "docs" / "variables.md").read_text(encoding="utf-8")
    assert result.output == page, "renew it: llama31 variables > docs/variables.md"


def test_commands_page_is_what_the_command_prints() -> None:
    """docs/commands.md is the help of every verb."""
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert commands_page() == page, "renew it: python -m harness.commands_page > docs/commands.md"


def test_every_variable_is_explained() -> None:
    """Each variable has a row of its own, and a meaning."""
    rows = {line.split("`")[1]: line for line in variables_page().splitlines() if line.startswith("| `")}
    assert set(rows) == set(NAMES)
    assert [name for name, row in rows.items() if row.endswith("| |")] == []


def test_one_variable_is_printed_in_words() -> None:
    """`llama31 variables NAME` says what it means, which values it takes, and what holds without it."""
    assert variable_text("NEXP").splitlines()[2:] == [
        "Number of runs, one after the other, each with its own seed.",
        "",
        "values    integer from 1 to 1,000,000",
        "if unset  1",
    ]


@pytest.mark.parametrize(("typed", "meant"), [("MINIBATCH", "MINIBS"), ("nexp", "NEXP"), ("zzz", "has all")])
def test_unknown_variable_is_refused_with_what_it_may_mean(typed: str, meant: str) -> None:
    """An unknown variable exits 2, and the error names the nearest ones."""
    result = CliRunner().invoke(main, ["variables", typed])
    assert result.exit_code == 2
    assert meant in result.output
