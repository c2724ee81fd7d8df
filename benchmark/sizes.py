"""The sizes of Llama 3.1, one row each.

Configuration, planner and trainer read the same row, which holds plain numbers. To add a size, add a row.

Source: the Llama 3 paper (arXiv 2407.21783), table 3, and the published config.json files; the tiny row is our own.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """One size of Llama 3.1: decoder, GQA, SwiGLU, RMSNorm, scaled RoPE, untied embeddings, no bias, no dropout."""

    name: str
    layers: int
    hidden: int
    ffn_hidden: int
    """Width of the SwiGLU gate and of its up-projection."""
    heads: int
    query_groups: int
    """Key/value heads (grouped-query attention)."""
    norm_epsilon: float = 1e-5
    rotary_base: int = 500_000
    rotary_scaling_factor: float = 8.0
    """The factor of Llama 3.1's RoPE scaling.

    Its other values are Megatron-Core's defaults: factors 1 and 4 for low and high frequencies, and 8192 positions.
    """
    init_std: float = 0.02
    """Standard deviation of randomly drawn weights."""

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads

    @property
    def layer_parameters(self) -> int:
        """Trainable parameters of one layer: attention, MLP and two norms."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.query_groups)
        return attention + 3 * self.hidden * self.ffn_hidden + 2 * self.hidden

    def parameters(self, vocabulary: int) -> int:
        """Return the trainable parameters, with `vocabulary` rows in the embedding and as many in the output layer."""
        return self.layers * self.layer_parameters + self.hidden + 2 * vocabulary * self.hidden

    def layer_flops(self, sequence_length: int) -> int:
        """Return the floating-point operations of one layer's forward and backward pass over one sample.

        They are six for each parameter and token, plus the attention of every token to every token. Causal kernels
        compute half of the attention, but all of it is counted, as in published figures.
        """
        attention = 12 * self.heads * self.head_dim * sequence_length**2
        return 6 * self.layer_parameters * sequence_length + attention

    def flops_per_sample(self, sequence_length: int, vocabulary: int) -> int:
        """Return the floating-point operations of training on one sample; the embedding, a look-up, counts nothing.

        Published 405B submissions have MODEL_TFLOP_PER_SAMPLE=21508. This function gives the same for 8192 tokens and
        the 128,256 entries of Llama 3's own vocabulary; with the benchmark's 32,000 entries it gives 21,430.
        """
        head = 6 * (vocabulary + 1) * self.hidden * sequence_length
        return self.layers * self.layer_flops(sequence_length) + head


_ROWS = (
    ModelSize(name="tiny", layers=2, hidden=128, ffn_hidden=384, heads=8, query_groups=2),
    ModelSize(name="8b", layers=32, hidden=4096, ffn_hidden=14336, heads=32, query_groups=8),
    ModelSize(name="70b", layers=80, hidden=8192, ffn_hidden=28672, heads=64, query_groups=8),
    ModelSize(name="405b", layers=126, hidden=16384, ffn_hidden=53248, heads=128, query_groups=8),
)

SIZES = {size.name: size for size in _ROWS}
