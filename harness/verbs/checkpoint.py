"""llama31 checkpoint: look at initial weights, verify them, and convert them between formats.

Exit status: 0 done, 1 a check failed, 2 wrong usage or a checkpoint that cannot be used.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmark.arguments import SETTINGS, PathArgument, Verbs
from benchmark.benchmarks import BENCHMARKS
from benchmark.errors import error_lines
from reference_impl.checkpoint.arrays import CheckpointError

if TYPE_CHECKING:
    from reference_impl.checkpoint.source import Checkpoint

_source = click.argument("source", type=PathArgument())
_target = click.argument("target", type=PathArgument())
_benchmark = click.option(
    "--benchmark",
    type=click.Choice(list(BENCHMARKS)),
    help="Refuse any model but this benchmark's, and keep only the rows of its vocabulary; without it, all rows.",
)
_jobs = click.option(
    "--jobs", type=click.IntRange(min=1), help="Files to write at once; if not given, one for each core."
)


@click.group(cls=Verbs, context_settings=SETTINGS)
def checkpoint() -> None:
    """Inspect, convert and verify initial weights, in NeMo's or Hugging Face's format."""


@checkpoint.command()
@click.argument("folder", type=PathArgument())
def inspect(folder: Path) -> None:
    """Show what is in the checkpoint FOLDER: its model, tensors and sizes. No weights are read.

    \b
    llama31 checkpoint inspect /data/405b
    """
    from reference_impl.checkpoint.inspection import describe
    from reference_impl.checkpoint.source import open_checkpoint

    click.echo(describe(open_checkpoint(folder)))


@checkpoint.command()
@_source
@_target
@_benchmark
@_jobs
def convert(source: Path, target: Path, benchmark: str | None, jobs: int | None) -> None:
    """Convert the checkpoint SOURCE, in any format, to NeMo's format in TARGET, which training loads.

    If it is killed, call it again: it continues and produces the same bytes.

    \b
    llama31 checkpoint convert Meta-Llama-3.1-405B 405b --benchmark llama31_405b
    """
    from reference_impl.checkpoint.convert import to_distributed

    weights, vocabulary = _opened(source, benchmark)
    _write("convert", to_distributed, weights, target, vocabulary, jobs)


@checkpoint.command()
@_source
@_target
@_benchmark
@_jobs
@click.option(
    "--tokenizer",
    type=PathArgument(exists=True),
    help="Tokenizer file, or a Hugging Face folder with one; if not given, SOURCE's own or the benchmark's.",
)
def export(source: Path, target: Path, benchmark: str | None, jobs: int | None, tokenizer: Path | None) -> None:
    """Convert the checkpoint SOURCE, in any format, to Hugging Face's format in TARGET, ready for serving.

    If it is killed, call it again: it continues and produces the same bytes.

    \b
    llama31 checkpoint export 405b Meta-Llama-3.1-405B
    llama31 checkpoint export 8b served-8b --tokenizer /data/llama31/tokenizer.json
    """
    from reference_impl.checkpoint.convert import convertible, to_huggingface
    from reference_impl.checkpoint.serving import missing, tokenizer_for

    weights, vocabulary = _opened(source, benchmark)
    rows = convertible(weights, vocabulary)[1]
    served = tokenizer_for(weights, rows, tokenizer)
    # Before hours of writing.
    click.echo(f"tokenizer: {served.path}" if served else f"warning: {missing(rows)}", err=served is None)
    _write("export", partial(to_huggingface, tokenizer=served), weights, target, vocabulary, jobs)


def _opened(source: Path, benchmark: str | None) -> tuple[Checkpoint, int | None]:
    """Open a checkpoint; return it with the vocabulary rows of the benchmark that it is for."""
    from reference_impl.checkpoint.source import faults_for, open_checkpoint

    weights = open_checkpoint(source)
    if benchmark is None:
        return weights, None
    row = BENCHMARKS[benchmark]
    if faults := faults_for(weights, row.size, row.vocabulary, weights.dtype):
        raise CheckpointError(faults)
    return weights, row.vocabulary


def _write(
    what: str, write: Callable[..., None], weights: Checkpoint, target: Path, vocabulary: int | None, jobs: int | None
) -> None:
    from reference_impl.checkpoint.convert import converted_bytes
    from reference_impl.checkpoint.parts import complete_bytes
    from reference_impl.files.progress import progress

    total = converted_bytes(weights, vocabulary)
    with progress(what, total, done=complete_bytes(target)) as advance:
        write(weights, target, vocabulary, advance, jobs)
    click.echo(f"{target}: {total:,} bytes of weights")


@checkpoint.command()
@click.argument("folder", type=PathArgument(exists=True, file_okay=False))
@click.option("--benchmark", type=click.Choice(list(BENCHMARKS)), help="The benchmark whose model it must be.")
def verify(folder: Path, benchmark: str | None) -> None:
    """Compare every file of the checkpoint FOLDER with its manifest, and account for every tensor.

    \b
    llama31 checkpoint verify /data/405b --benchmark llama31_405b
    """
    from reference_impl.checkpoint.inspection import find_faults, read_manifest
    from reference_impl.files.progress import progress

    manifest = read_manifest(folder)
    with progress("verify", manifest.total_bytes) as advance:
        faults = find_faults(folder, manifest, BENCHMARKS[benchmark].size if benchmark else None, advance)
    click.echo(error_lines(faults), err=True, nl=False)
    if faults:
        sys.exit(1)
    compared = f"{len(manifest.files)} files as in the manifest" if manifest.files else "no manifest to compare with"
    click.echo(f"{folder}: every tensor is there, {compared}")
