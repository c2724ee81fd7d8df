"""How commands print what they refuse."""

from __future__ import annotations

from benchmark.errors import RefusedError, error_lines


def test_every_line_of_an_error_is_prefixed() -> None:
    """Lines within one fault are prefixed too, so that a search for `error:` finds all of it."""
    refusal = RefusedError(["a step failed\nits output", "no disk"])
    assert error_lines(refusal.faults) == "error: a step failed\nerror: its output\nerror: no disk\n"
