"""Conversion from one format on disk to another, streaming: the memory it takes does not depend on the model's size.

Both directions read any checkpoint that `source` opens. `to_distributed` writes what Megatron-Core and NeMo read, each
value once; `to_huggingface` writes what transformers reads. The files depend only on the weights and the tokenizer, so
a conversion that is killed and started again ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from benchmark.sizes import ModelSize
from reference_impl.checkpoint import huggingface, nemo
from reference_impl.checkpoint.arrays import ITEM_BYTES, Box, CheckpointError, read, row_blocks
from reference_impl.checkpoint.names import EXTRA_STATE, LAYERS, LINEAR_LAYERS, Rows, rows, shapes
from reference_impl.checkpoint.parts import ChecksummedFile, Fill, PartFolder
from reference_impl.checkpoint.source import Checkpoint, own_faults
from reference_impl.files.checksum import Advance, silent

if TYPE_CHECKING:
    import torch

    from reference_impl.checkpoint.serving import Served

PIECE_BYTES = 64 << 20
"""Most bytes of a tensor that are held at once, for each file being written, and the most that one entry of a
`.distcp` file has."""

SHARD_BYTES = 5_000_000_000
"""Bytes of a safetensors file, as transformers writes them."""

PREFIX = "module."


def convertible(checkpoint: Checkpoint, vocabulary: int | None) -> tuple[ModelSize, int]:
    """Return the model of a checkpoint and the vocabulary rows of its copy: `vocabulary` of them, or all if None.

    Raises:
        CheckpointError: listing everything that is wrong with the checkpoint.
    """
    faults = own_faults(checkpoint)
    size, there = checkpoint.size, checkpoint.vocabulary
    if size is None:
        faults.append(f"{checkpoint.folder}: neither {nemo.MODEL_YAML} nor the tensors' shapes say what model it is")
    if vocabulary is not None and vocabulary > there:
        faults.append(f"{checkpoint.folder} has {there:,} vocabulary rows, expected at least {vocabulary:,}")
    if faults or size is None:
        raise CheckpointError(faults)
    return size, there if vocabulary is None else vocabulary


def converted_bytes(checkpoint: Checkpoint, vocabulary: int | None) -> int:
    """Return the bytes of all values in a copy."""
    size, rows_kept = convertible(checkpoint, vocabulary)
    return size.parameters(rows_kept) * ITEM_BYTES[checkpoint.dtype]


def _job(checkpoint: Checkpoint, what: str, **settings: int) -> dict[str, Any]:
    """Return everything that decides the bytes of a conversion, as JSON values."""
    spans = {piece.span for tensor in checkpoint.tensors.values() for piece in tensor.pieces}
    places = sorted((span.path.name, span.start, span.length) for span in spans)
    return {"to": what, **settings, "source": hashlib.sha256(json.dumps(places).encode()).hexdigest()}


# To Megatron-Core's format.


def to_distributed(
    checkpoint: Checkpoint,
    target: Path,
    vocabulary: int | None = None,
    advance: Advance = silent,
    jobs: int | None = None,
) -> None:
    """Write the weights as a NeMo-format checkpoint: one file a layer, no value twice.

    Args:
        vocabulary: rows of embedding and output; all of them if None.
        advance: called with the number of bytes written at each step.
        jobs: files written at once; as many as cores if None.

    Raises:
        CheckpointError: the source is incomplete or the target is in use, with every fault.
    """
    size, vocabulary = convertible(checkpoint, vocabulary)
    folder = PartFolder(target, _job(checkpoint, "distributed", vocabulary=vocabulary, piece_bytes=PIECE_BYTES))
    files: list[tuple[str, Fill]] = [
        (f"weights/__0_{number}.distcp", _distcp_writer(checkpoint, boxes))
        for number, boxes in enumerate(_files(checkpoint, size, vocabulary))
    ]
    files.append((f"weights/__0_{len(files)}.distcp", lambda output: _write_extra_states(output, size)))
    entries = folder.write(files, advance, jobs)
    metadata = _metadata(entries, shapes(size, vocabulary), checkpoint.dtype)
    folder.finish(
        [
            (f"weights/{nemo.METADATA}", pickle.dumps(metadata)),
            ("weights/metadata.json", json.dumps(_BACKENDS).encode()),
            ("weights/common.pt", _saved({"epoch": 0, "global_step": 0, "state_dict": {}})),
            (nemo.MODEL_YAML, yaml.safe_dump(_model_yaml(size, vocabulary), sort_keys=False).encode()),
        ]
    )


_BACKENDS = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}
"""Megatron-Core's names for the format."""


def _files(checkpoint: Checkpoint, size: ModelSize, vocabulary: int) -> Iterator[list[tuple[str, Box]]]:
    """Yield, for each file, its (tensor, box) pairs: the embedding, each layer, and what follows the layers."""
    on_disk = shapes(size, vocabulary)
    stacked = [name for name in on_disk if name.startswith(LAYERS)]
    first, *last = (name for name in on_disk if name not in stacked)
    item_bytes = ITEM_BYTES[checkpoint.dtype]

    def boxes(name: str, layer: int | None = None) -> Iterator[tuple[str, Box]]:
        shape = on_disk[name]
        start = (0,) * len(shape) if layer is None else (layer, *(0 for _ in shape[1:]))
        box = (start, shape if layer is None else (1, *shape[1:]))
        row_axis = 0 if layer is None else 1
        return ((name, piece) for piece in row_blocks(box, row_axis, PIECE_BYTES, item_bytes))

    yield list(boxes(first))
    for layer in range(size.layers):
        yield [piece for name in stacked for piece in boxes(name, layer)]
    yield [piece for name in last for piece in boxes(name)]


def _distcp_writer(checkpoint: Checkpoint, boxes: list[tuple[str, Box]]) -> Fill:
    def write(output: ChecksummedFile) -> list[Any]:
        return [[PREFIX + name, *box, *_save(output, read(checkpoint.tensors[name], box))] for name, box in boxes]

    return write


def _write_extra_states(output: ChecksummedFile, size: ModelSize) -> list[Any]:
    names = (f"{LAYERS}{module}.{EXTRA_STATE}" for module in LINEAR_LAYERS)
    keys = [f"{PREFIX}{name}/shard_{layer}_{size.layers}" for name in names for layer in range(size.layers)]
    # Megatron-Core stores an object as the list of its parts; that of a layer without FP8 scaling is empty.
    return [[key, None, None, *_save(output, [None])] for key in keys]


def _save(output: ChecksummedFile, value: torch.Tensor | list[None]) -> tuple[int, int]:
    """Write one entry of a `.distcp` file and return where it is: (offset, length) in bytes."""
    import torch

    start = output.tell()
    torch.save(value, output)  # type: ignore[arg-type]
    return start, output.tell() - start


def _saved(value: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _metadata(entries: dict[str, list[Any]], on_disk: dict[str, tuple[int, ...]], dtype: str) -> Any:
    """Return the index of each file's entries, as torch.distributed.checkpoint stores it."""
    import torch
    from torch.distributed.checkpoint import metadata as dcp
    from torch.distributed.checkpoint.filesystem import _StorageInfo

    properties = dcp.TensorProperties(dtype=getattr(torch, dtype))
    tensors: dict[str, Any] = {
        PREFIX + name: dcp.TensorStorageMetadata(properties, torch.Size(shape), []) for name, shape in on_disk.items()
    }
    storage = {}
    for file, written in entries.items():
        for name, start, shape, position, length in written:
            if start is None:
                tensors[name] = dcp.BytesStorageMetadata()
            else:
                tensors[name].chunks.append(dcp.ChunkStorageMetadata(torch.Size(start), torch.Size(shape)))
            index = dcp.MetadataIndex(name, start)
            storage[index] = _StorageInfo(Path(file).name, position, length)
    return dcp.Metadata(tensors, storage_data=storage)


def _model_yaml(size: ModelSize, vocabulary: int) -> dict[str, Any]:
    """Return a model's numbers under the names of NeMo's model.yaml."""
    numbers = {theirs: getattr(size, ours) for ours, theirs in nemo.FIELDS.items()}
    return {"config": {**numbers, **nemo.ROPE, "vocab_size": vocabulary}}


# To Hugging Face's format.


def to_huggingface(
    checkpoint: Checkpoint,
    target: Path,
    vocabulary: int | None = None,
    advance: Advance = silent,
    jobs: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    tokenizer: Served | None = None,
) -> None:
    """Write the weights as safetensors files with their index, config.json, and the files that serving needs.

    Args:
        vocabulary: rows of embedding and output; all of them if None.
        tokenizer: the vocabulary's tokenizer; the folder gets none if None.
        advance: called with the number of bytes written at each step.
        jobs: files written at once; as many as cores if None.

    Raises:
        CheckpointError: the source is incomplete or the target is in use, with every fault.
    """
    size, vocabulary = convertible(checkpoint, vocabulary)
    dtype = checkpoint.dtype
    shards = huggingface.shards(size, vocabulary, ITEM_BYTES[dtype], shard_bytes)
    files = [(f"model-{n:05}-of-{len(shards):05}.safetensors", shard) for n, shard in enumerate(shards, 1)]
    sources = _sources(size, vocabulary)
    folder = PartFolder(target, _job(checkpoint, "Hugging Face", vocabulary=vocabulary, shard_bytes=shard_bytes))
    folder.write([(file, _safetensors_writer(checkpoint, tensors, sources)) for file, tensors in files], advance, jobs)
    config = huggingface.config_json(size, vocabulary, dtype, {} if tokenizer is None else tokenizer.ends)
    index = huggingface.index_json(files, ITEM_BYTES[dtype])
    beside = {} if tokenizer is None else tokenizer.files
    folder.finish([(huggingface.CONFIG, _json(config)), (huggingface.INDEX, _json(index)), *beside.items()])


def _sources(size: ModelSize, vocabulary: int) -> dict[str, list[Rows]]:
    """Return where each of Hugging Face's tensors has its rows on disk, in Hugging Face's order."""
    place = attrgetter("huggingface", "huggingface_start")
    by_name = groupby(sorted(rows(size, vocabulary), key=place), attrgetter("huggingface"))
    return {name: list(parts) for name, parts in by_name}


def _safetensors_writer(
    checkpoint: Checkpoint, tensors: dict[str, tuple[int, ...]], sources: dict[str, list[Rows]]
) -> Fill:
    dtype = checkpoint.dtype

    def write(output: ChecksummedFile) -> None:
        output.write(huggingface.header(tensors, dtype))
        for part in (part for name in tensors for part in sources[name]):
            for piece in _pieces(checkpoint, part):
                output.write(_bytes(piece))

    return write


def _pieces(checkpoint: Checkpoint, part: Rows) -> Iterator[torch.Tensor]:
    tensor = checkpoint.tensors[part.tensor]
    row_axis = 0 if part.layer is None else 1
    box = part.box(tensor.shape[row_axis + 1 :])
    for piece in row_blocks(box, row_axis, PIECE_BYTES, ITEM_BYTES[tensor.dtype]):
        yield read(tensor, piece)


def _bytes(tensor: torch.Tensor) -> memoryview:
    import torch

    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
