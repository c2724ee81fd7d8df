"""A checkpoint of any format as the tensors of the model, and what is wrong with it. Without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path
from typing import Literal

from benchmark.config import RunConfig
from benchmark.sizes import ModelSize
from reference_impl.checkpoint import huggingface, nemo
from reference_impl.checkpoint.arrays import CheckpointError, Tensor
from reference_impl.checkpoint.names import EMBEDDING, huggingface_shapes, shapes

WEIGHT_TYPES = ("bfloat16", "float16", "float32")

Format = Literal["Hugging Face", "NeMo", "Megatron-Core"]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Initial weights on disk, described as the tensors that Megatron-Core stores."""

    folder: Path
    format: Format
    tensors: dict[str, Tensor]
    """Tensors by name without prefix; see `names.shapes`."""
    size: ModelSize | None
    """The model that the checkpoint describes; None if it does not."""
    wasted_bytes: int = 0
    """Bytes of its files that no tensor needs, such as storage that was written twice."""
    others: int = 0
    """Number of objects and tensors that are not the model's: extra states, an optimizer."""

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""
        return self.tensors[EMBEDDING].shape[0]

    @property
    def dtype(self) -> str:
        """Type of its values, by torch's name. A checkpoint without faults has only one."""
        return self.tensors[EMBEDDING].dtype

    @property
    def bytes(self) -> int:
        """Bytes of the model's values."""
        return sum(tensor.bytes for tensor in self.tensors.values())


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open the checkpoint in a folder, whatever its format; this reads indexes and headers, not weights.

    Raises:
        CheckpointError: there is none, files are missing or truncated, or it is malformed.
    """
    weights = nemo.weights_folder(folder)
    if weights is not None:
        return _open_distributed(folder, weights)
    if huggingface.is_folder(folder):
        return _open_huggingface(folder)
    there = "it does not exist" if not folder.exists() else "it holds none of these"
    raise CheckpointError(
        [
            f"{folder} is not a checkpoint: {there}; expected weights/.metadata (NeMo), .metadata (Megatron-Core), or "
            f"{huggingface.INDEX} or {huggingface.SINGLE} (Hugging Face)"
        ]
    )


def _open_distributed(folder: Path, weights: Path) -> Checkpoint:
    index = nemo.read_index(weights)
    tensors = nemo.model_tensors(index)
    return Checkpoint(
        folder=folder,
        format="Megatron-Core" if weights == folder else "NeMo",
        tensors=tensors,
        size=nemo.read_size(folder, tensors),
        wasted_bytes=nemo.wasted_bytes(index),
        others=len(index.objects) + len(index.tensors) - len(tensors),
    )


def _open_huggingface(folder: Path) -> Checkpoint:
    size, vocabulary = huggingface.read_config(folder)
    files = huggingface.read_files(folder)
    if not files:
        raise CheckpointError([f"{folder} has files for tensors, but no tensors in them"])
    misfits = [*_shape_faults(files, huggingface_shapes(size, vocabulary)), *_type_faults(files)]
    faults = [f"{folder}: {fault}" for fault in misfits]
    if faults:
        raise CheckpointError(faults)
    return Checkpoint(
        folder=folder, format="Hugging Face", tensors=huggingface.as_model(files, size, vocabulary), size=size
    )


def own_faults(checkpoint: Checkpoint) -> list[str]:
    """List what is wrong with a checkpoint in itself: each tensor of its model must be there, whole, in one type."""
    return [f"{checkpoint.folder}: {fault}" for fault in _own_faults(checkpoint)]


def faults_for(checkpoint: Checkpoint, size: ModelSize, vocabulary: int, dtype: str) -> list[str]:
    """Return why a model cannot start from a checkpoint; empty if it can.

    Args:
        vocabulary: rows that the model has. The checkpoint may have more; the model takes the first.
        dtype: type of the model's weights, by torch's name. The checkpoint's type must convert to it without rounding.
    """
    faults = [*_own_faults(checkpoint), *_misfits(checkpoint, size, vocabulary, dtype)]
    return [f"{checkpoint.folder}: {fault}" for fault in faults]


def _own_faults(checkpoint: Checkpoint) -> Iterator[str]:
    if checkpoint.size is not None:
        yield from _shape_faults(checkpoint.tensors, shapes(checkpoint.size, checkpoint.vocabulary))
    yield from _type_faults(checkpoint.tensors)
    for name, tensor in checkpoint.tensors.items():
        stored = sum(prod(piece.shape) for piece in tensor.pieces)
        if stored != tensor.values:
            yield f"{name} {tensor.shape} has {tensor.values:,} values, but its pieces hold {stored:,}"


def _shape_faults(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Yield a line for every tensor that is missing, unexpected or of the wrong shape."""
    for name, shape in expected.items():
        if name not in tensors:
            yield f"{name} is missing, expected {shape}"
        elif tensors[name].shape != shape:
            yield f"{name} has shape {tensors[name].shape}, expected {shape}"
    for name, tensor in tensors.items():
        if name not in expected:
            yield f"{name} {tensor.shape} is unexpected: this model has no such tensor"


def _type_faults(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    first, expected = next((name, tensor.dtype) for name, tensor in tensors.items())
    if expected not in WEIGHT_TYPES:
        yield f"{first} is {expected}, expected one of {', '.join(WEIGHT_TYPES)}"
    for name, tensor in tensors.items():
        if tensor.dtype != expected:
            yield f"{name} is {tensor.dtype}, expected {expected} as {first}"


def _misfits(checkpoint: Checkpoint, size: ModelSize, vocabulary: int, dtype: str) -> Iterator[str]:
    if checkpoint.size is None:
        yield from _shape_faults(checkpoint.tensors, shapes(size, checkpoint.vocabulary))
    else:
        yield from size_faults(checkpoint.size, size)
    if checkpoint.vocabulary < vocabulary:
        yield f"it has {checkpoint.vocabulary:,} vocabulary rows, but the model has {vocabulary:,}"
    if checkpoint.dtype not in (dtype, *_EXACT.get(dtype, ())):
        yield f"its weights are {checkpoint.dtype}; the model's are {dtype}, which would round them"


_EXACT = {"float32": ("bfloat16", "float16")}
"""Type -> the types that represent each of its values exactly."""


def size_faults(found: ModelSize, expected: ModelSize) -> Iterator[str]:
    """Yield a line for each number that differs between two models and affects what they compute."""
    for field in fields(ModelSize):
        mine, wanted = getattr(found, field.name), getattr(expected, field.name)
        if field.name not in {"name", "init_std"} and mine != wanted:
            yield f"its model has {field.name} {mine:,}, expected {wanted:,}"


def usable_checkpoint(config: RunConfig) -> Checkpoint:
    """Return the checkpoint that a run starts from, after checking that it fits the run's model.

    Raises:
        CheckpointError: listing every fault.
    """
    if config.data.load_checkpoint is None:
        raise CheckpointError(["LOAD_CHECKPOINT is not set"])
    checkpoint = open_checkpoint(config.data.load_checkpoint)
    # FP8 and FP4 are the types of a matrix product's inputs; the weights are bf16.
    dtype = "float32" if config.kernels.precision == "fp32" else "bfloat16"
    faults = faults_for(checkpoint, config.size, config.vocabulary, dtype)
    if faults:
        raise CheckpointError(faults)
    return checkpoint
