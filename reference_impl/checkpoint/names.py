"""The model's tensors on disk, and how their rows map to those of Hugging Face's tensors, as data.

The names on disk are those that Megatron-Core and NeMo write, whichever spec the model is built from: the layers of a
kind are stacked in one tensor, and norms have the names that Transformer Engine gives them (it fuses a norm with the
projection behind it). The two formats hold the same rows in a different order; nothing is transposed or computed. This
module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from benchmark.sizes import ModelSize

EMBEDDING = "embedding.word_embeddings.weight"
OUTPUT = "output_layer.weight"
"""Tensors whose rows are tokens. A checkpoint may have more of them than the model, which takes the first."""

LAYERS = "decoder.layers."

EXTRA_STATE = "_extra_state"
"""Suffix of Transformer Engine's FP8 scaling state for each linear layer: bytes, empty for bf16 weights."""
LINEAR_LAYERS = ("self_attention.linear_qkv", "self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2")

_UNFUSED_NORMS = {
    "input_layernorm.weight": "self_attention.linear_qkv.layer_norm_weight",
    "pre_mlp_layernorm.weight": "mlp.linear_fc1.layer_norm_weight",
}


def fused(name: str) -> str:
    """Return a tensor's name on disk, given its name in a model without Transformer Engine."""
    for unfused, on_disk in _UNFUSED_NORMS.items():
        if name.endswith("." + unfused):
            return name.removesuffix(unfused) + on_disk
    return name


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that a tensor on disk shares with one of Hugging Face's."""

    tensor: str
    """Name on disk, without the prefix `module.`."""
    layer: int | None
    """Number of the stacked layer; None for a tensor that is not stacked."""
    start: int
    count: int
    huggingface: str
    huggingface_start: int

    def box(self, columns: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return where these rows start in the tensor on disk, and their shape there, with rows of shape `columns`."""
        layer = () if self.layer is None else (self.layer,)
        return (*layer, self.start, *(0 for _ in columns)), (*(1 for _ in layer), self.count, *columns)


def rows(size: ModelSize, vocabulary: int) -> Iterator[Rows]:
    """Yield every row of the model once, layer by layer; elements of a norm weight count as rows."""
    yield Rows(EMBEDDING, None, 0, vocabulary, "model.embed_tokens.weight", 0)
    for layer in range(size.layers):
        for tensor, repeats, parts in _layer(size):
            yield from _interleaved(tensor, layer, repeats, parts)
    yield Rows("decoder.final_layernorm.weight", None, 0, size.hidden, "model.norm.weight", 0)
    yield Rows(OUTPUT, None, 0, vocabulary, "lm_head.weight", 0)


def _layer(size: ModelSize) -> Iterator[tuple[str, int, dict[str, int]]]:
    """Yield (tensor on disk, repeats, {Hugging Face's tensor: rows per repeat}) for one layer."""
    h, f, d = size.hidden, size.ffn_hidden, size.head_dim
    queries = size.heads // size.query_groups * d
    yield "self_attention.linear_qkv.layer_norm_weight", 1, {"input_layernorm": h}
    # Each group's queries, then its key, then its value.
    qkv = {"self_attn.q_proj": queries, "self_attn.k_proj": d, "self_attn.v_proj": d}
    yield "self_attention.linear_qkv.weight", size.query_groups, qkv
    yield "self_attention.linear_proj.weight", 1, {"self_attn.o_proj": h}
    yield "mlp.linear_fc1.layer_norm_weight", 1, {"post_attention_layernorm": h}
    yield "mlp.linear_fc1.weight", 1, {"mlp.gate_proj": f, "mlp.up_proj": f}
    yield "mlp.linear_fc2.weight", 1, {"mlp.down_proj": h}


def _interleaved(tensor: str, layer: int, repeats: int, parts: dict[str, int]) -> Iterator[Rows]:
    start = 0
    for repeat in range(repeats):
        for module, count in parts.items():
            name = f"model.layers.{layer}.{module}.weight"
            yield Rows(LAYERS + tensor, layer, start, count, name, repeat * count)
            start += count


LONGEST_NAME = 500
"""Most characters in the name of a checkpoint's tensor."""

MOST_LAYERS = 1000
MOST_HEADS = 1024
MOST_WIDTH = 1 << 20
MOST_VOCABULARY = 1 << 24
"""Generous limits on the model that a checkpoint may describe: 405B has 126 layers, 128 heads, and 53,248 at its
widest."""


def require_possible(size: ModelSize, vocabulary: int) -> None:
    """Raise ValueError for numbers that cannot make a model, or whose tensors are too many to list."""
    most = {
        "layers": MOST_LAYERS,
        "hidden": MOST_WIDTH,
        "ffn_hidden": MOST_WIDTH,
        "heads": MOST_HEADS,
        "query_groups": MOST_HEADS,
    }
    for name, limit in most.items():
        if not 1 <= getattr(size, name) <= limit:
            raise ValueError(f"{name} is {getattr(size, name)}, expected 1 to {limit:,}")
    if not 1 <= vocabulary <= MOST_VOCABULARY:
        raise ValueError(f"the vocabulary has {vocabulary} rows, expected 1 to {MOST_VOCABULARY:,}")
    if size.hidden % size.heads or size.heads % size.query_groups:
        raise ValueError(
            f"hidden {size.hidden}, {size.heads} heads, {size.query_groups} query groups: each must be a multiple of "
            "the next"
        )


@cache
def shapes(size: ModelSize, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Return every tensor on disk, in the model's order; a stacked tensor's first axis is the layer."""
    layers, h, f, d = size.layers, size.hidden, size.ffn_hidden, size.head_dim
    return {
        EMBEDDING: (vocabulary, h),
        LAYERS + "self_attention.linear_qkv.layer_norm_weight": (layers, h),
        LAYERS + "self_attention.linear_qkv.weight": (layers, (size.heads + 2 * size.query_groups) * d, h),
        LAYERS + "self_attention.linear_proj.weight": (layers, h, size.heads * d),
        LAYERS + "mlp.linear_fc1.layer_norm_weight": (layers, h),
        LAYERS + "mlp.linear_fc1.weight": (layers, 2 * f, h),
        LAYERS + "mlp.linear_fc2.weight": (layers, h, f),
        "decoder.final_layernorm.weight": (h,),
        OUTPUT: (vocabulary, h),
    }


@cache
def huggingface_shapes(size: ModelSize, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Return every tensor of Hugging Face's, in the order of `rows`."""
    on_disk = shapes(size, vocabulary)
    counts: dict[str, int] = {}
    columns: dict[str, tuple[int, ...]] = {}
    for part in rows(size, vocabulary):
        counts[part.huggingface] = counts.get(part.huggingface, 0) + part.count
        columns[part.huggingface] = on_disk[part.tensor][1 if part.layer is None else 2 :]
    return {name: (count, *columns[name]) for name, count in counts.items()}
