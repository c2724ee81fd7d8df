"""What all command lines share: how they take paths, and how they report a refusal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, ClassVar

import click

from benchmark.refusal import Refused

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 120}
"""Every group and every command has these settings."""


class PathArgument(click.Path):
    """A path that is not empty: `check "$LOGS"` with LOGS unset must not mean the folder one stands in."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the path is empty (an unset variable?); write . for this folder", param, ctx)
        return super().convert(value, param, ctx)


class RulesetArgument(click.ParamType[str]):
    """The version of a ruleset: 5.1.0, or 5.1, or v5.1 as rounds and their folders are called."""

    name = "ruleset"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        # The front door, which judges nothing, imports this page.
        from benchmark.benchmarks import every_rules

        known = sorted({row.ruleset for row in every_rules()})
        version = value.removeprefix("v")
        found = next((ruleset for ruleset in known if version in (ruleset, ruleset.removesuffix(".0"))), None)
        if found is None:
            self.fail(f"there is no ruleset {value!r}; there are: {', '.join(known)}", param, ctx)
        return found


RULESET = click.option(
    "--ruleset",
    type=RulesetArgument(),
    metavar="V",
    help="Judge by this one, such as 6.0; else by run.json's, else the folder's (v5.1), else the latest.",
)


class Said(click.ClickException):
    """Prints one line for each fault of a refusal, without the usage, and ends with status 2."""

    exit_code = 2

    def __init__(self, faults: Sequence[str]) -> None:
        self._faults = faults
        super().__init__("\n".join(faults))

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo("".join(f"error: {fault}\n" for fault in self._faults), file=file, err=file is None, nl=False)


@contextmanager
def refusing_files() -> Iterator[None]:
    """Turns the error of a file that cannot be read or written into a refusal. A broken pipe stays what it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Refused(str(error)) from None


class Verbs(click.Group):
    """A group whose commands may raise Refused."""

    of_files: ClassVar[bool] = False
    """Whether its commands may also raise the OSError of a file."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with refusing_files() if self.of_files else nullcontext():
                return super().invoke(ctx)
        except Refused as error:
            raise Said(error.faults) from None
