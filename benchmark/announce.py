"""List what every run logs before its clock starts. The trainer logs it; preflight and the checker judge it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.config import RunConfig


# Our name of a precision -> that of the official checker (common.yaml since 6.0.0), which rejects other names.
_NUMBER_FORMATS = {"fp32": "fp32", "bf16": "bfloat16", "fp8": "fp8", "nvfp4": "nvfp4"}


def announce(config: RunConfig) -> tuple[tuple[str, Any], ...]:
    """Return (key, value) pairs: submission information, seed and hyperparameters, in the order of logging.

    The official checker needs that order: global_batch_size before the learning rate, warm-up before decay.

    Raises:
        ValueError: the run has no seed yet.
    """
    layout = config.layout
    submission = config.submission
    if config.job.seed is None:
        raise ValueError("a run is announced with its seed; draw one first (benchmark.seeds)")
    rules, schedule, adamw = config.rules, config.schedule, config.optimizer
    linear = _NUMBER_FORMATS[config.kernels.precision]
    # Attention and collectives stay in bf16 if the linear layers have a lower precision.
    others = linear if config.kernels.precision in ("fp32", "bf16") else "bfloat16"
    pairs: list[tuple[str, Any]] = [
        ("submission_benchmark", config.benchmark),
        # Each needs a value in a log. These defaults keep a run out of a package until its submitter sets them.
        ("submission_org", submission.org or "reference"),
        ("submission_division", submission.division),
        ("submission_status", submission.status or "research"),
        ("submission_platform", submission.platform or f"{layout.nodes}x{config.system}"),
        ("seed", config.job.seed),
        ("global_batch_size", layout.global_batch_size),
        ("gradient_accumulation_steps", layout.gradient_accumulation_steps),
        ("micro_batch_size", layout.micro_batch_size),
        ("max_sequence_length", rules.sequence_length),
        ("eval_samples", rules.eval_sequences),
        ("opt_name", "adamw"),
        ("opt_base_learning_rate", schedule.base_learning_rate),
        ("opt_end_learning_rate", schedule.end_learning_rate),
        ("opt_learning_rate_warmup_steps", schedule.warmup_steps),
        ("opt_learning_rate_decay_steps", schedule.decay_steps),
        ("opt_learning_rate_decay_schedule", "cosine with linear warmup"),
        ("opt_adamw_beta_1", adamw.beta_1),
        ("opt_adamw_beta_2", adamw.beta_2),
        ("opt_adamw_epsilon", adamw.epsilon),
        ("opt_adamw_weight_decay", adamw.weight_decay),
        ("opt_gradient_clip_norm", adamw.gradient_clip_norm),
        ("max_steps", rules.fixed_max_steps or config.step_limit),
        ("target_accuracy", rules.target_log_perplexity),
        ("tensor_parallelism", layout.tensor_model_parallel),
        ("pipeline_parallelism", layout.pipeline_model_parallel),
        ("context_parallelism", layout.context_parallel),
        ("expert_parallelism", 1),
        ("lowest_numerical_precision_in_linear", linear),
        ("lowest_numerical_precision_in_attn", others),
        ("lowest_numerical_precision_in_comm", others),
        ("config_filename", config.process.config_filename),
    ]
    if rules.init_checkpoint_step is not None:
        pairs.append(("init_checkpoint_step", rules.init_checkpoint_step))
    if config.size != config.benchmark_row.size:
        # No official key says which network was trained.
        pairs.append(("model_size", config.size.name))
    return tuple(pairs)
