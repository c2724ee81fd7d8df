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


@main.command()
@_FILE
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for the logs, instead of LOGDIR/<DGXSYSTEM>/<time>."
)
@click.option("--step-seconds", type=click.FloatRange(min=0, min_open=True), help="What a step is said to take.")
def simulate(file: Path | None, out: Path | None, step_seconds: float | None) -> None:
    """Rehearse the configuration of FILE, or of the environment: the real loop in virtual time, training nothing."""
    from benchmark.simulate import Pace, rehearse

    sys.exit(rehearse(resolve(file), out, Pace() if step_seconds is None else Pace(step=step_seconds)))


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        click.echo("".join(f"error: {fault}\n" for fault in error.faults), err=True, nl=False)
        sys.exit(2)
