"""The shapes of Llama 3.1, one row a size.

Pure numbers, so that the configuration, the planner and the trainer read the same row. To add a size, add a row.

Source: the Llama 3 paper (arXiv 2407.21783), table 3, and the published config.json files; the tiny row is ours.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """One decoder-only Llama 3.1: GQA, SwiGLU, RMSNorm, scaled RoPE, untied embeddings, no biases, no dropout."""

    name: str
    layers: int
    hidden: int
    ffn_hidden: int
    """Width of the SwiGLU gate, and of its up-projection."""
    heads: int
    query_groups: int
    """Key/value heads (grouped-query attention)."""
    norm_epsilon: float = 1e-5
    rotary_base: int = 500_000
    rotary_scaling_factor: float = 8.0
    """Llama 3.1's RoPE scaling; low and high frequency factors 1 and 4 over 8192 positions are Megatron-Core's own."""
    init_std: float = 0.02

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    def parameters(self, vocabulary: int) -> int:
        """Trainable parameters with `vocabulary` rows in the embedding and as many in the output layer."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.query_groups)
        mlp = 3 * self.hidden * self.ffn_hidden
        norms = 2 * self.hidden
        return self.layers * (attention + mlp + norms) + self.hidden + 2 * vocabulary * self.hidden


_ROWS = (
    ModelSize(name="tiny", layers=2, hidden=128, ffn_hidden=384, heads=8, query_groups=2),
    ModelSize(name="8b", layers=32, hidden=4096, ffn_hidden=14336, heads=32, query_groups=8),
    ModelSize(name="70b", layers=80, hidden=8192, ffn_hidden=28672, heads=64, query_groups=8),
    ModelSize(name="405b", layers=126, hidden=16384, ffn_hidden=53248, heads=128, query_groups=8),
)

SIZES = {size.name: size for size in _ROWS}
