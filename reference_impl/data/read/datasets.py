"""Megatron-Core's datasets, and the order in which ranks read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np
import torch
from megatron.core.datasets import helpers
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDataset
from megatron.core.datasets.utils import Split
from numpy.lib.format import MAGIC_PREFIX

from benchmark.config import RunConfig
from benchmark.files import write_at_once
from reference_impl.data.read.order import shuffled
from reference_impl.files.manifest import DataError, Manifest
from reference_impl.tokenizer import Tokenizer


class Sequences(Protocol):
    """The part of Megatron-Core's datasets that a reader uses."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return sequence `index`: `tokens`, `labels` and `loss_mask`, each [tokens]."""
        ...


class OrderedGPTDataset(GPTDataset):
    """A GPTDataset that keeps the documents' order, as the rules require for validation; Megatron-Core shuffles it."""

    def _build_document_sample_shuffle_indices(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        documents = np.asarray(self.indices, dtype=np.int32)
        lengths = self.dataset.sequence_lengths
        samples = helpers.build_sample_idx(
            lengths, documents, self.config.sequence_length, 1, int(lengths[documents].sum()), True, True
        )
        return documents, samples, np.arange(len(samples) - 1)


class CachedGPTDataset(GPTDataset):
    """A GPTDataset whose index has the same bytes as Megatron-Core's, but is made in less memory and appears in its
    cache complete or not at all: a build that was killed is not mistaken for an index.
    """

    def _build_document_sample_shuffle_indices(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            base = f"{self.unique_description_hash}-{type(self).__name__}-{self.index_split.name}"
            cache = Path(self.config.path_to_cache)
            # Megatron-Core takes an index as complete when all its files are there; this one is written last.
            if not (cache / f"{base}-description.txt").exists():
                self._build(cache, base)
        return super()._build_document_sample_shuffle_indices()

    def _build(self, cache: Path, base: str) -> None:
        lengths = np.array(self.dataset.sequence_lengths)
        arrays = shuffled(
            lengths,
            np.asarray(self.indices, dtype=np.int32),
            sequence_length=self.config.sequence_length,
            sequences=self.num_samples,
            seed=self.config.random_seed,
        )
        cache.mkdir(parents=True, exist_ok=True)
        # Another run may be building the same index, or reading it already: bytes that it has open must not change.
        with TemporaryDirectory(dir=cache, prefix=".unfinished-") as unfinished:
            for name, array in arrays.items():
                np.save(f"{unfinished}/{name}.npy", array)
                Path(unfinished, f"{name}.npy").rename(cache / f"{base}-{name}.npy")
        write_at_once(cache / f"{base}-description.txt", self.unique_description)


@dataclass(frozen=True)
class Datasets:
    train: Sequences
    validation: Sequences


def open_datasets(config: RunConfig, folder: Path, manifest: Manifest, tokenizer: Tokenizer) -> Datasets:
    """Open the training blend, shuffled by the run's seed, and the validation set in its own order.

    All ranks call this. If NPY_INDEX_DIR, which all ranks see, has no shuffled index, rank 0 writes it there.

    Raises:
        DataError: validation has fewer sequences than an evaluation takes, or a file in NPY_INDEX_DIR is not an index.
    """
    validation = _validation(config, folder / manifest.validation, tokenizer)
    if len(validation) < config.rules.eval_sequences:
        raise DataError(
            f"{folder / manifest.validation} has {len(validation)} sequences of {config.rules.sequence_length} tokens, "
            f"but an evaluation takes {config.rules.eval_sequences}"
        )
    return Datasets(train=open_train(config, folder, manifest, tokenizer), validation=validation)


def _settings(config: RunConfig, tokenizer: Tokenizer, **more: object) -> GPTDatasetConfig:
    return GPTDatasetConfig(
        random_seed=config.job.seed,
        sequence_length=config.rules.sequence_length,
        tokenizer=tokenizer,
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        **more,
    )


def open_train(config: RunConfig, folder: Path, manifest: Manifest, tokenizer: Tokenizer) -> Sequences:
    """Return the training blend, shuffled by the run's seed; its index is built if NPY_INDEX_DIR has none."""
    blend = [str(folder / part.prefix) for part in manifest.train], [part.weight for part in manifest.train]
    cache = index_folder(config, manifest)
    _refuse_pickles(cache)
    settings = _settings(config, tokenizer, blend_per_split=[blend, None, None], path_to_cache=str(cache))
    sizes = [train_sequences(config), None, None]
    train, _, _ = BlendedMegatronDatasetBuilder(CachedGPTDataset, sizes, lambda: True, settings).build()
    return train


def _refuse_pickles(cache: Path) -> None:
    """Raise DataError for a file that is not an array: Megatron-Core lets numpy unpickle it, which would execute it."""
    for path in cache.glob("*.npy"):
        with path.open("rb") as file:
            if file.read(len(MAGIC_PREFIX)) != MAGIC_PREFIX:
                raise DataError(f"{path} is not a numpy array; remove it, and the index will be built anew")


def index_folder(config: RunConfig, manifest: Manifest) -> Path:
    """Return the folder in NPY_INDEX_DIR for the index of this dataset.

    Megatron-Core's key holds seed, length, number of sequences, tokenizer and path of the data, but does not identify
    the data themselves; the folder's name does.
    """
    if config.data.index_dir is None:
        raise DataError("NPY_INDEX_DIR is not set; set it to a folder for the index, which all ranks see")
    return config.data.index_dir / manifest.digest[:16]


def train_sequences(config: RunConfig) -> int:
    """Return the number of sequences that the run can train on."""
    return config.step_limit * config.layout.global_batch_size


def _validation(config: RunConfig, prefix: Path, tokenizer: Tokenizer) -> OrderedGPTDataset:
    settings = _settings(config, tokenizer, blend_per_split=[None, ([str(prefix)], None), None])
    documents = IndexedDataset(str(prefix))
    indices = np.arange(len(documents), dtype=np.int32)
    return OrderedGPTDataset(documents, str(prefix), indices, None, Split.valid, settings)


@dataclass(frozen=True)
class Microbatch:
    """One microbatch; each tensor is [micro batch, tokens of this context-parallel rank]."""

    tokens: torch.Tensor
    labels: torch.Tensor
    loss_mask: torch.Tensor
    """1 where a token counts, 0 in padding sequences."""


@dataclass(frozen=True)
class Reader:
    """Cuts one rank's microbatches out of a global batch, in Megatron's order: replica after replica."""

    micro_batch_size: int
    replica: int
    replicas: int
    cp_rank: int = 0
    cp_size: int = 1

    def training(self, dataset: Sequences, start: int) -> Iterator[Microbatch]:
        """Yield microbatches without end, starting at sequence `start` of the whole run."""
        while True:
            first = start + self.replica * self.micro_batch_size
            yield self._microbatch([dataset[index] for index in range(first, first + self.micro_batch_size)])
            start += self.micro_batch_size * self.replicas

    def evaluation_microbatches(self, sequences: int) -> int:
        """Return the number of microbatches that every replica runs to cover `sequences`."""
        return -(-sequences // (self.micro_batch_size * self.replicas))

    def evaluation(self, dataset: Sequences, sequences: int) -> Iterator[Microbatch]:
        """Yield exactly the first `sequences` sequences over all replicas, then endless padding that does not count."""
        for index in count():
            first = (index * self.replicas + self.replica) * self.micro_batch_size
            positions = range(first, first + self.micro_batch_size)
            samples = [dataset[min(position, sequences - 1)] for position in positions]
            yield self._microbatch(samples, counted=[position < sequences for position in positions])

    def _microbatch(self, samples: list[dict[str, torch.Tensor]], counted: list[bool] | None = None) -> Microbatch:
        tokens, labels, mask = (
            torch.stack([sample[name] for sample in samples]) for name in ("tokens", "labels", "loss_mask")
        )
        if counted is not None:
            mask = mask * torch.tensor(counted, dtype=mask.dtype)[:, None]
        return Microbatch(tokens=self._mine(tokens), labels=self._mine(labels), loss_mask=self._mine(mask))

    def _mine(self, whole: torch.Tensor) -> torch.Tensor:
        """Return this context-parallel rank's tokens: chunks r and 2*cp-1-r, for the same attention cost on each."""
        if self.cp_size == 1:
            return whole
        chunks = whole.chunk(2 * self.cp_size, dim=1)
        return torch.cat([chunks[self.cp_rank], chunks[2 * self.cp_size - 1 - self.cp_rank]], dim=1)
