"""The order in which a run reads its documents: Megatron-Core's index, to the byte, in less time and memory.

From a seed, GPTDataset makes three arrays: all documents of all epochs, shuffled; where in them each sequence starts;
and the sequences, shuffled. It takes the documents' lengths and nothing else, which the rules allow before run_start.
Here the same generator draws the same numbers, and the documents are written as the int32 that Megatron-Core shuffles,
not as two int64 each first. Where sequences start, its own compiled helper says.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from megatron.core.datasets import helpers

SEPARATE_BELOW = 0.8
"""Megatron-Core shuffles the last epoch by itself if less than this of it is needed."""

_Array = np.ndarray[Any, Any]


def shuffled(
    lengths: _Array, documents: _Array, *, sequence_length: int, sequences: int | None, seed: int
) -> dict[str, _Array]:
    """Return the three arrays, by the names of Megatron-Core's cache.

    Args:
        lengths: int32, tokens of each document of the file.
        documents: int32, numbers of those that are used, each once.
        sequences: at least so many; those of one epoch if None.
    """
    used = lengths if len(documents) == len(lengths) else lengths[documents]
    tokens = int(used.sum(dtype=np.int64))
    epochs = 1 if sequences is None else -(-(sequences * sequence_length + 1) // tokens)
    before_last = ((epochs - 1) * tokens - 1) // sequence_length
    apart = (
        sequences is not None
        and epochs > 1
        and sequences - before_last < int(SEPARATE_BELOW * ((tokens - 1) // sequence_length))
    )
    generator = np.random.RandomState(seed)
    order = np.tile(documents, epochs)
    _shuffle(generator, order, len(order) - len(documents) if apart else len(order))
    starts = helpers.build_sample_idx(lengths, order, sequence_length, epochs, tokens, True, True)
    count = len(starts) - 1
    shuffle = np.arange(count, dtype=np.uint32 if count < np.iinfo(np.uint32).max - 1 else np.int64)
    _shuffle(generator, shuffle, before_last if apart else count)
    return {"document_index": order, "sample_index": starts, "shuffle_index": shuffle}


def _shuffle(generator: np.random.RandomState, array: _Array, split: int) -> None:
    """In place: what is before `split`, then, by itself, what is from there on."""
    generator.shuffle(array[:split])
    if split < len(array):
        generator.shuffle(array[split:])
