"""Llama 3.1 of any size as Megatron-Core's GPTModel, wrapped for data parallelism. One code path for tiny and 405B."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.module import Float16Module, MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig

from benchmark.config import VOCABULARY, RunConfig
from reference_impl.layers import block_spec
from reference_impl.parallel import device

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def build_model(config: RunConfig) -> list[MegatronModule]:
    """This rank's model chunks (one, or INTERLEAVED_PIPELINE of them), initialised and wrapped for data parallelism."""
    transformer = transformer_config(config)
    chunks = [_chunk(config, transformer, stage) for stage in _virtual_stages(config)]
    initialize_weights(chunks, config)
    if transformer.bf16:
        chunks = [Float16Module(transformer, chunk) for chunk in chunks]
    ddp = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=True,
        overlap_grad_reduce=torch.cuda.is_available(),
        overlap_param_gather=torch.cuda.is_available(),
    )
    return [
        DistributedDataParallel(transformer, ddp, chunk, disable_bucketing=index > 0)
        for index, chunk in enumerate(chunks)
    ]


def transformer_config(config: RunConfig) -> TransformerConfig:
    """Megatron-Core's configuration of the model and of how it is split."""
    size, dtype = config.size, DTYPES[config.precision]
    interleaved = config.interleaved_pipeline > 1
    # 126 layers fill 64 chunks when embedding and loss take the place of a layer each.
    uneven = size.layers % (config.pipeline_model_parallel * config.interleaved_pipeline) != 0
    return TransformerConfig(
        num_layers=size.layers,
        hidden_size=size.hidden,
        ffn_hidden_size=size.ffn_hidden,
        num_attention_heads=size.heads,
        num_query_groups=size.query_groups,
        gated_linear_unit=True,
        activation_func=F.silu,
        normalization="RMSNorm",
        layernorm_epsilon=size.norm_epsilon,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        init_method_std=size.init_std,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype is torch.bfloat16,
        # Off would leave the layers' tensor-parallel marks unset, and the gradient norm would count one shard only.
        perform_initialization=True,
        use_cpu_initialization=not torch.cuda.is_available(),
        # The loss is a sum over tokens, divided once by their number; must be set before the DDP wrapper is built.
        calculate_per_token_loss=True,
        tensor_model_parallel_size=config.tensor_model_parallel,
        pipeline_model_parallel_size=config.pipeline_model_parallel,
        virtual_pipeline_model_parallel_size=config.interleaved_pipeline if interleaved else None,
        account_for_embedding_in_pipeline_split=uneven,
        account_for_loss_in_pipeline_split=uneven,
        context_parallel_size=config.context_parallel,
        sequence_parallel=config.sequence_parallel,
        # Batched sends of an interleaved pipeline of two are matched wrongly, without an error.
        overlap_p2p_comm=interleaved,
        batch_p2p_comm=not interleaved,
        # On gloo, an overlapped send still reads the memory that deallocation frees.
        deallocate_pipeline_outputs=torch.cuda.is_available(),
        gradient_accumulation_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        persist_layer_norm=False,
    )


def _virtual_stages(config: RunConfig) -> list[int | None]:
    return [None] if config.interleaved_pipeline == 1 else list(range(config.interleaved_pipeline))


def _chunk(config: RunConfig, transformer: TransformerConfig, stage: int | None) -> GPTModel:
    where = {} if stage is None else {"ignore_virtual": False, "vp_stage": stage}
    chunk = GPTModel(
        transformer,
        block_spec(transformer, stage),
        vocab_size=VOCABULARY,
        max_sequence_length=config.rules.sequence_length,
        pre_process=parallel_state.is_pipeline_first_stage(**where),
        post_process=parallel_state.is_pipeline_last_stage(**where),
        parallel_output=True,
        share_embeddings_and_output_weights=False,
        position_embedding_type="rope",
        rotary_base=config.size.rotary_base,
        rope_scaling=True,
        rope_scaling_factor=config.size.rotary_scaling_factor,
        vp_stage=stage,
    )
    return chunk.to(device())


def unwrap(chunk: torch.nn.Module) -> GPTModel:
    """The GPTModel inside its wrappers."""
    inner: Any = chunk
    while hasattr(inner, "module"):
        inner = inner.module
    return inner


@torch.no_grad()
def initialize_weights(chunks: list[torch.nn.Module], config: RunConfig) -> None:
    """Draw every matrix from the run's seed and its own name, so that any layout starts from the same model.

    Normal with Llama's init_std; the two projections back into the residual stream have it divided by sqrt(2 *
    layers), as Megatron-Core's default. Norm weights stay at one.
    """
    size = config.size
    residual_std = size.init_std / math.sqrt(2 * size.layers)
    for name, parameter in named_parameters(chunks):
        if parameter.dim() < 2:
            continue
        std = residual_std if name.endswith(("linear_proj.weight", "linear_fc2.weight")) else size.init_std
        generator = torch.Generator(parameter.device).manual_seed(zlib.crc32(f"{config.seed}:{name}".encode()))
        parameter.copy_(_draw_shard(name, parameter, std, generator))


def named_parameters(chunks: list[torch.nn.Module]) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """This rank's parameters under the names they have in the whole model."""
    for chunk in chunks:
        model = unwrap(chunk)
        layers = model.decoder.layers
        offset = layers[0].layer_number - 1 if len(layers) else 0
        for name, parameter in model.named_parameters():
            yield _global_name(name, offset), parameter


def _global_name(name: str, offset: int) -> str:
    if not name.startswith("decoder.layers."):
        return name
    decoder, layers, index, rest = name.split(".", 3)
    return f"{decoder}.{layers}.{int(index) + offset}.{rest}"


def is_split(parameter: torch.Tensor) -> bool:
    """Whether tensor-parallel ranks hold different parts of it."""
    return bool(getattr(parameter, "tensor_model_parallel", False))


def _draw_shard(name: str, parameter: torch.Tensor, std: float, generator: torch.Generator) -> torch.Tensor:
    """This tensor-parallel rank's part of the whole matrix."""
    tp = parallel_state.get_tensor_model_parallel_world_size()
    rank = parallel_state.get_tensor_model_parallel_rank()
    axis: int | None = getattr(parameter, "partition_dim", None) if is_split(parameter) else None
    shape = list(parameter.shape)
    if axis is not None:
        shape[axis] *= tp
    whole = torch.empty(shape, device=parameter.device).normal_(0.0, std, generator=generator)
    if axis is None or tp == 1:
        return whole
    if name.endswith("linear_fc1.weight"):
        # Rows are the gate, then the up-projection; each rank holds its part of both.
        return torch.cat([half.chunk(tp)[rank] for half in whole.chunk(2)])
    return whole.chunk(tp, axis)[rank]
