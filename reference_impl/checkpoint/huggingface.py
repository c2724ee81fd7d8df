"""Hugging Face's Llama on disk: `config.json` and safetensors files. Read without torch, and never loaded whole.

A safetensors file is eight bytes with the length of a JSON header, the header with the type, shape and place of each
tensor, and the values, one tensor after the other (https://huggingface.co/docs/safetensors). `names` maps its tensors
to the model's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from math import inf, prod
from pathlib import Path
from typing import Any

from benchmark.decode import from_json, one_line, open_regular, read_regular, shape_of, shown
from benchmark.sizes import ModelSize
from reference_impl.checkpoint.arrays import ITEM_BYTES, ByteRange, CheckpointError, Piece, Tensor
from reference_impl.checkpoint.names import LONGEST_NAME, huggingface_shapes, require_possible, rows, shapes

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "BF16": "bfloat16",
    "F16": "float16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""safetensors' type names -> torch's."""
_SAFETENSORS_NAMES = {torch_name: name for name, torch_name in DTYPES.items()}

_LONGEST_HEADER = 16 << 20
"""Most bytes of a header. The format's own limit is 100 million; 405B in one file takes 170,000."""

_LONGEST_INDEX = 16 << 20
_LONGEST_CONFIG = 1 << 20
"""Most bytes of model.safetensors.index.json and of config.json."""

_FIELDS = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "ffn_hidden": "intermediate_size",
    "heads": "num_attention_heads",
    "query_groups": "num_key_value_heads",
    "norm_epsilon": "rms_norm_eps",
}
"""Field of ModelSize -> name in config.json."""

_FLOATS = {"norm_epsilon": float}

# RoPE settings that Megatron-Core uses for every size of Llama 3.1; only the factor differs.
_ROPE = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
POSITIONS = 131_072
"""Context length, in tokens, that Llama 3.1's RoPE scales from."""


def is_folder(folder: Path) -> bool:
    return (folder / INDEX).exists() or (folder / SINGLE).exists()


def read_config(folder: Path) -> tuple[ModelSize, int]:
    """Return the model's shape and the rows of its embedding.

    Raises:
        CheckpointError: config.json is missing or malformed, or does not describe a Llama 3.1.
    """
    path = folder / CONFIG
    config = _read_json(path, _LONGEST_CONFIG)
    try:
        # transformers 5 has one name for this, earlier releases two.
        rope = config.get("rope_parameters") or {
            "rope_theta": config["rope_theta"],
            **(config.get("rope_scaling") or {}),
        }
        values = {ours: _number(config, theirs, _FLOATS.get(ours, int)) for ours, theirs in _FIELDS.items()}
        values["rotary_base"] = _number(rope, "rope_theta", int)
        values["rotary_scaling_factor"] = _number(rope, "factor", float)
        size, vocabulary = ModelSize(name="", **values), int(_number(config, "vocab_size", int))
        require_possible(size, vocabulary)
    except KeyError as error:
        raise CheckpointError([f"{path} has no {error}, which a Llama 3.1 has"]) from None
    except (TypeError, ValueError) as error:
        raise CheckpointError([f"{path} is not a configuration of Llama 3.1: {error}"]) from None
    faults = [f"{path}: {fault}" for fault in _config_faults(config, rope, size)]
    if faults:
        raise CheckpointError(faults)
    return size, vocabulary


def _number(fields: Mapping[str, Any], name: str, kind: type[int] | type[float]) -> Any:
    """Return a number above zero; some tools write it as text, and an integer may be written as 500000.0."""
    value = fields[name]
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = 0.0
    if isinstance(value, bool) or not 0 < number < inf or kind(number) != number:
        expected = "an integer" if kind is int else "a number"
        raise ValueError(f"{name} is {shown(value)}, expected {expected} above 0")
    return kind(number)


def _config_faults(config: Mapping[str, Any], rope: Mapping[str, Any], size: ModelSize) -> Iterator[str]:
    fixed = {
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "head_dim": size.head_dim,
    }
    for name, expected in fixed.items():
        # A missing value means transformers' default, which is the expected one.
        value = config.get(name)
        if value is not None and not _same(value, expected):
            yield f"{name} is {shown(value)}, expected {expected!r}"
    for name, expected in _ROPE.items():
        if not _same(rope.get(name), expected):
            yield f"RoPE's {name} is {shown(rope.get(name))}, expected {expected!r}"


def _same(value: Any, expected: Any) -> bool:
    """Return whether a value is the expected one, as itself or as text."""
    if value == expected or not isinstance(value, str) or isinstance(expected, str):
        return bool(value == expected)
    try:
        return bool(from_json(value.lower().encode()) == expected)
    except ValueError:
        return False


def _read_json(path: Path, most_bytes: int) -> dict[str, Any]:
    try:
        value = from_json(read_regular(path, most_bytes))
    except OSError as error:
        raise CheckpointError([f"{path}: {error.strerror}"]) from None
    except ValueError as error:
        raise CheckpointError([f"{path} is not JSON: {error}"]) from None
    if not isinstance(value, dict):
        raise CheckpointError([f"{path}: expected a JSON object, read {type(value).__name__}"])
    return value


def read_files(folder: Path) -> dict[str, Tensor]:
    """Return every tensor of a folder's safetensors files, by Hugging Face's names.

    Raises:
        CheckpointError: a file in the index is missing, truncated or malformed, or lacks a tensor.
    """
    if not (folder / INDEX).exists():
        return {tensor.name: tensor for tensor in _read_header(folder / SINGLE)}
    placed = _read_json(folder / INDEX, _LONGEST_INDEX).get("weight_map")
    if not isinstance(placed, dict) or not all(isinstance(file, str) for file in placed.values()):
        raise CheckpointError([f"{folder / INDEX} has no weight_map from tensors to files"])
    faults: list[str] = []
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(placed.values())):
        if Path(file).name != file:
            raise CheckpointError([f"{folder / INDEX}: {shown(file)} is not a file of this folder"])
        try:
            tensors |= {tensor.name: tensor for tensor in _read_header(folder / file)}
        except CheckpointError as error:
            faults += error.faults
    missing = placed.keys() - tensors.keys() if not faults else ()
    faults += [f"{folder / placed[name]} has no {name}, which the index places there" for name in sorted(missing)]
    if faults:
        raise CheckpointError(faults)
    return tensors


def _read_header(path: Path) -> Iterator[Tensor]:
    try:
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _LONGEST_HEADER:
                raise CheckpointError([f"{path} is not a safetensors file: a header of {length:,} bytes"])
            header = from_json(file.read(length))
            there = file.seek(0, 2)
    except OSError as error:
        raise CheckpointError([f"{path}: {error.strerror}"]) from None
    except ValueError as error:
        raise CheckpointError([f"{path} is not a safetensors file, or is truncated: {error}"]) from None
    try:
        header.pop("__metadata__", None)
        if odd := next((name for name in header if not name.isprintable() or len(name) > LONGEST_NAME), None):
            raise ValueError(f"{shown(odd)} is not a name of a tensor")
        tensors = [_tensor(path, name, 8 + length, entry) for name, entry in header.items()]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError([f"{path} has a malformed header: {type(error).__name__}: {one_line(error)}"]) from None
    size = max((piece.span.start + piece.span.length for tensor in tensors for piece in tensor.pieces), default=0)
    if there < size:
        raise CheckpointError([f"{path} has {there:,} bytes, expected {size:,}: truncated"])
    yield from tensors


def _tensor(path: Path, name: str, data: int, entry: Mapping[str, Any]) -> Tensor:
    shape, dtype = shape_of(entry["shape"]), DTYPES[entry["dtype"]]
    start, end = shape_of(entry["data_offsets"])
    if end - start != prod(shape) * ITEM_BYTES[dtype]:
        raise ValueError(f"{name}: bytes {start} to {end} for {dtype} {shape}")
    return Tensor(name, shape, dtype, (Piece((0,) * len(shape), shape, ByteRange(path, data + start, end - start)),))


def as_model(files: Mapping[str, Tensor], size: ModelSize, vocabulary: int) -> dict[str, Tensor]:
    """Return the same values as the tensors that Megatron-Core stores.

    Args:
        files: every tensor of the model, each with its shape, all of one type.
    """
    pieces: dict[str, list[Piece]] = {name: [] for name in shapes(size, vocabulary)}
    for part in rows(size, vocabulary):
        tensor = files[part.huggingface]
        columns = tensor.shape[1:]
        row_bytes = prod(columns) * ITEM_BYTES[tensor.dtype]
        (whole,) = tensor.pieces
        span = ByteRange(whole.span.path, whole.span.start + part.huggingface_start * row_bytes, part.count * row_bytes)
        pieces[part.tensor].append(Piece(*part.box(columns), span))
    dtype = next(iter(files.values())).dtype
    return {name: Tensor(name, shape, dtype, tuple(pieces[name])) for name, shape in shapes(size, vocabulary).items()}


# Writing.


def config_json(size: ModelSize, vocabulary: int, dtype: str, ends: Mapping[str, int]) -> dict[str, Any]:
    """Return config.json for a Llama 3.1, as transformers' LlamaConfig reads it.

    Args:
        ends: ids of the tokens that begin (`bos`) and end (`eos`) a text. A missing one is written as null, since
            LlamaConfig's own defaults are Llama 2's.
    """
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        **{theirs: getattr(size, ours) for ours, theirs in _FIELDS.items()},
        "head_dim": size.head_dim,
        "vocab_size": vocabulary,
        "bos_token_id": ends.get("bos"),
        "eos_token_id": ends.get("eos"),
        "max_position_embeddings": POSITIONS,
        "rope_theta": float(size.rotary_base),
        "rope_scaling": {"factor": size.rotary_scaling_factor, **_ROPE},
        "initializer_range": size.init_std,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
    }


def shards(size: ModelSize, vocabulary: int, item_bytes: int, most_bytes: int) -> list[dict[str, tuple[int, ...]]]:
    """Return Hugging Face's tensors and their shapes, in files of at most `most_bytes` unless one tensor is larger."""
    files: list[dict[str, tuple[int, ...]]] = []
    filled = most_bytes
    for name, shape in huggingface_shapes(size, vocabulary).items():
        length = prod(shape) * item_bytes
        if filled + length > most_bytes:
            files.append({})
            filled = 0
        files[-1][name] = shape
        filled += length
    return files


def header(tensors: Mapping[str, tuple[int, ...]], dtype: str) -> bytes:
    """Return the start of a safetensors file that holds these tensors in this order, all of one type."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, shape in tensors.items():
        end = position + prod(shape) * ITEM_BYTES[dtype]
        entries[name] = {"dtype": _SAFETENSORS_NAMES[dtype], "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    # Values start at a multiple of eight.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def index_json(files: Iterable[tuple[str, Mapping[str, tuple[int, ...]]]], item_bytes: int) -> dict[str, Any]:
    """Return model.safetensors.index.json for (file, its tensors) pairs."""
    placed = {name: file for file, tensors in files for name in tensors}
    total = sum(prod(shape) * item_bytes for _, tensors in files for shape in tensors.values())
    return {"metadata": {"total_size": total}, "weight_map": placed}
