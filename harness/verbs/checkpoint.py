"""llama31 checkpoint: look at initial weights, verify them, and convert them between formats.

Exit status: 0 done, 1 a check failed, 2 wrong usage or a checkpoint that cannot be used.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

from benchmark.arguments import SETTINGS, PathArgument, Verbs
from benchmark.benchmarks import BENCHMARKS
from reference_impl.checkpoint.arrays import CheckpointError

_source = click.argument("source", type=PathArgument())
_target = click.argument("target", type=PathArgument())
_benchmark = click.option(
    "--benchmark",
    type=click.Choice(list(BENCHMARKS)),
    help="Refuse another model than this benchmark's, and keep its vocabulary's rows; all rows if not given.",
)
_jobs = click.option(
    "--jobs", type=click.IntRange(min=1), help="Files to write at once; as many as cores if not given."
)


@click.group(cls=Verbs, context_settings=SETTINGS)
def checkpoint() -> None:
    """Initial weights: a NeMo-format checkpoint, or Hugging Face's safetensors."""


@checkpoint.command()
@click.argument("folder", type=PathArgument())
def inspect(folder: Path) -> None:
    """Show what is in the checkpoint FOLDER: its model, tensors and sizes. No weights are read.

    \b
    llama31 checkpoint inspect /data/405b
    """
    from reference_impl.checkpoint.report import describe
    from reference_impl.checkpoint.source import open_checkpoint

    click.echo(describe(open_checkpoint(folder)))


@checkpoint.command()
@_source
@_target
@_benchmark
@_jobs
def convert(source: Path, target: Path, benchmark: str | None, jobs: int | None) -> None:
    """Write the checkpoint SOURCE, of any format, into TARGET in the format that training loads.

    Killed and called again it goes on, and ends with the same bytes.

    \b
    llama31 checkpoint convert Meta-Llama-3.1-405B 405b --benchmark llama31_405b
    """
    from reference_impl.checkpoint.convert import to_distributed

    _convert("convert", to_distributed, source, target, benchmark, jobs)


@checkpoint.command()
@_source
@_target
@_benchmark
@_jobs
def export(source: Path, target: Path, benchmark: str | None, jobs: int | None) -> None:
    """Write the checkpoint SOURCE, of any format, into TARGET as Hugging Face has it.

    Killed and called again it goes on, and ends with the same bytes.

    \b
    llama31 checkpoint export 405b Meta-Llama-3.1-405B
    """
    from reference_impl.checkpoint.convert import to_huggingface

    _convert("export", to_huggingface, source, target, benchmark, jobs)


def _convert(
    what: str, write: Callable[..., None], source: Path, target: Path, benchmark: str | None, jobs: int | None
) -> None:
    from reference_impl.checkpoint.convert import converted_bytes
    from reference_impl.checkpoint.parts import complete_bytes
    from reference_impl.checkpoint.source import faults_for, open_checkpoint
    from reference_impl.files.progress import progress

    weights, vocabulary = open_checkpoint(source), None
    if benchmark is not None:
        row = BENCHMARKS[benchmark]
        if faults := faults_for(weights, row.size, row.vocabulary, weights.dtype):
            raise CheckpointError(faults)
        vocabulary = row.vocabulary
    total = converted_bytes(weights, vocabulary)
    with progress(what, total, done=complete_bytes(target)) as advance:
        write(weights, target, vocabulary, advance, jobs)
    click.echo(f"{target}: {total:,} bytes of weights")


@checkpoint.command()
@click.argument("folder", type=PathArgument(exists=True, file_okay=False))
@click.option("--benchmark", type=click.Choice(list(BENCHMARKS)), help="Whose model it has to be.")
def verify(folder: Path, benchmark: str | None) -> None:
    """Compare every file of the checkpoint FOLDER with its manifest, and account for every tensor.

    \b
    llama31 checkpoint verify /data/405b --benchmark llama31_405b
    """
    from reference_impl.checkpoint.report import find_faults, read_manifest
    from reference_impl.files.progress import progress

    manifest = read_manifest(folder)
    with progress("verify", manifest.total_bytes) as advance:
        faults = find_faults(folder, manifest, BENCHMARKS[benchmark].size if benchmark else None, advance)
    click.echo("".join(f"error: {fault}\n" for fault in faults), err=True, nl=False)
    if faults:
        sys.exit(1)
    compared = f"{len(manifest.files)} files as in the manifest" if manifest.files else "no manifest to compare with"
    click.echo(f"{folder}: every tensor is there, {compared}")
