"""Configurations: the meaning of one, a new one, and the variables of all."""

from __future__ import annotations

from pathlib import Path

import click

from benchmark.arguments import SETTINGS, PathArgument, Verbs
from benchmark.benchmarks import BENCHMARKS
from benchmark.checkout import CONFIGS
from benchmark.config import ConfigError, describe, resolve
from benchmark.hardware import GPUS
from harness.arguments import BENCHMARK_OPTION, CONFIG_FILE


@click.command(context_settings=SETTINGS)
@CONFIG_FILE
def show(file: Path | None) -> None:
    """Print the configuration of FILE, or of the environment: each value, its origin, and what follows from it.

    \b
    llama31 show config_DGX.sh
    """
    click.echo(describe(resolve(file)))


@click.group(cls=Verbs, context_settings=SETTINGS)
def config() -> None:
    """Write the config of a system."""


@config.command("new")
@click.option("--gpu", required=True, type=click.Choice(list(GPUS)))
@click.option("--nodes", required=True, type=click.IntRange(1))
@BENCHMARK_OPTION
@click.option(
    "--global-batch-size",
    type=click.IntRange(1),
    help="The nearest possible size is used; if not given, the smallest with a reference convergence point.",
)
@click.option("--system", help="Name of the system, the first part of the file name; if not given, DGXH200 and so on.")
@click.option(
    "--out",
    default=CONFIGS,
    type=PathArgument(file_okay=False, exists=True),
    help="Folder of the file; if not given, the checkout's configs/.",
)
def new(gpu: str, nodes: int, benchmark: str, global_batch_size: int | None, system: str | None, out: Path) -> None:
    """Write a config for NODES nodes that satisfies every constraint, including memory.

    \b
    llama31 config new --gpu H200 --nodes 96
    """
    from harness.config_file import write_config
    from harness.plan.config_new import new_config, variables

    if system is not None and "/" in system:
        raise ConfigError([f"--system {system}: expected the first part of a file's name, without a slash"])
    made = new_config(gpu, nodes, benchmark=BENCHMARKS[benchmark], global_batch_size=global_batch_size)
    comment = f"{made.job.gpus} {gpu}: a draft that nobody has run, planned at {made.pace.step:.2f} s a step."
    click.echo(write_config(out, system or GPUS[gpu].system, variables(made), comment))


@click.command(context_settings=SETTINGS)
@click.argument("name", required=False, metavar="[VARIABLE]")
def variables(name: str | None) -> None:
    """Explain one variable, or all of them, as in docs/variables.md.

    \b
    llama31 variables MINIBS
    llama31 variables > docs/variables.md
    """
    from harness.variables_page import variable_text, variables_page

    click.echo(variables_page() if name is None else variable_text(name), nl=False)
