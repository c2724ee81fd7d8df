"""Builds the index of a run's training data before the run, with the code that builds it in the run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from benchmark.config import RunConfig
from reference_impl import parallel
from reference_impl.data.pair import open_pair
from reference_impl.data.read.configured import data_folder, dataset_of, tokenizer_of
from reference_impl.data.read.datasets import index_folder, open_train, train_sequences
from reference_impl.files.manifest import DataError, Manifest
from reference_impl.files.progress import size

# Bytes of an entry in the arrays of one file, and in those of the blend.
DOCUMENT_BYTES = 4
SEQUENCE_BYTES = 8 + 4
BLEND_BYTES = 2 + 8


def prebuild(config: RunConfig) -> Iterator[str]:
    """Build the index of each of the run's seeds, or find it; yield a line for each.

    Raises:
        DataError: the seed or a folder is not set, or there is not enough room for the index.
    """
    if config.job.seed is None and config.job.seed_base is None:
        raise DataError("SEED or SEED_BASE is not set; set one, since an index belongs to a seed")
    data, manifest, tokenizer = data_folder(config), dataset_of(config), tokenizer_of(config)
    folder = index_folder(config, manifest)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from None
    before = _bytes_in(folder)
    _refuse_without_room(config, data, manifest, folder)
    with one_process():
        for seed in config.seeds:
            start = time.perf_counter()
            train = open_train(config.changed(SEED=seed), data, manifest, tokenizer)
            seconds, after = time.perf_counter() - start, _bytes_in(folder)
            what = f"built, {size(after - before)}" if after > before else "already there"
            yield f"seed {seed}: {len(train):,} sequences, {what}, {seconds:.1f} s"
            before = after


@contextmanager
def one_process() -> Iterator[None]:
    """Answer rank 0 of 1 to Megatron-Core's blend, which asks for its rank; building an index needs no GPU."""
    parallel.alone("gloo")
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _refuse_without_room(config: RunConfig, data: Path, manifest: Manifest, folder: Path) -> None:
    """Raise DataError if disk or memory are too small, before hours of work end in a full disk or a kill."""
    sequences = train_sequences(config)
    weights = sum(part.weight for part in manifest.train)
    needs = [
        _bytes_of_part(data / part.prefix, sequences * part.weight / weights, config.rules.sequence_length)
        for part in manifest.train
    ]
    disk, memory = sum(needs) + BLEND_BYTES * sequences, max(needs)
    free, available = shutil.disk_usage(folder).free, psutil.virtual_memory().available
    if disk > free or memory > available:
        steps, gbs = config.step_limit, config.layout.global_batch_size
        raise DataError(
            f"an index of MAX_STEPS {steps} x global batch size {gbs} = {sequences:,} sequences takes {size(disk)} of "
            f"disk and {size(memory)} of memory, but {folder} has {size(free)} and memory {size(available)} free. "
            "A smaller MAX_STEPS makes it smaller"
        )


def _bytes_of_part(prefix: Path, sequences: float, sequence_length: int) -> int:
    pair = open_pair(prefix)
    epochs = max(1, -(-int(sequences * sequence_length) // len(pair.tokens)))
    return epochs * (DOCUMENT_BYTES * len(pair.lengths) + SEQUENCE_BYTES * len(pair.tokens) // sequence_length)
