"""Distributed checkpoints as Megatron-Core and NeMo write them, read without NeMo and described without torch.

A NeMo checkpoint is a folder `weights` (torch.distributed.checkpoint's `.distcp` files and their hidden index
`.metadata`) beside a folder `context` (`model.yaml` says what the model is); a plain one has the files at its top.
`.metadata` is a pickle, and a pickle may run code: only the classes of an index are let through here, as plain records.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from benchmark.sizes import SIZES, ModelSize
from reference_impl.checkpoint.arrays import ITEM_BYTES, CheckpointError, Piece, Span, Tensor
from reference_impl.checkpoint.names import EMBEDDING, fused, shapes

METADATA = ".metadata"
MODEL_YAML = "context/model.yaml"

FIELDS = {
    "layers": "num_layers",
    "hidden": "hidden_size",
    "ffn_hidden": "ffn_hidden_size",
    "heads": "num_attention_heads",
    "query_groups": "num_query_groups",
    "norm_epsilon": "layernorm_epsilon",
    "rotary_base": "rotary_base",
    "rotary_scaling_factor": "scale_factor",
}
"""Field of ModelSize -> name in NeMo's model.yaml."""

_FLOATS = {"norm_epsilon", "rotary_scaling_factor"}

ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "old_context_len": 8192}
"""What Megatron-Core has for Llama 3.1's RoPE besides the factor, and no size changes; by NeMo's names."""


@dataclass(frozen=True, kw_only=True)
class Index:
    """What `.metadata` says is in the `.distcp` files."""

    folder: Path
    tensors: dict[str, Tensor]
    """By the names in the file, prefix included."""
    objects: dict[str, Span]
    """What is no tensor: bytes that the trainer that wrote them understands."""

    @property
    def stored_bytes(self) -> int:
        pieces = (piece.span for tensor in self.tensors.values() for piece in tensor.pieces)
        return sum(span.length for span in (*pieces, *self.objects.values()))


def weights_folder(folder: Path) -> Path | None:
    """Where the `.distcp` files of a distributed checkpoint are; None if the folder is none."""
    for place in (folder / "weights", folder):
        if (place / METADATA).exists() or any(place.glob("*.distcp")):
            return place
    return None


def read_index(folder: Path) -> Index:
    """The index of a folder of `.distcp` files, every one of which is there and long enough.

    Raises:
        CheckpointError: `.metadata` is missing or no index, or files are missing or truncated.
    """
    path = folder / METADATA
    try:
        with path.open("rb") as file:
            metadata = _Unpickler(file).load()
        index = _index(folder, metadata)
    except FileNotFoundError:
        there = len(list(folder.glob("*.distcp")))
        raise CheckpointError(
            [f"{path} is missing beside {there} .distcp files: it is hidden, and a copy by * leaves it behind"]
        ) from None
    except OSError as error:
        raise CheckpointError([f"{path}: {error.strerror}"]) from None
    except (pickle.UnpicklingError, EOFError, AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise CheckpointError([f"{path} is no index of a distributed checkpoint: {error!r}"]) from None
    faults = list(_file_faults(index))
    if faults:
        raise CheckpointError(faults)
    return index


def _file_faults(index: Index) -> Iterator[str]:
    needed: dict[Path, int] = {}
    pieces = (piece.span for tensor in index.tensors.values() for piece in tensor.pieces)
    for span in (*pieces, *index.objects.values()):
        needed[span.path] = max(needed.get(span.path, 0), span.start + span.length)
    for path, size in sorted(needed.items()):
        try:
            found = path.stat().st_size
        except OSError as error:
            yield f"{path}: {error.strerror}, expected {size:,} bytes"
            continue
        if found < size:
            yield f"{path} has {found:,} bytes, expected {size:,}: truncated"


class _Record:
    """An object of some class of the index, without the class."""

    state: Any = MappingProxyType({})

    def __init__(self, *arguments: Any) -> None:
        """What the object was made from says nothing that is needed here."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __getitem__(self, name: str) -> Any:
        return self.state[name]


class _Unpickler(pickle.Unpickler):
    """Reads an index without importing what wrote it, and calls nothing that a pickle names."""

    _RECORDS = re.compile(r"(torch\.distributed\.checkpoint|megatron\.core\.dist_checkpointing)\..*|pathlib")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch", "Size"):
            return tuple
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch" and name in ITEM_BYTES:
            return name
        if (module, name) == ("torch.serialization", "_get_layout") or self._RECORDS.fullmatch(module):
            return _Record
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no index holds")


def _index(folder: Path, metadata: _Record) -> Index:
    spans = dict(_spans(folder, metadata["storage_data"]))
    tensors, objects = {}, {}
    for name, entry in metadata["state_dict_metadata"].items():
        if isinstance(entry.state, dict) and "chunks" in entry.state:
            tensors[name] = _tensor(name, entry, spans)
        else:
            objects[name] = spans[name, None]
    return Index(folder=folder, tensors=tensors, objects=objects)


def _spans(folder: Path, storage: dict[_Record, _Record]) -> Iterator[tuple[tuple[str, Any], Span]]:
    for index, info in storage.items():
        if info.state.get("transform_descriptors"):
            raise ValueError(f"{index['fqn']} is compressed ({info['transform_descriptors']})")
        name = str(info["relative_path"])
        if Path(name).name != name:
            raise ValueError(f"{name!r} is no file of this folder")
        span = Span(folder / name, int(info["offset"]), int(info["length"]), archive=True)
        yield (index["fqn"], index.state.get("offset")), span


def _tensor(name: str, entry: _Record, spans: dict[tuple[str, Any], Span]) -> Tensor:
    chunks = ((chunk["offsets"], chunk["sizes"]) for chunk in entry["chunks"])
    pieces = tuple(Piece(start, shape, spans[name, start]) for start, shape in chunks)
    return Tensor(name, entry["size"], entry["properties"].state[0], pieces)


def model_tensors(index: Index) -> dict[str, Tensor]:
    """The model's own tensors under their names without prefix, with those of an optimizer left out.

    Raises:
        CheckpointError: there is no embedding by which to know the prefix.
    """
    prefixes = [name.removesuffix(EMBEDDING) for name in index.tensors if name.endswith(EMBEDDING)]
    prefix = min(prefixes, key=len, default=None)
    if prefix is None:
        raise CheckpointError([f"{index.folder}: no tensor is named ...{EMBEDDING}; it holds {_some(index.tensors)}"])
    return {
        fused(name.removeprefix(prefix)): tensor
        for name, tensor in index.tensors.items()
        if name.startswith(prefix) and not name.startswith(f"{prefix}optimizer.")
    }


def _some(names: dict[str, Tensor]) -> str:
    shown = ", ".join(list(names)[:3])
    return f"{len(names)} tensors: {shown}, ..." if names else "none"


def read_size(folder: Path, tensors: dict[str, Tensor]) -> ModelSize | None:
    """What the model is, by context/model.yaml or, without one, by the shapes; None where neither says.

    Raises:
        CheckpointError: model.yaml is malformed, or its RoPE is not Llama 3.1's.
    """
    by_shape = _size_by_shape(tensors)
    path = folder / MODEL_YAML
    try:
        document = yaml.safe_load(path.read_bytes())
    except FileNotFoundError:
        return by_shape
    except (OSError, yaml.YAMLError) as error:
        raise CheckpointError([f"{path}: {error}"]) from None
    settings = _settings(document)
    faults = [
        f"{path}: RoPE's {name} is {settings[name]!r}, expected {expected!r}"
        for name, expected in ROPE.items()
        if settings.get(name, expected) != expected
    ]
    if faults:
        raise CheckpointError(faults)
    there = {ours: settings[theirs] for ours, theirs in FIELDS.items() if settings.get(theirs) is not None}
    if not {"layers", "hidden", "ffn_hidden", "heads", "query_groups"} <= there.keys():
        return by_shape
    try:
        numbers = {name: (float if name in _FLOATS else int)(value) for name, value in there.items()}
    except (TypeError, ValueError) as error:
        raise CheckpointError([f"{path}: {error}"]) from None
    return ModelSize(name="", **numbers)  # type: ignore[arg-type]


def _settings(document: Any) -> dict[str, Any]:
    """The mapping inside NeMo's model.yaml that has the model's numbers."""
    if not isinstance(document, dict):
        return {}
    if FIELDS["layers"] in document:
        return document
    return next((found for value in document.values() if (found := _settings(value))), {})


def _size_by_shape(tensors: dict[str, Tensor]) -> ModelSize | None:
    found = {name: tensor.shape for name, tensor in tensors.items()}
    vocabulary = found[EMBEDDING][0]
    return next((size for size in SIZES.values() if shapes(size, vocabulary) == found), None)


def wasted_bytes(index: Index) -> int:
    """Bytes of the files that hold no value of any tensor: storage written twice, mostly."""
    values = sum(
        prod(piece.shape) * ITEM_BYTES[tensor.dtype] for tensor in index.tensors.values() for piece in tensor.pieces
    )
    return index.stored_bytes - values
