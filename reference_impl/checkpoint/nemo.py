"""Distributed checkpoints as Megatron-Core and NeMo write them, read without NeMo and described without torch.

A NeMo checkpoint has a folder `weights` (torch.distributed.checkpoint's `.distcp` files and their hidden index
`.metadata`) and a folder `context` (whose `model.yaml` describes the model); a plain checkpoint has the files at its
top. `.metadata` is a pickle, and a pickle may run code, so only the classes of an index are accepted, as plain records.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite, nan, prod
from pathlib import Path
from typing import Any

from benchmark.decode import (
    MalformedError,
    PickledObject,
    from_pickle,
    from_yaml,
    mapping_of,
    one_line,
    read_regular,
    shape_of,
    shown,
)
from benchmark.sizes import SIZES, ModelSize
from reference_impl.checkpoint.arrays import ITEM_BYTES, ByteRange, CheckpointError, Piece, Tensor
from reference_impl.checkpoint.names import EMBEDDING, LONGEST_NAME, fused, require_possible, shapes

METADATA = ".metadata"
MODEL_YAML = "context/model.yaml"

MOST_OF_METADATA = 1 << 30
"""Most bytes of an index. One for a state that thousands of ranks saved has hundreds of millions."""
MOST_OF_YAML = 1 << 18
"""Most bytes of model.yaml. NeMo's has 6,210."""

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
"""RoPE settings that Megatron-Core uses for every size of Llama 3.1, under NeMo's names; only the factor differs."""


@dataclass(frozen=True, kw_only=True)
class Index:
    """What `.metadata` lists in the `.distcp` files."""

    folder: Path
    tensors: dict[str, Tensor]
    """Tensors by their names in the file, prefix included."""
    objects: dict[str, ByteRange]
    """Entries that are not tensors: bytes whose meaning only the trainer that wrote them knows."""

    @property
    def stored_bytes(self) -> int:
        pieces = (piece.span for tensor in self.tensors.values() for piece in tensor.pieces)
        return sum(span.length for span in (*pieces, *self.objects.values()))


def weights_folder(folder: Path) -> Path | None:
    """Return the folder with a distributed checkpoint's `.distcp` files; None if there is none."""
    for place in (folder / "weights", folder):
        if (place / METADATA).exists() or any(place.glob("*.distcp")):
            return place
    return None


def read_index(folder: Path) -> Index:
    """Return the index of a folder of `.distcp` files, after checking that each file is there and long enough.

    Raises:
        CheckpointError: `.metadata` is missing or not an index, or files are missing or truncated.
    """
    path = folder / METADATA
    try:
        index = _index(folder, from_pickle(read_regular(path, MOST_OF_METADATA), _named))
    except FileNotFoundError:
        there = len(list(folder.glob("*.distcp")))
        raise CheckpointError(
            [f"{path} is missing next to {there} .distcp files: it is hidden, so a copy with * leaves it behind"]
        ) from None
    except OSError as error:
        raise CheckpointError([f"{path}: {error.strerror}"]) from None
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        reason = one_line(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {one_line(error)}"
        raise CheckpointError([f"{path} is not an index of a distributed checkpoint: {reason}"]) from None
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
            actual = path.stat().st_size
        except OSError as error:
            yield f"{path}: {error.strerror}, expected {size:,} bytes"
            continue
        if actual < size:
            yield f"{path} has {actual:,} bytes, expected {size:,}: truncated"


_RECORDS = re.compile(r"(torch\.distributed\.checkpoint|megatron\.core\.dist_checkpointing)\..*|pathlib")


def _named(module: str, name: str) -> Any:
    """Return a stand-in for a class of an index, without importing the library that wrote it."""
    if (module, name) == ("torch", "Size"):
        return shape_of
    if (module, name) == ("collections", "OrderedDict"):
        return mapping_of
    if module == "torch" and name in ITEM_BYTES:
        return name
    if (module, name) == ("torch.serialization", "_get_layout") or _RECORDS.fullmatch(module):
        return PickledObject
    raise MalformedError(f"it names {shown(f'{module}.{name}')}, which is not a class of an index")


def _index(folder: Path, metadata: PickledObject) -> Index:
    spans = dict(_spans(folder, metadata["storage_data"]))
    tensors, objects = {}, {}
    for name, entry in metadata["state_dict_metadata"].items():
        if isinstance(entry.state, dict) and "chunks" in entry.state:
            tensors[name] = _tensor(_name(name), entry, spans)
        else:
            objects[name] = spans[_name(name), None]
    return Index(folder=folder, tensors=tensors, objects=objects)


def _name(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > LONGEST_NAME:
        raise ValueError(f"{shown(value)} is not a name of a tensor")
    return value


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError(f"{shown(value)} is not a number of bytes")
    return value


def _spans(folder: Path, storage: dict[PickledObject, PickledObject]) -> Iterator[tuple[tuple[str, Any], ByteRange]]:
    for index, info in storage.items():
        fqn = _name(index["fqn"])
        if info.state.get("transform_descriptors"):
            raise ValueError(f"{fqn} is compressed ({shown(info['transform_descriptors'])})")
        name = _name(info["relative_path"])
        if Path(name).name != name:
            raise ValueError(f"{name!r} is not a file of this folder")
        offset = index.state.get("offset")
        span = ByteRange(folder / name, _count(info["offset"]), _count(info["length"]), archive=True)
        yield (fqn, None if offset is None else shape_of(offset)), span


def _tensor(name: str, entry: PickledObject, spans: dict[tuple[str, Any], ByteRange]) -> Tensor:
    size, dtype = shape_of(entry["size"]), entry["properties"].state[0]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ValueError(f"{name} is of type {shown(dtype)}")
    chunks = ((shape_of(chunk["offsets"]), shape_of(chunk["sizes"])) for chunk in entry["chunks"])
    pieces = tuple(Piece(start, shape, spans[name, start]) for start, shape in chunks)
    for piece in pieces:
        within = len(piece.start) == len(piece.shape) == len(size)
        if not within or any(s + n > axis for s, n, axis in zip(piece.start, piece.shape, size, strict=True)):
            raise ValueError(f"{name} {size} has a piece {piece.shape} at {piece.start}")
    return Tensor(name, size, dtype, pieces)


def model_tensors(index: Index) -> dict[str, Tensor]:
    """Return the model's own tensors, by name without prefix; an optimizer's tensors are left out.

    Raises:
        CheckpointError: there is no embedding, whose name would show the prefix.
    """
    prefixes = [name.removesuffix(EMBEDDING) for name in index.tensors if name.endswith(EMBEDDING)]
    prefix = min(prefixes, key=len, default=None)
    if prefix is None:
        raise CheckpointError([f"{index.folder}: no tensor is named ...{EMBEDDING}; it holds {_some(index.tensors)}"])
    if len(index.tensors[prefix + EMBEDDING].shape) != 2:
        raise CheckpointError([f"{index.folder}: {prefix}{EMBEDDING} is not a matrix"])
    return {
        fused(name.removeprefix(prefix)): tensor
        for name, tensor in index.tensors.items()
        if name.startswith(prefix) and not name.startswith(f"{prefix}optimizer.")
    }


def _some(names: dict[str, Tensor]) -> str:
    shown = ", ".join(list(names)[:3])
    return f"{len(names)} tensors: {shown}, ..." if names else "none"


def read_size(folder: Path, tensors: dict[str, Tensor]) -> ModelSize | None:
    """Return the model's size as context/model.yaml gives it or, without that file, the shapes; None if neither does.

    Raises:
        CheckpointError: model.yaml is malformed, or its RoPE is not Llama 3.1's.
    """
    path = folder / MODEL_YAML
    try:
        settings = _settings(from_yaml(read_regular(path, MOST_OF_YAML)))
        faults = list(_rope_faults(settings))
        size = None if faults else _size_in(settings, tensors[EMBEDDING].shape[0])
    except FileNotFoundError:
        return _size_by_shape(tensors)
    except OSError as error:
        raise CheckpointError([f"{path}: {error.strerror}"]) from None
    except ValueError as error:
        raise CheckpointError([f"{path}: {one_line(error)}"]) from None
    if faults:
        raise CheckpointError([f"{path}: {fault}" for fault in faults])
    return _size_by_shape(tensors) if size is None else size


def _rope_faults(settings: dict[str, Any]) -> Iterator[str]:
    for name, expected in ROPE.items():
        found = settings.get(name)
        if found not in _NOTHING and _number(found) != expected:
            yield f"RoPE's {name} is {_number(found):g}, expected {expected!r}"


def _size_in(settings: dict[str, Any], vocabulary: int) -> ModelSize | None:
    """Return the model that the settings describe; None if they are incomplete."""
    there = {ours: settings[theirs] for ours, theirs in FIELDS.items() if settings.get(theirs) not in _NOTHING}
    if not {"layers", "hidden", "ffn_hidden", "heads", "query_groups"} <= there.keys():
        return None
    numbers = {name: _number(value, whole=name not in _FLOATS) for name, value in there.items()}
    size = ModelSize(name="", **numbers)  # type: ignore[arg-type]
    require_possible(size, vocabulary)
    return size


_NOTHING = (None, "", "~", "null", "Null", "NULL")
"""Strings that YAML reads as no value; here they arrive as text."""


def _number(value: object, *, whole: bool = False) -> float:
    number = float(value) if isinstance(value, str) else nan
    if not isfinite(number) or number <= 0 or (whole and not number.is_integer()):
        raise ValueError(f"{shown(value)} is not a {'whole ' if whole else ''}number above 0")
    return int(number) if whole else number


def _settings(document: Any) -> dict[str, Any]:
    """Return the mapping in NeMo's model.yaml that holds the model's numbers."""
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
    """Return how many bytes of the files hold no value of any tensor: mostly storage that was written twice."""
    values = sum(
        prod(piece.shape) * ITEM_BYTES[tensor.dtype] for tensor in index.tensors.values() for piece in tensor.pieces
    )
    return index.stored_bytes - values
