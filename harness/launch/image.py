"""python -m harness.launch.image: check that an image's libraries fit Megatron-Core, as the last step of its build.

Exit status: 0 they fit, 1 they do not.
"""

from __future__ import annotations

import click

from benchmark.config import kernels


@click.command()
def main() -> None:
    """Print which Transformer Engine is installed here; fail if it is outside the supported range."""
    transformer_engine = kernels.probe().transformer_engine
    if transformer_engine is None:
        click.echo("no Transformer Engine: an image for CPUs, or for LAYER_SPEC=torch")
    elif fault := kernels.transformer_engine_fault(transformer_engine):
        raise click.ClickException(fault)
    else:
        click.echo(f"Transformer Engine {transformer_engine}")


if __name__ == "__main__":
    main()
