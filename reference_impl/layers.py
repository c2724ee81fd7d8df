"""The kernels of a transformer layer, as Megatron-Core's specs: Transformer Engine's, or PyTorch's own.

`te` is Megatron-Core's own spec. `torch` is ours: Megatron-Core's modules around PyTorch's RMSNorm and attention, for a
CPU and for any GPU, without Transformer Engine or Apex. Shapes in comments: s sequence, b batch, n heads, d head size.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch.nn.functional import scaled_dot_product_attention

from benchmark.config.kernels import LayerSpec
from reference_impl.attention import attend_to_all_before


class RMSNorm(torch.nn.RMSNorm):
    """PyTorch's RMSNorm, built the way Megatron-Core builds norms.

    Megatron-Core's own wrapper refuses sequence parallelism. All that is needed for it is to mark the weight, whose
    gradient is then summed over the tensor-parallel ranks.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]


class CausalAttention(torch.nn.Module):
    """Causal core attention by scaled_dot_product_attention, with grouped queries and context parallelism.

    With context parallelism a rank r of cp holds chunks r and 2*cp-1-r of the sequence (Megatron's balanced split);
    keys and values are all-gathered, and each chunk attends to everything up to its own end.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,  # noqa: ARG002 - Megatron-Core's signature
        attn_mask_type: AttnMaskType,
        attention_type: str,  # noqa: ARG002
        attention_dropout: float | None = None,  # noqa: ARG002
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,  # noqa: ARG002
        pg_collection: Any = None,
    ) -> None:
        super().__init__()
        if attn_mask_type != AttnMaskType.causal or config.attention_dropout:
            raise ValueError(f"causal attention without dropout only, got {attn_mask_type}, {config.attention_dropout}")
        self._scale = softmax_scale
        self._cp_group = pg_collection.cp if config.context_parallel_size > 1 else None

    def forward(
        self,
        query: torch.Tensor,  # [s, b, n, d]
        key: torch.Tensor,  # [s, b, query groups, d]
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,  # noqa: ARG002 - causal by construction
        attn_mask_type: AttnMaskType | None = None,  # noqa: ARG002
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> torch.Tensor:
        if attention_bias is not None or packed_seq_params is not None:
            raise ValueError("attention bias and packed sequences are not part of this benchmark")
        q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value))  # [b, n, s, d]
        attend = self._attend_to_all if self._cp_group is None else self._attend_across_ranks
        out = attend(q, k, v)
        return out.permute(2, 0, 1, 3).reshape(query.size(0), query.size(1), -1)  # [s, b, n*d]

    def _attend_to_all(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        grouped = q.size(1) != k.size(1)
        return scaled_dot_product_attention(q, k, v, is_causal=True, scale=self._scale, enable_gqa=grouped)

    def _attend_across_ranks(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        assert self._cp_group is not None
        size, rank, chunk = self._cp_group.size(), self._cp_group.rank(), q.size(2) // 2
        k, v = self._gathered(torch.cat((k, v), -1), size, chunk).chunk(2, -1)
        outs = []
        for part, position in enumerate((rank, 2 * size - 1 - rank)):
            end = (position + 1) * chunk
            mine = q[:, :, part * chunk : (part + 1) * chunk]
            outs.append(attend_to_all_before(mine, k[:, :, :end], v[:, :, :end], self._scale))
        return torch.cat(outs, dim=2)

    def _gathered(self, kv: torch.Tensor, size: int, chunk: int) -> torch.Tensor:
        """Return keys and values of the whole sequence in its own order, from the ranks' pairs of chunks."""
        pieces = gather_from_sequence_parallel_region(kv.permute(2, 0, 1, 3).contiguous(), group=self._cp_group)
        pieces = pieces.unflatten(0, (2 * size, chunk))  # in rank order: chunks 0, 2*size-1, 1, 2*size-2, ...
        ordered = torch.cat((pieces[0::2], pieces[1::2].flip(0)))
        return ordered.flatten(0, 1).permute(1, 2, 0, 3)


def block_spec(config: TransformerConfig, vp_stage: int | None, spec: LayerSpec) -> TransformerBlockSubmodules:
    """Return the spec of one pipeline chunk's layers and of the final norm."""
    if spec == "te":
        return get_gpt_decoder_block_spec(config, use_transformer_engine=True, vp_stage=vp_stage)
    layers = [_torch_layer()] * get_num_layers_to_build(config, vp_stage=vp_stage)
    return TransformerBlockSubmodules(layer_specs=layers, layer_norm=RMSNorm)


def _torch_layer() -> ModuleSpec:
    attention = ModuleSpec(
        module=SelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=ColumnParallelLinear,
            core_attention=CausalAttention,
            linear_proj=RowParallelLinear,
            q_layernorm=IdentityOp,
            k_layernorm=IdentityOp,
        ),
    )
    mlp = ModuleSpec(
        module=MLP, submodules=MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
    )
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=RMSNorm,
            self_attention=attention,
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=RMSNorm,
            mlp=mlp,
            mlp_bda=get_bias_dropout_add,
        ),
    )
