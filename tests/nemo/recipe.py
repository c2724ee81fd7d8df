"""NeMo's recipe llama31_405b beside ours: what is compared, every difference with its reason, and what is left out.

Ours is the configuration of 512 H100s: 64 nodes of 8 are the default of the recipe's trainer, too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from benchmark.benchmarks import LLAMA31_405B
from benchmark.checkout import ROOT
from benchmark.config import RunConfig, source_config

_EXPORTS = source_config(ROOT / "configs" / "config_DGXH100_64x8x288xtp8pp8cp2.sh", {"PATH": os.environ["PATH"]})
CONFIG = RunConfig.from_environment(_EXPORTS)
RULES, SIZE, SCHEDULE = CONFIG.rules, CONFIG.size, CONFIG.schedule

Plain = bool | int | float | str | None


@dataclass(frozen=True)
class Row:
    """One hyperparameter."""

    nemo: str
    """Where it is in NeMo's recipe."""
    ours: Plain
    why: str = ""
    """The reason of the difference; empty where there is none."""


_FREE = "no rule fixes the layout; ours is that of NVIDIA's submission to v5.0 on the same 512 GPUs"

TABLE = (
    # The model.
    Row("model.config.num_layers", SIZE.layers),
    Row("model.config.hidden_size", SIZE.hidden),
    Row("model.config.ffn_hidden_size", SIZE.ffn_hidden),
    Row("model.config.num_attention_heads", SIZE.heads),
    Row("model.config.num_query_groups", SIZE.query_groups),
    Row("model.config.layernorm_epsilon", SIZE.norm_epsilon),
    Row("model.config.init_method_std", SIZE.init_std),
    Row("model.config.rotary_base", SIZE.rotary_base),
    Row("model.config.scale_factor", SIZE.rotary_scaling_factor),
    # Constants of Megatron-Core's RoPE for Llama 3.1, which ours takes.
    Row("model.config.low_freq_factor", 1.0),
    Row("model.config.high_freq_factor", 4.0),
    Row("model.config.old_context_len", 8192),
    Row("model.config.gated_linear_unit", True),
    Row("model.config.normalization", "RMSNorm"),
    Row("model.config.add_bias_linear", False),
    Row("model.config.hidden_dropout", 0.0),
    Row("model.config.attention_dropout", 0.0),
    Row("model.config.share_embeddings_and_output_weights", False),
    Row("model.config.seq_length", RULES.sequence_length),
    Row(
        "model.config.vocab_size",
        LLAMA31_405B.vocabulary,
        why="NeMo asks the tokenizer when it builds the model; the benchmark's has 32,000 words",
    ),
    Row(
        "model.config.make_vocab_size_divisible_by",
        1,
        why="NeMo pads the vocabulary to a multiple of 128 x TP, 32,768 at TP 8; 32,000 divides by every TP in use, "
        "and without padded columns none takes part in the loss",
    ),
    Row(
        "model.config.calculate_per_token_loss",
        True,
        why="NeMo averages the means of microbatches; ours divides one sum by one number of tokens, which is the same "
        "where all sequences are full, as in this dataset, and right for an evaluation of any number of sequences",
    ),
    # The optimizer and its schedule.
    Row("optim.config.optimizer", "adam"),
    Row("optim.config.decoupled_weight_decay", True),
    Row("optim.config.adam_beta1", RULES.optimizer.beta_1),
    Row("optim.config.adam_beta2", RULES.optimizer.beta_2),
    Row("optim.config.adam_eps", RULES.optimizer.epsilon),
    Row("optim.config.weight_decay", RULES.optimizer.weight_decay),
    Row("optim.config.clip_grad", RULES.optimizer.gradient_clip_norm),
    Row("optim.config.use_distributed_optimizer", True),
    Row(
        "optim.config.lr",
        SCHEDULE.base_learning_rate,
        why="the rules have 8e-5 x global batch size / 1152",
    ),
    Row("optim.lr_scheduler.min_lr", SCHEDULE.end_learning_rate, why="the rules have 8e-7 at every batch size"),
    Row(
        "optim.lr_scheduler.warmup_steps",
        SCHEDULE.warmup_steps,
        why="the rules have ceil(8000 x 1152 / global batch size)",
    ),
    Row("optim.lr_scheduler.constant_steps", 0),
    Row(
        "trainer.max_steps",
        SCHEDULE.max_steps,
        why="the rules have ceil(1,200,000 x 1152 / global batch size), warm-up included",
    ),
    Row("data.seq_length", RULES.sequence_length),
    Row("data.micro_batch_size", CONFIG.layout.micro_batch_size),
    Row(
        "data.global_batch_size",
        CONFIG.layout.global_batch_size,
        why="no rule fixes it up to 9,216; ours is MINIBS x data-parallel size, the recipe's comes with its mock data",
    ),
    # Precision.
    Row("trainer.plugins.params_dtype", "torch.bfloat16"),
    Row(
        "trainer.plugins.precision",
        CONFIG.kernels.precision,
        why="no rule fixes it; ours multiplies matrices in fp8, as NVIDIA's submission to v5.0 on the same GPUs",
    ),
    Row(
        "trainer.plugins.grad_reduce_in_fp32",
        CONFIG.kernels.grad_reduce_in_fp32,
        why="no rule fixes the type that gradients are sent in; bf16 is half the bytes",
    ),
    Row("model.config.recompute_granularity", CONFIG.kernels.recompute_granularity),
    # The layout.
    Row("trainer.strategy.tensor_model_parallel_size", CONFIG.layout.tensor_model_parallel),
    Row("trainer.strategy.pipeline_model_parallel_size", CONFIG.layout.pipeline_model_parallel),
    Row(
        "trainer.strategy.virtual_pipeline_model_parallel_size",
        CONFIG.layout.interleaved_pipeline,
        why=_FREE,
    ),
    Row("trainer.strategy.context_parallel_size", CONFIG.layout.context_parallel, why=_FREE),
    Row("trainer.strategy.sequence_parallel", CONFIG.layout.sequence_parallel),
    Row("trainer.devices", CONFIG.layout.gpus_per_node),
    Row("trainer.num_nodes", CONFIG.layout.nodes, why="an argument of the recipe, which its user gives"),
    # Evaluation.
    Row(
        "trainer.val_check_interval",
        SCHEDULE.eval_interval_steps,
        why="the rules have ceil(18,432 / global batch size) steps, after some at the start that are skipped",
    ),
    Row(
        "trainer.limit_val_batches",
        RULES.eval_sequences / CONFIG.layout.global_batch_size,
        why="in global batches; the rules have 5,760 sequences at every batch size",
    ),
)

NOT_COMPARED = {
    "log.": "where and how NeMo logs and keeps checkpoints",
    "resume.": "where NeMo looks for a checkpoint to go on with",
    "optim.config.bf16": "said by trainer.plugins.params_dtype",
    "optim.config.fp16": "said by trainer.plugins.params_dtype",
    "trainer.accelerator": "ours runs on what there is",
    "trainer.accumulate_grad_batches": "Lightning's, which Megatron replaces by microbatches",
    "trainer.limit_test_batches": "the benchmark has no test set",
    "trainer.log_every_n_steps": "how NeMo logs",
    "trainer.plugins.": "the type of the weights in another place, and Torch's autocast, which neither uses",
    "trainer.strategy.account_for": "ours counts embedding and loss as layers where the layers do not fill the chunks",
    "trainer.strategy.ckpt": "how NeMo saves",
    "trainer.strategy.ddp.": "when gradients and weights are sent: speed, not values",
    "trainer.strategy.gradient_as_bucket_view": "PyTorch's DDP, which Megatron's replaces",
    "trainer.strategy.pipeline_dtype": "said by trainer.plugins.params_dtype",
    "trainer.use_distributed_sampler": "Lightning's, which Megatron's sampler replaces",
}
"""How names of the recipe begin that are left out -> why."""

SCHEDULE_STEPS = [
    *(1, 2, SCHEDULE.warmup_steps, SCHEDULE.warmup_steps + 1, SCHEDULE.warmup_steps + 2),
    *(SCHEDULE.max_steps // 2, SCHEDULE.max_steps - 1, SCHEDULE.max_steps, SCHEDULE.max_steps + 1),
]
"""Optimizer steps, counted from 1, at which NeMo's learning rate is compared with the rules'."""
