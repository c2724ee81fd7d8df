"""llama31 data: make, index and look at datasets.

Exit status: 0 done, 1 a check failed, 2 wrong usage or data that cannot be read.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TextIO

import click
from click.core import ParameterSource

from benchmark.arguments import SETTINGS, PathArgument, Verbs
from benchmark.benchmarks import BENCHMARKS, DEFAULT, LLAMA31_TINY
from benchmark.plurals import counted
from harness.arguments import BENCHMARK_OPTION
from reference_impl.data.published import PUBLISHED
from reference_impl.tokenizer import Tokenizer, benchmark_tokenizer

_folder = click.argument("folder", type=PathArgument())
_existing = PathArgument(exists=True)
_tokenizer = click.option("--tokenizer", type=_existing, help="Tokenizer file; if not given, the benchmark's own.")
_dataset = click.Choice([name for name, published in PUBLISHED.items() if published.benchmark])
_expect = click.option(
    "--expect", type=click.Choice(list(PUBLISHED)), help="The published files that FOLDER must hold."
)


class _DataVerbs(Verbs):
    """A group whose commands report a fault in a file like a fault in data."""

    of_files = True


@click.group(cls=_DataVerbs, context_settings=SETTINGS)
def data() -> None:
    """Download, make, check and index datasets."""


@data.command()
@_folder
@click.option(
    "--c4", type=_existing, help="Folder of C4's c4-*.json.gz or c4-*.json; if not given, the built-in corpus."
)
@BENCHMARK_OPTION
@_tokenizer
@click.option("--workers", type=click.IntRange(1, 1024), help="Number of processes; if not given, one for each core.")
@click.option("--skip-faulty", is_flag=True, help="Omit and count faulty lines instead of refusing the shard.")
def prepare(
    folder: Path, c4: Path | None, benchmark: str, tokenizer: Path | None, workers: int | None, skip_faulty: bool
) -> None:
    """Tokenise a corpus into the dataset FOLDER, which appears when it is complete.

    If it is killed, call it again: it continues and produces the same bytes.

    \b
    llama31 data prepare /data/llama31_405b --c4 /data/c4/en
    llama31 data prepare /data/c4_8b --c4 /data/c4/en --benchmark llama31_8b --tokenizer /data/llama3/tokenizer.model
    llama31 data prepare /data/tiny
    """
    from reference_impl.data.prepare import built_in, dataset
    from reference_impl.data.prepare import c4 as shards
    from reference_impl.files.checksum import cores
    from reference_impl.files.progress import progress

    origin = click.get_current_context().get_parameter_source("benchmark")
    if c4 is None and origin is ParameterSource.COMMANDLINE and BENCHMARKS[benchmark].dataset.files is not None:
        raise click.UsageError(f"--benchmark {benchmark} is made from C4's shards: name their folder with --c4")
    path = tokenizer or benchmark_tokenizer((LLAMA31_TINY if c4 is None else BENCHMARKS[benchmark]).tokenizer)
    plan = built_in.plan(path) if c4 is None else shards.plan(benchmark, c4, path)
    with progress("prepare", plan.size) as advance:
        counts = dataset.prepare(folder, plan, workers=workers or cores(), skip_faulty=skip_faulty, advance=advance)
    click.echo("\n".join(dataset.report(counts)))


@data.command()
@click.argument("file", required=False, type=PathArgument(exists=True, dir_okay=False))
def index(file: Path | None) -> None:
    """Build the shuffled index of the run that FILE or the environment describes, for each of its seeds.

    The index goes to NPY_INDEX_DIR. The run finds it there if data, tokenizer, seed and number of samples are the same.

    \b
    SEED=7 DATADIR=/data/c4 NPY_INDEX_DIR=/data/index MAX_STEPS=500 \\
        llama31 data index configs/config_DGXH100_64x8x288xtp8pp8cp2.sh
    """
    from benchmark.config import resolve

    config = resolve(file).config
    from reference_impl.quiet import quieten_libraries

    # Before they are imported.
    quieten_libraries()
    from reference_impl.data.read.index import prebuild

    for line in prebuild(config):
        click.echo(line)


@data.command()
@_folder
@click.option("--expect", type=_dataset, help="The published dataset that FOLDER must hold.")
@_tokenizer
@click.option(
    "--samples", default=2, show_default=True, type=click.IntRange(0), help="Documents to decode from each pair."
)
def inspect(folder: Path, expect: str | None, tokenizer: Path | None, samples: int) -> None:
    """Show the contents of the dataset FOLDER: documents, tokens, samples, and how some documents start.

    Exit status: 0 as expected, 1 other counts or another type of tokens.

    \b
    llama31 data inspect /data/c4 --expect llama31_405b
    """
    from reference_impl.data import inspect as inspection

    row = BENCHMARKS[expect] if expect else DEFAULT
    length = row.rules[-1].sequence_length
    sizes = PUBLISHED[expect].sizes if expect else {}
    opened = Tokenizer(tokenizer or benchmark_tokenizer(row.tokenizer))
    contents = [
        inspection.contents(folder, prefix, opened, sequence_length=length, samples=samples)
        for prefix in inspection.prefixes(folder)
    ]
    click.echo(inspection.text(contents, length))
    faults = list(inspection.faults(contents, sizes, opened))
    for fault in faults:
        click.echo(fault)
    if faults:
        sys.exit(1)


@data.command()
@click.argument("source")
@_folder
@_expect
@click.option("--connections", default=8, show_default=True, type=click.IntRange(1, 256), help="Parallel requests.")
@click.option(
    "--timeout",
    default=30.0,
    show_default=True,
    type=click.FloatRange(0.1),
    help="Seconds without a byte before a request is repeated.",
)
@click.option("--headers", type=click.File(), help="File of HTTP headers for SOURCE's host, such as a service token.")
def download(
    source: str, folder: Path, expect: str | None, connections: int, timeout: float, headers: TextIO | None
) -> None:
    """Download the files that SOURCE lists into FOLDER, and check them.

    SOURCE is the name of a published set, an address that ends in .uri, or a base URL or folder with manifest.json. A
    download that ended early continues. Intact files are not fetched again.

    \b
    llama31 data download llama31_405b /data/c4
    llama31 data download llama31_405b-tokenizer /data/tokenizer
    llama31 data download https://mirror/405b /data/405b --expect llama31_405b-checkpoint
    llama31 data download /mnt/mirror/c4 /local/c4
    """
    from reference_impl.data.fetch.download import Settings, download_set
    from reference_impl.data.fetch.listing import listing, parse_headers
    from reference_impl.data.fetch.sources import RetryPolicy
    from reference_impl.files.progress import progress, size

    published = PUBLISHED.get(expect or source)
    location = PUBLISHED[source].address if source in PUBLISHED else source
    settings = Settings(connections=connections, patience=RetryPolicy(notice=partial(click.echo, err=True)))
    listed = listing(
        location,
        published=published,
        headers=parse_headers(headers),
        timeout_s=timeout,
        patience=settings.patience,
    )
    manifest = download_set(listed, folder, published, settings, progress)
    click.echo(f"{folder}: {counted(len(manifest.files), 'file')}, {size(manifest.total_bytes)}, {listed.promise}")


@data.command()
@_folder
@_expect
@click.option("--quick", is_flag=True, help="Compare only sizes.")
@click.option("--init", is_flag=True, help="Write the manifest of a copy that you know to be good.")
@click.option("--repair", is_flag=True, help="First rename the misspelt and nested files of MLCommons' bucket.")
@click.option("--jobs", type=click.IntRange(1, 256), help="Files to read at once; if not given, one for each core.")
def verify(folder: Path, expect: str | None, quick: bool, init: bool, repair: bool, jobs: int | None) -> None:
    """Compare every file of FOLDER with its manifest and list every difference.

    Exit status: 0 no difference, 1 a file is missing, different or unexpected.

    \b
    llama31 data verify /data/c4
    llama31 data verify --quick --expect llama31_405b /data/c4
    llama31 data verify --init --expect llama31_405b /data/c4
    """
    from reference_impl.data import verify as folders
    from reference_impl.files.progress import progress, size

    published = PUBLISHED[expect] if expect else None
    if init and quick:
        raise click.UsageError("--init reads every byte, so --quick cannot go with it; give one of them")
    for line in folders.repair(folder) if repair else ():
        click.echo(line)
    if init:
        manifest = folders.initialise(folder, published, progress)
        there = f"{counted(len(manifest.files), 'file')}, {size(manifest.total_bytes)}"
        click.echo(f"{folder}: {there}, described in manifest.json")
        return
    verdict = folders.compare(folder, published, quick=quick, jobs=jobs, show=progress)
    for fault in verdict.faults:
        click.echo(fault)
    if verdict.faults:
        click.echo(f"{folder}: {counted(len(verdict.faults), 'fault')}", err=True)
        sys.exit(1)
    click.echo(f"{folder}: {verdict.summary}")
