"""Mutations of announced hyperparameters."""

from __future__ import annotations

import math

from tests.compliance.mutations.edits import Edit, add, all_of, falling, move_after, put, rerun
from tests.compliance.mutations.mutation import Label, of_8b, of_405b, of_both
from tests.compliance.mutations.sources import NOT_CHECKED, TABLE, THOROUGHLY, official, published, rules
from tests.logs import LogFile

PASS, REJECT, OFFICIAL, DEBATABLE = Label.PASS, Label.REJECT, Label.OFFICIAL, Label.DEBATABLE

ROUNDED = rules("Llama 3.1 405b hyperparameter constraints", "8e-5 * (GBS / 1152), rounded to the 8th decimal place")
EQUALITY = official("closed_llama31_405b.yaml", "v * 1152 == s['global_batch_size'] * 8e-5")
END_8B = rules(TABLE, "llama31_8b opt_end_learning_rate: opt_base_learning_rate * 0.1")
END_405B = rules(TABLE, "llama31_405b opt_end_learning_rate: 8e-7")
WARMUP_405B = rules(TABLE, "llama31_405b opt_learning_rate_warmup_steps: ceil(8000 * 1152 / global_batch_size)")
DECAY_8B = rules(TABLE, "llama31_8b opt_learning_rate_decay_steps: 1_200_000 - opt_learning_rate_warmup_steps")
DROPOUT = rules(TABLE, "dropout: 0.0: Disable all dropouts during training.")
ACCUMULATION = rules(
    TABLE, "gradient_accumulation_steps: Number of fwd/bwd steps between optimizer step; of whole micro-batches"
)
TYPE = official("closed_*.yaml", "a text equals no number")


def at_batch(batch: int, *, rounded: bool = False, every: int = 18432, skips: bool = True) -> Edit:
    """A 405B run at another global batch size on eight GPUs, with all that follows from it.

    Source: training_rules, "Hyperparameters" and "Quality measure".

    Args:
        rounded: the learning rate is rounded as the rule says, not as the official checker compares.
        every: sequences between two evaluations, before rounding up; 46080 in 5.0.0.
        skips: whether the first evaluations are skipped; not in 5.0.0.
    """

    def edit(log: LogFile) -> None:
        rate = 8e-5 * batch / 1152
        warmup = math.ceil(8000 * 1152 / batch)
        values = {
            "global_batch_size": batch,
            "gradient_accumulation_steps": batch // 8,
            "opt_base_learning_rate": round(rate, 8) if rounded else rate,
            "opt_learning_rate_warmup_steps": warmup,
            "opt_learning_rate_decay_steps": math.ceil(1_200_000 * 1152 / batch) - warmup,
        }
        for key, value in values.items():
            log.set(key, value)
        interval = math.ceil(every / batch) * batch
        first = (math.floor(0.0026 * batch + 12) + 1) * interval if skips else interval
        rerun(log, falling(log, [first + nth * interval for nth in range(3)]))

    return edit


def _free_rate(base: float) -> Edit:
    return all_of(put("opt_base_learning_rate", base), put("opt_end_learning_rate", base * 0.1))


HYPERPARAMETERS = (
    # The learning rate of 405B.
    of_405b(
        "batch-1280",
        "A global batch size of 1280, the learning rate not rounded.",
        at_batch(1280),
        PASS,
        published("NVIDIA v5.1 405B", "1280 with 8.888888888888889e-05"),
    ),
    of_405b(
        "rate-rounded",
        "At 1280 the learning rate is rounded as the rule says.",
        at_batch(1280, rounded=True),
        OFFICIAL,
        f"{ROUNDED}; {EQUALITY}",
    ),
    of_405b(
        "rate-rounded-5.1",
        "At 1280 the learning rate is rounded as the rule says.",
        at_batch(1280, rounded=True),
        OFFICIAL,
        f"{ROUNDED}; {EQUALITY}",
        ruleset="5.1.0",
    ),
    of_405b(
        "batch-without-double",
        "At 1984 no double passes; the learning rate is not rounded.",
        at_batch(1984),
        OFFICIAL,
        f"{ROUNDED}; {EQUALITY}",
    ),
    of_405b(
        "batch-without-double-rounded",
        "At 1984 no double passes; the learning rate is rounded.",
        at_batch(1984, rounded=True),
        OFFICIAL,
        f"{ROUNDED}; {EQUALITY}",
    ),
    of_405b(
        "batch-448",
        "A global batch size of 448, below the table.",
        at_batch(448),
        PASS,
        published("NVIDIA v5.0 405B", "448 on 256 GPUs"),
    ),
    of_405b(
        "batch-2304",
        "A global batch size of 2304, in the table.",
        at_batch(2304),
        PASS,
        rules("Llama 3.1 405b hyperparameter constraints", "2304: 16e-5"),
    ),
    of_405b(
        "batch-above",
        "A global batch size of 9224, above the table's range.",
        at_batch(9224),
        REJECT,
        rules("Llama 3.1 405b hyperparameter constraints", "GBS>9216 - new RCP needs to be generated"),
    ),
    of_405b(
        "rate-doubled", "The learning rate is twice the table's.", put("opt_base_learning_rate", 16e-5), REJECT, ROUNDED
    ),
    of_405b(
        "rate-last-digit",
        "The learning rate is off by a millionth.",
        put("opt_base_learning_rate", 8.00001e-5),
        REJECT,
        ROUNDED,
    ),
    of_405b("rate-text", 'The learning rate is "8e-05".', put("opt_base_learning_rate", "8e-05"), OFFICIAL, TYPE),
    of_8b(
        "rate-free",
        "Another learning rate, and a tenth of it at the end.",
        _free_rate(0.0007),
        PASS,
        rules(TABLE, "llama31_8b opt_base_learning_rate: unconstrained"),
    ),
    # Its end.
    of_8b(
        "end-rate-of-405b",
        "The end learning rate is 8e-7, as of 405B.",
        put("opt_end_learning_rate", 8e-7),
        REJECT,
        END_8B,
    ),
    of_8b("end-rate-zero", "The end learning rate is 0.", put("opt_end_learning_rate", 0.0), REJECT, END_8B),
    of_8b(
        "end-rate-is-base",
        "The end learning rate is the base rate.",
        put("opt_end_learning_rate", 0.002),
        REJECT,
        END_8B,
    ),
    of_8b(
        "end-rate-rounded",
        "The end learning rate is a tenth of the base, in shorter decimals.",
        all_of(put("opt_base_learning_rate", 0.0007), put("opt_end_learning_rate", 7e-5)),
        PASS,
        END_8B,
    ),
    of_8b(
        "end-rate-5.1",
        "The end learning rate is a fifth of the base.",
        put("opt_end_learning_rate", 0.0004),
        REJECT,
        END_8B,
        ruleset="5.1.0",
    ),
    of_405b(
        "end-rate-tenth",
        "The end learning rate is a tenth of the base, as of 8B.",
        put("opt_end_learning_rate", 8e-6),
        REJECT,
        END_405B,
    ),
    of_405b("end-rate-zero", "The end learning rate is 0.", put("opt_end_learning_rate", 0), REJECT, END_405B),
    # Warm-up and decay.
    of_405b(
        "warmup-short", "Warm-up takes 100 steps.", put("opt_learning_rate_warmup_steps", 100), REJECT, WARMUP_405B
    ),
    of_405b(
        "warmup-fraction",
        "At 1008 warm-up is 9142.857 steps, not rounded up.",
        all_of(at_batch(1008), put("opt_learning_rate_warmup_steps", 8000 * 1152 / 1008)),
        PASS,
        published("UF v5.1 405B", "9142.857142857143"),
        ruleset="5.1.0",
    ),
    of_405b(
        "decay-constant",
        "At 1280 the decay is that of 1152.",
        all_of(at_batch(1280), put("opt_learning_rate_decay_steps", 1192000)),
        REJECT,
        official("closed_llama31_405b.yaml", "CHECK of opt_learning_rate_decay_steps"),
    ),
    of_405b(
        "decay-constant-5.0",
        "At 1280 the decay is that of 1152, in the round without a check of it.",
        all_of(at_batch(1280, every=46080, skips=False), put("opt_learning_rate_decay_steps", 1192000)),
        PASS,
        published("NVIDIA v5.0 405B", "1192000 at every batch size"),
        ruleset="5.0.0",
    ),
    of_405b(
        "decay-before-warmup",
        "The decay is logged before the warm-up.",
        move_after("opt_learning_rate_warmup_steps", "opt_learning_rate_decay_steps"),
        OFFICIAL,
        official("closed_llama31_405b.yaml", "reads s['opt_learning_rate_warmup_steps'], which comes later"),
    ),
    of_405b(
        "decay-before-warmup-5.0",
        "The decay is logged before the warm-up, in the round without a check of it.",
        move_after("opt_learning_rate_warmup_steps", "opt_learning_rate_decay_steps"),
        PASS,
        official("training_5.0.0/closed_llama31_405b.yaml", "no CHECK"),
        ruleset="5.0.0",
    ),
    of_8b(
        "decay-before-warmup",
        "The decay is logged before the warm-up.",
        move_after("opt_learning_rate_warmup_steps", "opt_learning_rate_decay_steps"),
        OFFICIAL,
        official("closed_llama31_8b.yaml", "reads s['opt_learning_rate_warmup_steps'], which comes later"),
    ),
    of_405b(
        "rate-before-batch",
        "The learning rate is logged before the global batch size.",
        move_after("global_batch_size", "opt_gradient_clip_norm"),
        OFFICIAL,
        official("closed_llama31_405b.yaml", "reads s['global_batch_size'], which comes later"),
    ),
    of_8b(
        "rate-before-batch",
        "The learning rate is logged before the global batch size.",
        move_after("global_batch_size", "opt_gradient_clip_norm"),
        PASS,
        NOT_CHECKED,
    ),
    of_8b(
        "no-warmup",
        "No warm-up, and so a decay of 1200000 steps.",
        all_of(put("opt_learning_rate_warmup_steps", 0), put("opt_learning_rate_decay_steps", 1200000)),
        PASS,
        rules(TABLE, "llama31_8b opt_learning_rate_warmup_steps: unconstrained"),
    ),
    of_8b(
        "decay-not-less-warmup",
        "The decay is 1200000 steps, with warm-up.",
        put("opt_learning_rate_decay_steps", 1200000),
        REJECT,
        DECAY_8B,
    ),
    of_8b(
        "schedule-short",
        "max_steps is 3000.",
        put("max_steps", 3000),
        REJECT,
        rules(TABLE, "llama31_8b max_steps: 1200000"),
    ),
    of_8b(
        "schedule-linear",
        "The decay schedule is linear.",
        put("opt_learning_rate_decay_schedule", "linear with warmup"),
        REJECT,
        rules(TABLE, "Learning rate cosine decay"),
    ),
    of_405b(
        "max-steps-500",
        "max_steps is 500, where the run would end.",
        put("max_steps", 500),
        PASS,
        published("NVIDIA v5.1 405B", "MAX_STEPS=500"),
    ),
    # The optimizer.
    of_8b("beta-1", "beta_1 is 0.8.", put("opt_adamw_beta_1", 0.8), REJECT, rules(TABLE, "opt_adamw_beta_1: 0.9")),
    of_405b(
        "beta-2", "beta_2 is 0.999.", put("opt_adamw_beta_2", 0.999), REJECT, rules(TABLE, "opt_adamw_beta_2: 0.95")
    ),
    of_405b(
        "epsilon", "epsilon is 1e-8.", put("opt_adamw_epsilon", 1e-8), REJECT, rules(TABLE, "opt_adamw_epsilon: 1e-5")
    ),
    of_8b(
        "weight-decay",
        "Weight decay is 0.",
        put("opt_adamw_weight_decay", 0.0),
        REJECT,
        rules(TABLE, "opt_adamw_weight_decay: 0.1"),
    ),
    of_8b(
        "clip-norm",
        "Gradients are clipped at 0.3.",
        put("opt_gradient_clip_norm", 0.3),
        REJECT,
        rules(TABLE, "opt_gradient_clip_norm: 1.0"),
    ),
    of_405b(
        "clip-norm-integer",
        "Gradients are clipped at 1, an integer.",
        put("opt_gradient_clip_norm", 1),
        PASS,
        rules(TABLE, "opt_gradient_clip_norm: 1.0"),
    ),
    of_405b(
        "optimizer-adam", "The optimizer is adam.", put("opt_name", "adam"), REJECT, rules(TABLE, "llama31_405b adamw")
    ),
    of_8b("beta-text", 'beta_2 is "0.95".', put("opt_adamw_beta_2", "0.95"), OFFICIAL, TYPE),
    *of_both("dropout", "A logged dropout is 0.1.", add("dropout", 0.1, after="opt_name"), REJECT, DROPOUT),
    *of_both("dropout-zero", "A logged dropout is 0.0.", add("dropout", 0.0, after="opt_name"), PASS, DROPOUT),
    of_8b(
        "attention-dropout",
        "A logged attention_dropout is 0.1.",
        add("attention_dropout", 0.1, after="opt_name"),
        REJECT,
        DROPOUT,
    ),
    of_405b(
        "hidden-dropout",
        "A logged hidden_dropout is 0.1.",
        add("hidden_dropout", 0.1, after="opt_name"),
        REJECT,
        DROPOUT,
    ),
    # Batches.
    *of_both(
        "accumulation-no-divisor",
        "gradient_accumulation_steps of 7 do not divide the global batch size.",
        put("gradient_accumulation_steps", 7),
        REJECT,
        ACCUMULATION,
    ),
    of_405b(
        "accumulation-above-batch",
        "More gradient_accumulation_steps than sequences in a global batch.",
        put("gradient_accumulation_steps", 2304),
        REJECT,
        ACCUMULATION,
    ),
    of_405b(
        "accumulation-zero",
        "gradient_accumulation_steps is 0.",
        put("gradient_accumulation_steps", 0),
        REJECT,
        official("closed_llama31_405b.yaml", "v > 0"),
    ),
    of_8b(
        "accumulation-half",
        "gradient_accumulation_steps is 2.5.",
        put("gradient_accumulation_steps", 2.5),
        REJECT,
        ACCUMULATION,
    ),
    of_405b(
        "accumulation-float",
        "gradient_accumulation_steps is 144.0.",
        put("gradient_accumulation_steps", 144.0),
        PASS,
        published("NVIDIA v5.1 405B", "48.0"),
    ),
    of_8b(
        "micro-batch-no-divisor",
        "A micro-batch of 3 sequences does not divide the global batch size.",
        put("micro_batch_size", 3),
        REJECT,
        ACCUMULATION,
    ),
    of_405b(
        "batch-negative",
        "The global batch size is negative.",
        put("global_batch_size", -1152),
        REJECT,
        rules(TABLE, "global_batch_size: batch size in sequences"),
    ),
    of_8b(
        "batch-text",
        'The global batch size is "128".',
        put("global_batch_size", "128"),
        REJECT,
        rules(TABLE, "global_batch_size: batch size in sequences"),
    ),
    # Model and data.
    *of_both(
        "sequence-length",
        "Sequences of 4096 tokens.",
        put("max_sequence_length", 4096),
        REJECT,
        rules(TABLE, "sequence_length: 8192"),
    ),
    of_405b(
        "checkpoint-step",
        "init_checkpoint_step is 1000.",
        put("init_checkpoint_step", 1000),
        REJECT,
        rules(TABLE, "opt_init_checkpoint_step: 0"),
    ),
    of_405b("fewer-eval-samples", "A tenth of the evaluation sequences.", put("eval_samples", 576), REJECT, THOROUGHLY),
    of_8b("fewer-eval-samples", "Half of the evaluation sequences.", put("eval_samples", 512), REJECT, THOROUGHLY),
    of_405b(
        "more-eval-samples",
        "Twice the evaluation sequences.",
        put("eval_samples", 11520),
        OFFICIAL,
        f"{THOROUGHLY}; {official('closed_llama31_405b.yaml', 'v == 5760')}",
    ),
    of_8b(
        "more-eval-samples",
        "Twice the evaluation sequences.",
        put("eval_samples", 2048),
        OFFICIAL,
        f"{THOROUGHLY}; {official('closed_llama31_8b.yaml', 'v == 1024')}",
    ),
    of_405b(
        "target-lower",
        "target_accuracy is 5.0, though the run stops at 5.6.",
        put("target_accuracy", 5.0),
        DEBATABLE,
        NOT_CHECKED,
    ),
)
