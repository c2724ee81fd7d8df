"""Which data a run reads. Imports no torch, so that a wrong dataset is refused at once."""

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
"""Most bytes of a dataset that is hashed before each run, which takes a second; of larger ones, sizes are compared."""


@dataclass(frozen=True)
class ReadyDataset:
    """A dataset that a run may read."""

    manifest: Manifest
    compared: Literal["bytes", "sizes"]
    """What was compared with the manifest just now: bytes or sizes."""


def data_folder(config: RunConfig) -> Path:
    """Return DATADIR, or the built-in corpus if the benchmark has one.

    Raises:
        DataError: DATADIR is not set and the benchmark has no data of its own.
    """
    if config.data.data_dir is not None:
        return config.data.data_dir
    if config.benchmark_row.dataset.files is not None:
        raise DataError(f"DATADIR is not set; set it to the folder of the dataset that {config.benchmark} trains on")
    return BUILT_IN


def tokenizer_of(config: RunConfig) -> Tokenizer:
    """Open TOKENIZER, or the benchmark's own.

    Raises:
        TokenizerError: there is none, or it cannot be read.
    """
    return Tokenizer(config.data.tokenizer or benchmark_tokenizer(config.benchmark_row.tokenizer))


def dataset_of(config: RunConfig) -> Manifest:
    """Return the manifest of the data folder or, if it has none, that of the benchmark's published dataset.

    Raises:
        DataError: there is neither; or it is not the benchmark's dataset: another vocabulary, tokenizer or use, or
        files
            that are missing or differ from the published sizes.
    """
    manifest, faults = _described(config)
    if faults:
        raise DataError("\n".join(faults))
    return manifest


def _described(config: RunConfig) -> tuple[Manifest, list[str]]:
    """Return the manifest as for `dataset_of`, and how it differs from the benchmark's row."""
    folder, published = data_folder(config), PUBLISHED.get(config.benchmark)
    if published is None or (folder / FILE_NAME).exists():
        manifest, faults = load(folder), [] if published is None else published.size_faults(folder)
    else:
        manifest, faults = published.found_in(folder), []
    return manifest, [*faults, *benchmark_faults(config.benchmark_row, folder, manifest)]


def ready(config: RunConfig) -> ReadyDataset:
    """Return the run's dataset, compared with its manifest; make the built-in corpus first if it is not there.

    No earlier comparison is remembered. Of a large dataset this compares sizes; `llama31 data verify` compares all
    bytes.

    Raises:
        DataError, TokenizerError: the data is missing or wrong.
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
    """List what `ready` would refuse, a line each, judged by file sizes alone; this makes nothing."""
    faults: list[str] = []
    try:
        tokenizer = tokenizer_of(config)
    except TokenizerError as error:
        faults += error.faults
        tokenizer = None
    try:
        folder = data_folder(config)
        if config.data.data_dir is None and not folder.exists():
            # The first run makes the built-in corpus.
            return faults
        manifest, differences = _described(config)
    except DataError as error:
        return [*faults, *(line for fault in error.faults for line in fault.splitlines())]
    faults += differences
    if tokenizer is not None:
        faults += _faults(config.benchmark_row, folder, manifest, tokenizer, quick=True)
    return list(dict.fromkeys(faults))


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
        # A missing file is already a fault of the files.
        if not (folder / f"{prefix}.idx").exists():
            continue
        try:
            stored = stored_type(folder / prefix)
        except DataError as error:
            yield str(error)
            continue
        if stored != tokenizer.dtype:
            yield f"{folder / prefix}.bin holds {stored}, but tokens of {tokenizer.path.name} are {tokenizer.dtype}"


def _make_built_in(folder: Path) -> None:
    """Make the built-in corpus if it is not there; of runs that start at once, one makes it and the rest wait."""
    if folder.exists():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent):
            if not folder.exists():
                from reference_impl.data.prepare import built_in

                # Always with the benchmark's own tokenizer; TOKENIZER is compared with it afterwards.
                built_in.prepare(folder, Tokenizer(benchmark_tokenizer()))
    except OSError as error:
        raise DataError(
            f"{folder} cannot be made: {error.strerror}; set DATADIR to another folder and make it with "
            "`llama31 data prepare FOLDER`"
        ) from None
