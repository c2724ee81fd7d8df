"""python -m benchmark: show what a configuration means, and run it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from benchmark.config import ConfigError
from benchmark.resolve import describe, resolve

_FILE = click.argument("file", required=False, type=click.Path(path_type=Path))


@click.group()
def main() -> None:
    """MLPerf Llama 3.1 pretraining: show what a configuration means, and run it."""


@main.command()
@_FILE
def show(file: Path | None) -> None:
    """Print the configuration of FILE, or of the environment: each value, where it came from, and what follows."""
    click.echo(describe(resolve(file)))


@main.command()
@_FILE
def run(file: Path | None) -> None:
    """Run the configuration of FILE, or of the environment, NEXP times on this machine, and check the results."""
    from benchmark.launch.local import run_experiments

    sys.exit(run_experiments(resolve(file)))


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        click.echo("".join(f"error: {fault}\n" for fault in error.faults), err=True, nl=False)
        sys.exit(2)
