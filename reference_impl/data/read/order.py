"""The order in which a run reads its documents: Megatron-Core's index, byte for byte, in less time and memory.

From a seed, GPTDataset makes three arrays: all documents of all epochs, shuffled; where each sequence starts in them;
and the sequences, shuffled. It reads only the documents' lengths, which the rules allow before run_start. Here the same
generator draws the same numbers, but documents are written at once as the int32 that Megatron-Core shuffles, not first
as two int64 each. Megatron-Core's own compiled helper computes where sequences start.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from megatron.core.datasets import helpers

SEPARATE_BELOW = 0.8
"""Megatron-Core shuffles the last epoch separately if less than this share of it is needed."""

_Array = np.ndarray[Any, Any]


def shuffled(
    lengths: _Array, documents: _Array, *, sequence_length: int, sequences: int | None, seed: int
) -> dict[str, _Array]:
    """Return the three arrays, by the names of Megatron-Core's cache.

    Args:
        lengths: int32, tokens of each document of the file.
        documents: int32, numbers of the documents to use, each once.
        sequences: at least this many; those of one epoch if None.
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
    """Shuffle in place: first what is before `split`, then, separately, what follows."""
    generator.shuffle(array[:split])
    if split < len(array):
        generator.shuffle(array[split:])
