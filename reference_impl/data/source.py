"""Which data a run reads. Imports without torch, so that a wrong dataset is refused in a blink."""

from __future__ import annotations

from pathlib import Path

from benchmark.config import ROOT, RunConfig
from reference_impl.data.manifest import DataError, Manifest, verify
from reference_impl.tokenizer import Tokenizer, benchmark_tokenizer

BUILT_IN = ROOT / "data" / "tiny"


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


def ready(config: RunConfig) -> Manifest:
    """The verified manifest of the run's data, which is made first if it is the built-in corpus and not there yet.

    Raises:
        DataError, TokenizerError: the data is not there or not right.
    """
    folder, tokenizer = data_folder(config), tokenizer_of(config)
    if config.data_dir is None and not folder.exists():
        from reference_impl.data import corpus

        # The corpus is always made with the benchmark's own tokenizer; TOKENIZER is then compared with it.
        corpus.prepare(folder, Tokenizer(benchmark_tokenizer()))
    return verify(folder, tokenizer)
