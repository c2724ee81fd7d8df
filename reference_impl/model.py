"""Llama 3.1 of any size as Megatron-Core's GPTModel, wrapped for data parallelism. One code path for tiny and 405B."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.module import Float16Module, MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig

from benchmark.config import RunConfig
from benchmark.config.groups import Kernels
from benchmark.config.kernels import LayerSpec, Machine, layer_spec, loss_fusion
from benchmark.sizes import ModelSize
from reference_impl import parallel, quantised
from reference_impl.head import Llama
from reference_impl.layers import block_spec
from reference_impl.replicas import data_parallel

# Types of weights and activations. Below bf16, Transformer Engine casts the inputs of a matrix product.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.bfloat16, "nvfp4": torch.bfloat16}

# If a whole tensor shares one scale, gradients need the range of E5M2; blocks with a scale of their own do not.
_FP8_FORMATS = {"tensorwise": "hybrid", "blockwise": "e4m3", "mxfp8": "e4m3"}


def build_model(config: RunConfig) -> list[MegatronModule]:
    """Return this rank's model chunks (one, or INTERLEAVED_PIPELINE of them), initialised and wrapped."""
    here = parallel.machine()
    transformer, spec = transformer_config(config, here), layer_spec(config.kernels, here)
    if config.kernels.tp_comm_overlap:
        initialize_user_buffers(config)
    chunks = [gpt_chunk(config, transformer, stage, spec).to(parallel.device()) for stage in virtual_stages(config)]
    if fused(config.kernels, here) and spec == "te":
        fuse_weight_gradients(chunks)
    if config.data.load_checkpoint is None:
        initialize_weights(chunks, config)
    if transformer.bf16:
        chunks = [Float16Module(transformer, chunk) for chunk in chunks]
    return data_parallel(transformer, ddp_config(config.kernels, here, interleaved=len(chunks) > 1), chunks)


def transformer_config(config: RunConfig, machine: Machine) -> TransformerConfig:
    """Return Megatron-Core's configuration of the model, its layout, and its kernels on such a machine."""
    return TransformerConfig(
        **_shape(config.size),
        **_precision(config.kernels),
        **_layout(config, on_gpu=machine.gpu),
        **_kernels(config, machine),
        **_recomputation(config.kernels),
        # If this is off, layers have no tensor-parallel marks, and the gradient norm counts one shard only.
        perform_initialization=True,
        use_cpu_initialization=not machine.gpu,
        # The loss is a sum over tokens, divided once by their number; set this before the DDP wrapper is built.
        calculate_per_token_loss=True,
    )


def _shape(size: ModelSize) -> dict[str, Any]:
    return {
        "num_layers": size.layers,
        "hidden_size": size.hidden,
        "ffn_hidden_size": size.ffn_hidden,
        "num_attention_heads": size.heads,
        "num_query_groups": size.query_groups,
        "gated_linear_unit": True,
        "activation_func": F.silu,
        "normalization": "RMSNorm",
        "layernorm_epsilon": size.norm_epsilon,
        "add_bias_linear": False,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "init_method_std": size.init_std,
    }


def _precision(kernels: Kernels) -> dict[str, Any]:
    dtype = DTYPES[kernels.precision]
    settings: dict[str, Any] = {"params_dtype": dtype, "pipeline_dtype": dtype, "bf16": dtype is torch.bfloat16}
    if kernels.precision == "fp8":
        recipe = kernels.fp8_recipe or "tensorwise"
        settings |= {"fp8": _FP8_FORMATS[recipe], "fp8_recipe": recipe, "fp8_param": kernels.fp8_param_gather}
    if kernels.precision == "nvfp4":
        settings |= {"fp4": "e2m1", "fp4_recipe": "nvfp4"}
    start, end = kernels.bf16_layers_at_start, kernels.bf16_layers_at_end
    if start or end:
        settings |= {
            "first_last_layers_bf16": True,
            "num_layers_at_start_in_bf16": start,
            "num_layers_at_end_in_bf16": end,
        }
    return settings


def _layout(config: RunConfig, *, on_gpu: bool) -> dict[str, Any]:
    layout = config.layout
    stages = layout.pipeline_model_parallel * layout.interleaved_pipeline
    interleaved = layout.interleaved_pipeline > 1
    # 126 layers fill 64 chunks if embedding and loss each take the place of a layer.
    uneven = config.size.layers % stages != 0
    return {
        "tensor_model_parallel_size": layout.tensor_model_parallel,
        "sequence_parallel": layout.sequence_parallel,
        "tp_comm_overlap": config.kernels.tp_comm_overlap,
        "tp_comm_overlap_ag": config.kernels.tp_overlap_gather,
        "tp_comm_overlap_rs": config.kernels.tp_overlap_scatter,
        "context_parallel_size": layout.context_parallel,
        "pipeline_model_parallel_size": layout.pipeline_model_parallel,
        "virtual_pipeline_model_parallel_size": layout.interleaved_pipeline if interleaved else None,
        "account_for_embedding_in_pipeline_split": uneven,
        "account_for_loss_in_pipeline_split": uneven,
        # Without overlap, the batched sends of an interleaved pipeline of two are matched wrongly, without an error.
        "overlap_p2p_comm": interleaved,
        "batch_p2p_comm": not interleaved,
        # On gloo, an overlapped send still reads the memory that deallocation frees. A graph's outputs are views.
        "deallocate_pipeline_outputs": on_gpu and config.kernels.cuda_graph == "none",
    }


def _kernels(config: RunConfig, machine: Machine) -> dict[str, Any]:
    kernels = config.kernels
    on_te = layer_spec(config.kernels, machine) == "te"
    fuse = fused(kernels, machine)
    loss = loss_fusion(kernels, machine)
    return {
        "cp_comm_type": (kernels.cp_comm_type or "p2p") if on_te else None,
        "bias_activation_fusion": fuse,
        "bias_dropout_fusion": fuse,
        "apply_rope_fusion": fuse and on_te,
        # This also covers the output layer, which needs Apex's kernel; without it see `fuse_weight_gradients`.
        "gradient_accumulation_fusion": fuse and on_te and machine.weight_gradient_fusion,
        "masked_softmax_fusion": False,
        "persist_layer_norm": False,
        "cross_entropy_loss_fusion": loss is not None,
        "cross_entropy_fusion_impl": loss or "native",
        "cuda_graph_impl": "local" if kernels.full_cuda_graph else kernels.cuda_graph,
        "cuda_graph_scope": "full_iteration" if kernels.full_cuda_graph else "full",
        "use_te_rng_tracker": kernels.captures,
    }


def fused(kernels: Kernels, machine: Machine) -> bool:
    """Return whether elementwise work is fused into other kernels: KERNEL_FUSION, by default on for GPUs."""
    return machine.gpu if kernels.kernel_fusion is None else kernels.kernel_fusion


def fuse_weight_gradients(chunks: list[GPTModel]) -> None:
    """Make Transformer Engine's layers add a weight gradient to its buffer inside the matrix product.

    Megatron-Core has one switch for these layers and its own output layer, and refuses it without Apex's kernel. So the
    model is built with the switch off and the layers are changed afterwards; the output layer stays as it was built.
    """
    for chunk in chunks:
        # Graphs read this from the configuration; the layers copied it when they were built.
        chunk.config.gradient_accumulation_fusion = True
        for module in chunk.modules():
            if hasattr(module, "fuse_wgrad_accumulation"):
                module.fuse_wgrad_accumulation = True


def _recomputation(kernels: Kernels) -> dict[str, Any]:
    return {
        "recompute_granularity": kernels.recompute_granularity,
        "recompute_modules": kernels.recompute_modules.split(",") if kernels.recompute_modules else None,
        "recompute_method": kernels.recompute_method,
        "recompute_num_layers": kernels.recompute_num_layers,
    }


def ddp_config(kernels: Kernels, machine: Machine, *, interleaved: bool = False) -> DistributedDataParallelConfig:
    """Return Megatron-Core's configuration of gradient reduction and of gathering updated weights."""
    reduce = machine.gpu if kernels.overlap_grad_reduce is None else kernels.overlap_grad_reduce
    gather = reduce if kernels.overlap_param_gather is None else kernels.overlap_param_gather
    align = kernels.align_param_gather
    return DistributedDataParallelConfig(
        grad_reduce_in_fp32=kernels.grad_reduce_in_fp32,
        use_distributed_optimizer=True,
        overlap_grad_reduce=reduce,
        overlap_param_gather=gather,
        # The schedule of an interleaved pipeline starts each gather; other schedules leave it to the layers that need
        # it.
        align_param_gather=gather and (interleaved if align is None else align),
        bucket_size=kernels.bucket_size,
        fp8_param_gather=kernels.fp8_param_gather,
    )


def virtual_stages(config: RunConfig) -> list[int | None]:
    """Return the virtual stages, one for each model chunk of this pipeline stage; [None] without interleaving."""
    return [None] if config.layout.interleaved_pipeline == 1 else list(range(config.layout.interleaved_pipeline))


def gpt_chunk(config: RunConfig, transformer: TransformerConfig, stage: int | None, spec: LayerSpec) -> GPTModel:
    """Build one model chunk of this rank, with Megatron-Core's initial weights.

    The vocabulary is not padded, so no padded column takes part in the loss: every allowed tensor-parallel size divides
    the benchmark's own vocabulary.
    """
    where = {} if stage is None else {"ignore_virtual": False, "vp_stage": stage}
    return Llama(
        transformer,
        block_spec(transformer, stage, spec),
        vocab_size=config.vocabulary,
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


def initialize_user_buffers(config: RunConfig) -> None:
    """Set up the buffers through which Transformer Engine overlaps tensor-parallel collectives with matrix products."""
    layout = config.layout
    from transformer_engine.pytorch.module.base import initialize_ub

    tokens = layout.micro_batch_size * config.rules.sequence_length // layout.context_parallel
    initialize_ub(
        shape=[tokens, config.size.hidden],
        tp_size=layout.tensor_model_parallel,
        use_fp8=config.kernels.precision == "fp8",
        bootstrap_backend="nccl",
    )


def unwrap(chunk: torch.nn.Module) -> GPTModel:
    """Return the GPTModel inside its wrappers."""
    inner: Any = chunk
    while hasattr(inner, "module"):
        inner = inner.module
    return inner


@torch.no_grad()
def initialize_weights(chunks: list[torch.nn.Module], config: RunConfig) -> None:
    """Draw every matrix from the run's seed and its own name, so that every layout starts from the same model.

    The distribution is normal with Llama's init_std; the two projections back into the residual stream use init_std
    divided by sqrt(2 * layers), as is Megatron-Core's default. Norm weights stay at one.
    """
    size = config.size
    residual_std = size.init_std / math.sqrt(2 * size.layers)
    for name, parameter in named_parameters(chunks):
        if parameter.dim() < 2:
            continue
        std = residual_std if name.endswith(("linear_proj.weight", "linear_fc2.weight")) else size.init_std
        generator = torch.Generator(parameter.device).manual_seed(zlib.crc32(f"{config.job.seed}:{name}".encode()))
        quantised.write(parameter, _draw_shard(name, parameter, std, generator))


def named_parameters(chunks: list[torch.nn.Module]) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Yield this rank's parameters under the names that they have in the whole model."""
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
    """Return whether tensor-parallel ranks hold different parts of the parameter."""
    return bool(getattr(parameter, "tensor_model_parallel", False))


def _draw_shard(name: str, parameter: torch.Tensor, std: float, generator: torch.Generator) -> torch.Tensor:
    """Return this tensor-parallel rank's part of the whole matrix."""
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
        # The rows are the gate, then the up-projection; each rank holds its part of both.
        return torch.cat([half.chunk(tp)[rank] for half in whole.chunk(2)])
    return whole.chunk(tp, axis)[rank]
