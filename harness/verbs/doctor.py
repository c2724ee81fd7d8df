"""llama31 doctor."""

from __future__ import annotations

import click

from benchmark.arguments import SETTINGS


@click.command(context_settings=SETTINGS)
def doctor() -> None:
    """Print what a bug report needs: versions, machine, Slurm, containers, disk, and what is missing for which verb.

    It contains no secrets: of the environment, it shows only the harness's own variables.

    \b
    llama31 doctor
    """
    from compliance.formats import printable
    from harness.doctor import report

    lines = list(report())
    width = max(len(name) for name, _ in lines)
    click.echo(printable("\n".join(f"{name:{width}}  {value}" for name, value in lines)))
