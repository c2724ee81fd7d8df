"""python -m benchmark: show what a configuration means, and run it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from benchmark.arguments import BENCHMARK_OPTION, PathArgument
from benchmark.benchmarks import BENCHMARKS
from benchmark.config import ConfigError
from benchmark.plan.command import plan
from benchmark.plan.hardware import GPUS
from benchmark.resolve import describe, resolve

_FILE = click.argument("file", required=False, type=PathArgument())


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
    from benchmark.launch.experiments import run_experiments
    from benchmark.launch.local import Local

    resolved = resolve(file)
    sys.exit(run_experiments(resolved, Local(resolved.config)))


@main.command()
@click.option("--id", "number", required=True, metavar="$SLURM_JOB_ID")
@click.option("--nodes", "node_list", required=True, metavar="$SLURM_JOB_NODELIST")
@click.option("--restarts", type=int, default=0, metavar="$SLURM_RESTART_COUNT")
def job(number: str, node_list: str, restarts: int) -> None:
    """Run the configuration of the environment NEXP times on the nodes of this Slurm job: what run.sub calls."""
    from benchmark.launch.experiments import run_experiments
    from benchmark.launch.slurm import Job, Slurm

    resolved = resolve(None)
    click.echo(describe(resolved))
    sys.exit(run_experiments(resolved, Slurm(resolved.config, Job.find(number, node_list, restarts))))


@main.command()
@_FILE
@click.option("--out", type=PathArgument(), help="Folder for the logs, instead of LOGDIR/<DGXSYSTEM>/<time>.")
@click.option("--step-seconds", type=click.FloatRange(min=0, min_open=True), help="What a step is said to take.")
def simulate(file: Path | None, out: Path | None, step_seconds: float | None) -> None:
    """Rehearse the configuration of FILE, or of the environment: the real loop in virtual time, training nothing."""
    from benchmark.simulate import Pace, rehearse

    sys.exit(rehearse(resolve(file), out, Pace() if step_seconds is None else Pace(step=step_seconds)))


main.add_command(plan)


@main.group()
def config() -> None:
    """Configs of systems."""


@config.command("new")
@click.option("--gpu", required=True, type=click.Choice(list(GPUS)))
@click.option("--nodes", required=True, type=click.IntRange(1))
@BENCHMARK_OPTION
@click.option(
    "--global-batch-size",
    type=click.IntRange(1),
    help="The nearest possible one is taken; the smallest that the reference's convergence is known at if not given.",
)
@click.option("--system", help="Name of the system, the first part of the file's; DGXH200 and so on if not given.")
@click.option("--out", default=".", type=PathArgument(file_okay=False, exists=True), help="Its folder.")
def config_new(
    gpu: str, nodes: int, benchmark: str, global_batch_size: int | None, system: str | None, out: Path
) -> None:
    """Write the config of a run on NODES nodes, with the constraints solved, memory among them.

    For example: python -m benchmark config new --gpu H200 --nodes 96
    """
    from benchmark.config_file import file_name, render
    from benchmark.config_new import new_config, variables

    if system is not None and "/" in system:
        raise ConfigError([f"--system {system}: expected the first part of a file's name, without a slash"])
    made = new_config(gpu, nodes, benchmark=BENCHMARKS[benchmark], global_batch_size=global_batch_size)
    values = variables(made)
    path = out / file_name(system or GPUS[gpu].system, values)
    comment = f"{made.job.gpus} {gpu}: a draft that nobody has run, planned at {made.pace.step:.2f} s a step."
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(render(values, comment))
    except OSError as error:
        raise ConfigError([f"{path} cannot be written: {error.strerror}"]) from None
    click.echo(path)


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        click.echo("".join(f"error: {fault}\n" for fault in error.faults), err=True, nl=False)
        sys.exit(2)
