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
    from reference_impl.checkpoint.inspection import describe
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
    help="Tokenizer file, or Hugging Face's folder of one; SOURCE's own or the benchmark's if not given.",
)
def export(source: Path, target: Path, benchmark: str | None, jobs: int | None, tokenizer: Path | None) -> None:
    """Write the checkpoint SOURCE, of any format, into TARGET as Hugging Face has it, with all that serves it.

    Killed and called again it goes on, and ends with the same bytes.

    \b
    llama31 checkpoint export 405b Meta-Llama-3.1-405B
    llama31 checkpoint export 8b served-8b --tokenizer /data/llama31/tokenizer.json
    """
    from reference_impl.checkpoint.convert import convertible, to_huggingface
    from reference_impl.checkpoint.serving import missing, tokenizer_for

    weights, vocabulary = _opened(source, benchmark)
    rows = convertible(weights, vocabulary)[1]
    found = tokenizer_for(weights, rows, tokenizer)
    # Before hours of writing.
    click.echo(f"tokenizer: {found.path}" if found else f"warning: {missing(rows)}", err=found is None)
    _write("export", partial(to_huggingface, tokenizer=found), weights, target, vocabulary, jobs)


def _opened(source: Path, benchmark: str | None) -> tuple[Checkpoint, int | None]:
    """A checkpoint, and the vocabulary rows of the benchmark that it is for."""
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
@click.option("--benchmark", type=click.Choice(list(BENCHMARKS)), help="Whose model it has to be.")
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
