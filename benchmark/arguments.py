"""What the command lines share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from benchmark.benchmarks import BENCHMARKS, DEFAULT


class PathArgument(click.Path):
    """A path that is not empty: `check "$LOGS"` with LOGS unset must not mean the folder one stands in."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the path is empty (an unset variable?); write . for this folder", param, ctx)
        return super().convert(value, param, ctx)


BENCHMARK_OPTION = click.option(
    "--benchmark",
    type=click.Choice(list(BENCHMARKS)),
    default=DEFAULT.name,
    show_default=True,
    help="Whose model and rules.",
)
