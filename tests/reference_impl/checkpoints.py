"""Checkpoints for tests: weights that are not trivial, in the files of others, and what a rank should hold of them."""

from __future__ import annotations

import json
import pickle
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from transformers import LlamaConfig, LlamaForCausalLM

from benchmark.config import RunConfig
from benchmark.sizes import SIZES, ModelSize

TINY = SIZES["tiny"]
PREFIX = "module."

Weights = dict[str, torch.Tensor]


def llama_config(size: ModelSize, vocabulary: int) -> LlamaConfig:
    """transformers' configuration of the same model."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.ffn_hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.query_groups,
        rms_norm_eps=size.norm_epsilon,
        max_position_embeddings=131_072,
        tie_word_embeddings=False,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": float(size.rotary_base),
            "factor": size.rotary_scaling_factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )


def random_weights(size: ModelSize, vocabulary: int, dtype: torch.dtype = torch.float32) -> Weights:
    """Weights by Hugging Face's names: matrices with deviation 0.05, norm weights around one."""
    with torch.device("meta"):
        shapes = {
            name: value.shape for name, value in LlamaForCausalLM(llama_config(size, vocabulary)).state_dict().items()
        }
    return {name: _draw(name, shape).to(dtype) for name, shape in shapes.items()}


def _draw(name: str, shape: torch.Size) -> torch.Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    mean = 1.0 if len(shape) == 1 else 0.0
    return torch.empty(shape).normal_(mean, 0.05, generator=generator)


def write_huggingface(folder: Path, size: ModelSize, weights: Weights, files: int = 2) -> Path:
    """As transformers writes it, by safetensors' own writer, in several files."""
    vocabulary = weights["lm_head.weight"].shape[0]
    llama_config(size, vocabulary).save_pretrained(folder)
    names = list(weights)
    placed = {name: f"model-{1 + i % files:05}-of-{files:05}.safetensors" for i, name in enumerate(names)}
    for file in sorted(set(placed.values())):
        mine = {name: weights[name].contiguous() for name in names if placed[name] == file}
        save_file(mine, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def stacked(size: ModelSize, weights: Weights) -> Weights:
    """The tensors as Megatron-Core stacks them, each packed by tensor operations."""

    def layers(*names: str) -> Iterator[list[torch.Tensor]]:
        return ([weights[f"model.layers.{i}.{name}.weight"] for name in names] for i in range(size.layers))

    def stack(name: str) -> torch.Tensor:
        return torch.stack([layer[0] for layer in layers(name)])

    qkv = layers("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    gate_up = layers("mlp.gate_proj", "mlp.up_proj")
    return {
        "embedding.word_embeddings.weight": weights["model.embed_tokens.weight"],
        "decoder.layers.self_attention.linear_qkv.layer_norm_weight": stack("input_layernorm"),
        "decoder.layers.self_attention.linear_qkv.weight": torch.stack([_pack(size, *layer) for layer in qkv]),
        "decoder.layers.self_attention.linear_proj.weight": stack("self_attn.o_proj"),
        "decoder.layers.mlp.linear_fc1.layer_norm_weight": stack("post_attention_layernorm"),
        "decoder.layers.mlp.linear_fc1.weight": torch.stack([torch.cat(layer) for layer in gate_up]),
        "decoder.layers.mlp.linear_fc2.weight": stack("mlp.down_proj"),
        "decoder.final_layernorm.weight": weights["model.norm.weight"],
        "output_layer.weight": weights["lm_head.weight"],
    }


def _pack(size: ModelSize, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Per group of heads: its queries, its key, its value."""
    groups = (part.unflatten(0, (size.query_groups, -1)) for part in (q, k, v))
    return torch.cat(list(groups), dim=1).flatten(0, 1)


def write_nemo(folder: Path, size: ModelSize, weights: Weights) -> Path:
    """As NeMo's importer leaves it: a chunk a layer, halves of fc1 with the storage of the whole, extra states."""
    (folder / "weights").mkdir(parents=True)
    (folder / "context").mkdir()
    tensors: dict[str, Any] = {}
    storage: dict[MetadataIndex, _StorageInfo] = {}
    files = [(folder / "weights" / name).open("wb") for name in ("__0_0.distcp", "__0_1.distcp")]
    for name, whole in stacked(size, weights).items():
        tensors[PREFIX + name] = TensorStorageMetadata(TensorProperties(dtype=whole.dtype), whole.shape, [])
        for start, chunk in _chunks(name, whole):
            tensors[PREFIX + name].chunks.append(ChunkStorageMetadata(torch.Size(start), chunk.shape))
            storage[MetadataIndex(PREFIX + name, start)] = _append(files[len(storage) % 2], chunk)
    for module in ("self_attention.linear_qkv", "self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2"):
        for layer in range(size.layers):
            key = f"{PREFIX}decoder.layers.{module}._extra_state/shard_{layer}_{size.layers}"
            tensors[key] = BytesStorageMetadata()
            storage[MetadataIndex(key)] = _append(files[0], [None])
    for file in files:
        file.close()
    metadata = Metadata(tensors, storage_data=storage)
    (folder / "weights" / ".metadata").write_bytes(pickle.dumps(metadata))
    (folder / "weights" / "metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')
    torch.save({"state_dict": {}}, folder / "weights" / "common.pt")
    (folder / "context" / "model.yaml").write_text(yaml.dump(_model_yaml(size)))
    return folder


def _chunks(name: str, whole: torch.Tensor) -> Iterator[tuple[tuple[int, ...], torch.Tensor]]:
    if not name.startswith("decoder.layers."):
        yield (0,) * whole.dim(), whole
        return
    for layer in range(whole.shape[0]):
        # A storage of its own, as each layer's parameter has.
        own = whole[layer : layer + 1].clone()
        halves = own.chunk(2, dim=1) if "linear_fc1.weight" in name else (own,)
        for row, part in zip((0, own.shape[1] // 2), halves, strict=False):
            yield (layer, row, *(0 for _ in own.shape[2:])), part


def _append(file: Any, value: torch.Tensor | list[None]) -> _StorageInfo:
    start = file.tell()
    torch.save(value, file)
    return _StorageInfo(Path(file.name).name, start, file.tell() - start)


def _model_yaml(size: ModelSize) -> dict[str, Any]:
    names = {
        "layers": "num_layers",
        "hidden": "hidden_size",
        "ffn_hidden": "ffn_hidden_size",
        "heads": "num_attention_heads",
        "query_groups": "num_query_groups",
        "norm_epsilon": "layernorm_epsilon",
        "rotary_base": "rotary_base",
        "rotary_scaling_factor": "scale_factor",
    }
    numbers = {names[field]: value for field, value in asdict(size).items() if field in names}
    return {
        "_target_": "nemo.collections.llm.gpt.model.llama.LlamaModel",
        "config": {**numbers, "old_context_len": 8192},
    }


def parameter(name: str, weights: Weights, size: ModelSize, tp: int, rank: int) -> torch.Tensor:
    """What a tensor-parallel rank holds of the parameter that a model without Transformer Engine calls `name`."""
    tensor = name.removeprefix("module.")
    tensor = tensor.replace("input_layernorm.weight", "self_attention.linear_qkv.layer_norm_weight")
    tensor = tensor.replace("pre_mlp_layernorm.weight", "mlp.linear_fc1.layer_norm_weight")
    layer = None
    if tensor.startswith("decoder.layers."):
        _, _, number, rest = tensor.split(".", 3)
        layer, tensor = int(number), f"decoder.layers.{rest}"
    whole = stacked(size, weights)[tensor]
    whole = whole if layer is None else whole[layer]
    if tensor.endswith(("linear_proj.weight", "linear_fc2.weight")):
        return whole.chunk(tp, 1)[rank]
    if tensor.endswith("linear_fc1.weight"):
        return torch.cat([half.chunk(tp)[rank] for half in whole.chunk(2)])
    return whole if whole.dim() == 1 else whole.chunk(tp)[rank]


def wrong_parameters(config: RunConfig, weights: Weights) -> tuple[int, list[str]]:
    """How many parameters this rank has, and which are not bit for bit what it should hold."""
    from megatron.core import parallel_state

    from reference_impl import parallel
    from reference_impl.checkpoint.initial import load_initial_weights
    from reference_impl.model import build_model, named_parameters

    parallel.initialize(config)
    chunks = build_model(config)
    load_initial_weights(config, chunks)
    rank, tp = parallel_state.get_tensor_model_parallel_rank(), config.layout.tensor_model_parallel
    found = dict(named_parameters(chunks))
    expected = {name: parameter(name, weights, TINY, tp, rank) for name in found}
    return len(found), [name for name, value in found.items() if not torch.equal(value, expected[name])]
