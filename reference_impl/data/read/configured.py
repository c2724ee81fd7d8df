"""Which data a run reads. Imports without torch, so that a wrong dataset is refused in a blink."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmark.benchmarks import Benchmark
from benchmark.checkout import ROOT
from benchmark.config import RunConfig
from benchmark.files import locked
from reference_impl.data.pair import stored_type
from reference_impl.data.published import PUBLISHED, benchmark_faults
from reference_impl.files.manifest import FILE_NAME, DataError, Manifest, dataset_faults, file_faults, load
from reference_impl.tokenizer import Tokenizer, TokenizerError, benchmark_tokenizer

BUILT_IN = ROOT / "data" / "tiny"

HASHED_BYTES = 1 << 30
"""Datasets up to this size are hashed before each run, in a second; of larger ones the sizes are compared."""


@dataclass(frozen=True)
class ReadyDataset:
    """A dataset that a run may read."""

    manifest: Manifest
    compared: Literal["bytes", "sizes"]
    """What of the files was compared with the manifest just now."""


def data_folder(config: RunConfig) -> Path:
    """DATADIR, or the built-in corpus where the benchmark has one.

    Raises:
        DataError: DATADIR is not set and the benchmark has no data of its own.
    """
    if config.data.data_dir is not None:
        return config.data.data_dir
    if config.benchmark_row.dataset.files is not None:
        raise DataError(f"DATADIR is not set; {config.benchmark} trains on the dataset in that folder")
    return BUILT_IN


def tokenizer_of(config: RunConfig) -> Tokenizer:
    """TOKENIZER, or the benchmark's own.

    Raises:
        TokenizerError: there is none, or it cannot be read.
    """
    return Tokenizer(config.data.tokenizer or benchmark_tokenizer(config.benchmark_row.tokenizer))


def dataset_of(config: RunConfig) -> Manifest:
    """What the data folder holds: as its manifest says or, where it has none, as the benchmark's dataset is published.

    Raises:
        DataError: neither is to be had, or it is another dataset than the benchmark's: of another vocabulary or
            tokenizer, for other uses, with files that are missing or of another size than the published ones.
    """
    manifest, faults = _described(config)
    if faults:
        raise DataError("\n".join(faults))
    return manifest


def _described(config: RunConfig) -> tuple[Manifest, list[str]]:
    """See dataset_of: the manifest, and how it differs from the benchmark's row."""
    folder, published = data_folder(config), PUBLISHED.get(config.benchmark)
    if published is None or (folder / FILE_NAME).exists():
        manifest, faults = load(folder), [] if published is None else published.size_faults(folder)
    else:
        manifest, faults = published.found_in(folder), []
    return manifest, [*faults, *benchmark_faults(config.benchmark_row, folder, manifest)]


def ready(config: RunConfig) -> ReadyDataset:
    """Return the run's dataset, compared with its manifest; it is made first if it is the built-in corpus and not there
    yet.

    No earlier comparison is remembered. All bytes of a large dataset are compared by `python -m reference_impl.data
    verify`, when it is asked to.

    Raises:
        DataError, TokenizerError: the data is not there or not right.
    """
    folder, tokenizer = data_folder(config), tokenizer_of(config)
    if config.data.data_dir is None:
        _make_built_in(folder)
    manifest, differences = _described(config)
    quick = manifest.total_bytes > HASHED_BYTES
    faults = [*differences, *_faults(config.benchmark_row, folder, manifest, tokenizer, quick=quick)]
    if faults:
        raise DataError("\n".join(dict.fromkeys(faults)))
    return ReadyDataset(manifest, compared="sizes" if quick else "bytes")


def quick_faults(config: RunConfig) -> list[str]:
    """What `ready` would refuse, a line each, by the sizes of files alone. Nothing is made."""
    found: list[str] = []
    try:
        tokenizer = tokenizer_of(config)
    except TokenizerError as error:
        found += error.faults
        tokenizer = None
    try:
        folder = data_folder(config)
        if config.data.data_dir is None and not folder.exists():
            # The built-in corpus, which the first run makes.
            return found
        manifest, differences = _described(config)
    except DataError as error:
        return [*found, *(line for fault in error.faults for line in fault.splitlines())]
    found += differences
    if tokenizer is not None:
        found += _faults(config.benchmark_row, folder, manifest, tokenizer, quick=True)
    return list(dict.fromkeys(found))


def _faults(
    benchmark: Benchmark, folder: Path, manifest: Manifest, tokenizer: Tokenizer, *, quick: bool
) -> Iterator[str]:
    """Yield how the files differ from the manifest, and the tokenizer from what made them."""
    yield from file_faults(folder, manifest.files, quick=quick)
    yield from dataset_faults(folder, manifest, tokenizer)
    yield from _tokenizer_faults(benchmark, tokenizer)
    yield from _type_faults(folder, manifest, tokenizer)


def _tokenizer_faults(benchmark: Benchmark, tokenizer: Tokenizer) -> Iterator[str]:
    """Yield how a tokenizer file differs from the benchmark's row, whatever the data say."""
    wanted = benchmark.tokenizer
    this, that = f"tokenizer {tokenizer.path}", f"that of {benchmark.name}, {wanted.about},"
    if tokenizer.vocab_size != wanted.vocabulary:
        yield f"{this} has {tokenizer.vocab_size:,} pieces; {that} has {wanted.vocabulary:,}"
    elif tokenizer.kind not in wanted.kinds:
        yield f"{this} is a {tokenizer.kind}; {that} is a {' or a '.join(sorted(wanted.kinds))}"
    elif wanted.sha256 not in (None, tokenizer.sha256):
        yield f"{this} has sha256 {tokenizer.sha256}; {that} has {wanted.sha256}"


def _type_faults(folder: Path, manifest: Manifest, tokenizer: Tokenizer) -> Iterator[str]:
    """Yield the pairs whose token type does not fit the tokenizer's vocabulary: another tokenizer made them."""
    for prefix in manifest.prefixes:
        # One that is missing is a fault of the files already.
        if not (folder / f"{prefix}.idx").exists():
            continue
        try:
            stored = stored_type(folder / prefix)
        except DataError as error:
            yield str(error)
            continue
        if stored != tokenizer.dtype:
            yield f"{folder / prefix}.bin holds {stored}, tokens of {tokenizer.path.name} are {tokenizer.dtype}"


def _make_built_in(folder: Path) -> None:
    """Make the built-in corpus unless it is there; of several runs that start at once, one does and the others wait."""
    if folder.exists():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent):
            if not folder.exists():
                from reference_impl.data.prepare import built_in

                # Always with the benchmark's own tokenizer; TOKENIZER is then compared with it.
                built_in.prepare(folder, Tokenizer(benchmark_tokenizer()))
    except OSError as error:
        raise DataError(
            f"{folder} cannot be made: {error.strerror}; set DATADIR to a folder elsewhere, which "
            "`llama31 data prepare FOLDER` makes"
        ) from None
