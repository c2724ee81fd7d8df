"""Arguments that several verbs share."""

from __future__ import annotations

import click

from benchmark.arguments import PathArgument
from benchmark.benchmarks import BENCHMARKS, DEFAULT

CONFIG_FILE = click.argument("file", required=False, type=PathArgument())
"""A config file. Without one, the environment is the configuration."""

BENCHMARK_OPTION = click.option(
    "--benchmark",
    type=click.Choice(list(BENCHMARKS)),
    default=DEFAULT.name,
    show_default=True,
    help="Whose model and rules.",
)

PATHS = click.argument("paths", nargs=-1, required=True, type=PathArgument(), metavar="PATH...")
"""Logs, folders of runs, or any trees that hold result_*.txt."""

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
STEP_SECONDS = click.FloatRange(min=0, min_open=True)
