"""python -m reference_impl.data: make and verify datasets."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from reference_impl.data import corpus
from reference_impl.data.manifest import DataError, verify
from reference_impl.tokenizer import Tokenizer, TokenizerError, benchmark_tokenizer


@click.group()
def main() -> None:
    """Make and verify datasets."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
def prepare(folder: Path) -> None:
    """Tokenise the built-in corpus into FOLDER."""
    manifest = corpus.prepare(folder, Tokenizer(benchmark_tokenizer()))
    click.echo(f"{folder}: {sum(entry.bytes for entry in manifest.files.values()):,} bytes of {manifest.corpus}")


@main.command("verify")
@click.argument("folder", type=click.Path(path_type=Path))
def verify_command(folder: Path) -> None:
    """Compare every file of FOLDER with its manifest."""
    manifest = verify(folder, Tokenizer(benchmark_tokenizer()))
    click.echo(f"{folder}: {len(manifest.files)} files as in the manifest")


if __name__ == "__main__":
    try:
        main()
    except (DataError, TokenizerError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
