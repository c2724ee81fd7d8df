"""Which data a run reads. Imports without torch, so that a wrong dataset is refused in a blink."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmark.config import ROOT, RunConfig
from benchmark.files import locked
from reference_impl.data.manifest import FILE_NAME, DataError, Manifest, dataset_faults, file_faults, load
from reference_impl.data.published import PUBLISHED
from reference_impl.tokenizer import Tokenizer, benchmark_tokenizer

BUILT_IN = ROOT / "data" / "tiny"

HASHED_BYTES = 1 << 30
"""Datasets up to this size are hashed before each run, in a second; of larger ones the sizes are compared."""


@dataclass(frozen=True)
class Ready:
    """A dataset that a run may read."""

    manifest: Manifest
    compared: Literal["bytes", "sizes"]
    """What of the files was compared with the manifest just now."""


def data_folder(config: RunConfig) -> Path:
    """DATADIR, or the built-in corpus where the benchmark has one.

    Raises:
        DataError: DATADIR is not set and the benchmark has no data of its own.
    """
    if config.data_dir is not None:
        return config.data_dir
    if config.rules.submittable:
        raise DataError(f"DATADIR is not set; {config.benchmark} trains on the dataset in that folder")
    return BUILT_IN


def tokenizer_of(config: RunConfig) -> Tokenizer:
    """TOKENIZER, or the benchmark's own.

    Raises:
        TokenizerError: there is none, or it cannot be read.
    """
    return Tokenizer(config.tokenizer or benchmark_tokenizer())


def dataset_of(config: RunConfig) -> Manifest:
    """What the data folder holds: as its manifest says or, where it has none, as the benchmark's dataset is published.

    Raises:
        DataError: neither is to be had, or files of the published dataset are missing or of another size.
    """
    folder, published = data_folder(config), PUBLISHED.get(config.benchmark)
    if published is None or (folder / FILE_NAME).exists():
        return load(folder)
    return published.found_in(folder)


def ready(config: RunConfig) -> Ready:
    """The run's dataset, compared with its manifest; it is made first if it is the built-in corpus and not there yet.

    No earlier comparison is remembered. All bytes of a large dataset are compared by `python -m reference_impl.data
    verify`, when it is asked to.

    Raises:
        DataError, TokenizerError: the data is not there or not right.
    """
    folder, tokenizer = data_folder(config), tokenizer_of(config)
    if config.data_dir is None:
        _make_built_in(folder)
    manifest = dataset_of(config)
    quick = manifest.total_bytes > HASHED_BYTES
    faults = [
        *file_faults(folder, manifest.files, quick=quick),
        *dataset_faults(folder, manifest, tokenizer),
        *_not_the_benchmarks(config, folder, manifest),
    ]
    if faults:
        raise DataError("\n".join(dict.fromkeys(faults)))
    return Ready(manifest, compared="sizes" if quick else "bytes")


def _make_built_in(folder: Path) -> None:
    """Make the built-in corpus unless it is there; of several runs that start at once, one does and the others wait."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent):
        if not folder.exists():
            from reference_impl.data.prepare import built_in

            # Always with the benchmark's own tokenizer; TOKENIZER is then compared with it.
            built_in.prepare(folder, Tokenizer(benchmark_tokenizer()))


def _not_the_benchmarks(config: RunConfig, folder: Path, manifest: Manifest) -> Iterator[str]:
    """How a dataset differs from the one that the rules name; a manifest alone vouches only for its own files."""
    published = PUBLISHED.get(config.benchmark)
    if published is None or published.dataset is None:
        return
    yield from published.size_faults(folder)
    found, expected = _use(manifest), _use(published.dataset.manifest({}))
    if found != expected:
        yield f"{folder} is for {found}; {config.benchmark} is for {expected}"


def _use(manifest: Manifest) -> str:
    total = sum(part.weight for part in manifest.train)
    blend = " + ".join(f"{part.weight / total:.3g} {part.prefix}" for part in manifest.train)
    return f"training on {blend}, validation on {manifest.validation}"
