"""Runs the real GPU code of any rank on the null device."""

from __future__ import annotations

import json
from pathlib import Path

import click

from benchmark.arguments import SETTINGS, PathArgument
from benchmark.config import ConfigError
from benchmark.hardware import GPUS
from harness.arguments import AS_JSON
from harness.verbs.runs import require_checkout


@click.command(context_settings=SETTINGS)
@click.argument("file", type=PathArgument(exists=True, dir_okay=False))
@click.argument("values", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--rank", type=click.IntRange(min=0), help="Run this rank.")
@click.option("--stages", is_flag=True, help="Run one rank of the first, the second and the last pipeline stage.")
@click.option("--steps", default=2, show_default=True, type=click.IntRange(min=1), help="Steps after the warm-up.")
@click.option(
    "--microbatches",
    type=click.IntRange(min=1),
    help="Microbatches in a step; if not given, two for each pipeline stage, enough for the run's peak memory.",
)
@click.option(
    "--gpu", type=click.Choice(list(GPUS)), help="GPU to emulate; if not given, the one in the system's name."
)
@click.option("--checkpoint", type=PathArgument(file_okay=False), help="Also save to this folder and load from it.")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="Ranks to run at once.")
@AS_JSON
@click.pass_context
def dryrun(
    context: click.Context,
    file: Path,
    values: tuple[str, ...],
    rank: int | None,
    stages: bool,
    steps: int,
    microbatches: int | None,
    gpu: str | None,
    checkpoint: Path | None,
    jobs: int,
    as_json: bool,
) -> None:
    """Run the trainer of FILE as one rank of its world on a null device; exit 1 if it would not fit or run.

    Everything but the device is real: the CUDA build of torch, Transformer Engine, NCCL's calls, the allocator. Nothing
    is computed. Memory, launches, waits, products and collectives are counted.

    \b
    llama31 dryrun config_DGX.sh
    llama31 dryrun configs/config_GB200_128x4x144xtp4pp8cp2.sh --stages PRECISION=bf16
    """
    require_checkout("dryrun")
    from harness.dryrun.lines import lines
    from harness.dryrun.run import Rank, ask, run

    if rank is not None and stages:
        raise click.UsageError("--rank and --stages name different ranks: give one")
    asked = ask(file, _pairs(values), gpu)
    layout = asked.config.layout
    if rank is not None and rank >= layout.world_size:
        raise ConfigError([f"--rank {rank}: expected 0 to {layout.world_size - 1}, the ranks of the run"])
    chosen = [rank] if rank is not None else [asked.rank_of(stage) for stage in asked.stages()]
    if rank is None and not stages:
        # The second stage has as many layers as any, and most of the microbatches in flight.
        chosen = [asked.rank_of(min(1, layout.pipeline_model_parallel - 1))]
    many = _microbatches(microbatches, asked.fewer_microbatches(), layout.gradient_accumulation_steps)
    ranks = [Rank(asked=asked, rank=one, microbatches=many, steps=steps, folder=checkpoint) for one in chosen]
    whose = asked.config.system
    click.echo(f"{whose}: {len(ranks)} of its ranks on a null {asked.gpu.name}, half a minute each ...", err=True)
    failed = False
    for _, outcome in run(ranks, jobs=jobs):
        failed |= bool(outcome.faults)
        click.echo(json.dumps(outcome.document()) if as_json else "\n".join(lines(outcome)))
    context.exit(int(failed))


def _pairs(values: tuple[str, ...]) -> dict[str, str]:
    if wrong := [value for value in values if "=" not in value]:
        raise click.UsageError(f"{', '.join(wrong)}: expected NAME=VALUE")
    return dict(value.split("=", 1) for value in values)


def _microbatches(wanted: int | None, least: int, own: int) -> int:
    """Return the number of microbatches; refuse fewer than reach the peak, and more than the run has."""
    if wanted is None:
        return least
    if not least <= wanted <= own:
        raise ConfigError(
            [f"--microbatches {wanted}: expected {least} (two for each pipeline stage) to {own} (the run's)"]
        )
    return wanted
