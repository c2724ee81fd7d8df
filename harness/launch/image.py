"""python -m harness.launch.image: does what this image brings go with Megatron-Core? The last step of its build.

Exit status: 0 it does, 1 it does not.
"""

from __future__ import annotations

import click

from benchmark.config import kernels


@click.command()
def main() -> None:
    """Say which Transformer Engine is installed here; fail where it is outside of the range that is taken."""
    found = kernels.probe().transformer_engine
    if found is None:
        click.echo("no Transformer Engine: an image for CPUs, or for LAYER_SPEC=torch")
    elif fault := kernels.transformer_engine_fault(found):
        raise click.ClickException(fault)
    else:
        click.echo(f"Transformer Engine {found}")


if __name__ == "__main__":
    main()
