"""Megatron-Core's AdamW and learning-rate schedule, with the values that the rules set."""

from __future__ import annotations

import torch
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.transformer.module import MegatronModule

from benchmark.config import RunConfig
from reference_impl.model import DTYPES
from reference_impl.preserve import torch_optimizers


def build_optimizer(config: RunConfig, chunks: list[MegatronModule]) -> MegatronOptimizer:
    """Build the distributed optimizer: AdamW in fp32, sharded over data-parallel ranks, no weight decay on norms."""
    optimizer = get_megatron_optimizer(optimizer_config(config), chunks, use_gloo_process_groups=False)
    use_fused_kernel(optimizer)
    return optimizer


def use_fused_kernel(optimizer: MegatronOptimizer) -> None:
    """Let torch's AdamW do all of a tensor's arithmetic in one kernel; Megatron-Core has no argument for this.

    Transformer Engine's AdamW, which Megatron-Core prefers if it is installed, does so by itself.
    """
    for inner in torch_optimizers(optimizer):
        if isinstance(inner, torch.optim.AdamW):
            for group in inner.param_groups:
                group["fused"] = True


def optimizer_config(config: RunConfig) -> OptimizerConfig:
    """Return Megatron-Core's configuration of AdamW, with the values that the rules set."""
    kernels = config.kernels
    adamw = config.optimizer
    moments = torch.bfloat16 if kernels.precision_aware_optimizer else torch.float32
    return OptimizerConfig(
        optimizer="adam",
        lr=config.schedule.base_learning_rate,
        min_lr=config.schedule.end_learning_rate,
        weight_decay=adamw.weight_decay,
        adam_beta1=adamw.beta_1,
        adam_beta2=adamw.beta_2,
        adam_eps=adamw.epsilon,
        clip_grad=adamw.gradient_clip_norm,
        params_dtype=DTYPES[kernels.precision],
        bf16=kernels.precision != "fp32",
        use_distributed_optimizer=True,
        use_precision_aware_optimizer=kernels.precision_aware_optimizer,
        exp_avg_dtype=moments,
        exp_avg_sq_dtype=moments,
        # Set only for weights that are kept in fp8 alone, which have no bf16 part to update.
        fp8_recipe=(kernels.fp8_recipe or "tensorwise") if kernels.fp8_param_gather else None,
    )


def build_schedule(config: RunConfig, optimizer: MegatronOptimizer) -> OptimizerParamScheduler:
    """Build the schedule: cosine with linear warm-up, step for step as in the reference.

    The reference (NeMo's CosineAnnealing) takes its first step at peak / (warm-up + 1), Megatron-Core at zero. Started
    one step ahead, with warm-up and end one step later, Megatron-Core's schedule equals it everywhere.
    """
    schedule, decay = config.schedule, config.optimizer.weight_decay
    scheduler = OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=schedule.base_learning_rate,
        min_lr=schedule.end_learning_rate,
        lr_warmup_steps=schedule.warmup_steps + 1,
        lr_decay_steps=schedule.warmup_steps + schedule.decay_steps + 1,
        lr_decay_style="cosine",
        start_wd=decay,
        end_wd=decay,
        wd_incr_steps=0,
        wd_incr_style="constant",
    )
    scheduler.step(1)
    return scheduler
