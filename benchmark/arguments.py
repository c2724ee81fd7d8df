"""Parts that all command lines share: types of arguments, and how a refusal is printed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, ClassVar

import click

from benchmark.errors import RefusedError, error_lines

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 120}
"""The settings of every group and command."""


class PathArgument(click.Path):
    """A path that is not empty: `check "$LOGS"` with LOGS unset must not check the current folder."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the path is empty (an unset variable?); write . for the current folder", param, ctx)
        return super().convert(value, param, ctx)


class RulesetArgument(click.ParamType[str]):
    """The version of a ruleset: 5.1.0, 5.1, or v5.1 as rounds and their folders are named."""

    name = "ruleset"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        # Imported here, because commands that judge nothing import this module too.
        from benchmark.benchmarks import every_rules

        known = sorted({row.ruleset for row in every_rules()})
        version = value.removeprefix("v")
        ruleset = next((name for name in known if version in (name, name.removesuffix(".0"))), None)
        if ruleset is None:
            self.fail(f"there is no ruleset {value!r}; valid are: {', '.join(known)}", param, ctx)
        return ruleset


RULESET = click.option(
    "--ruleset",
    type=RulesetArgument(),
    metavar="V",
    help="Ruleset to judge by, such as 6.0; else that of run.json, else of the folder (v5.1), else the latest.",
)


class _CommandError(click.ClickException):
    """Prints each fault of a refusal on a line of its own, without the usage, and ends with status 2."""

    exit_code = 2

    def __init__(self, refusal: RefusedError) -> None:
        self._faults = refusal.faults
        super().__init__(str(refusal))

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(error_lines(self._faults), file=file, err=file is None, nl=False)


@contextmanager
def refusing_files() -> Iterator[None]:
    """Turn the OSError of a file into a refusal, except a broken pipe."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RefusedError(str(error)) from None


class Verbs(click.Group):
    """A group whose commands may raise RefusedError."""

    of_files: ClassVar[bool] = False
    """Whether its commands may also raise an OSError for a file."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with refusing_files() if self.of_files else nullcontext():
                return super().invoke(ctx)
        except RefusedError as error:
            raise _CommandError(error) from None
