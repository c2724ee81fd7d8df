"""Mutations of logs in the open division."""

from __future__ import annotations

from tests.compliance.mutations.clock import MINUTE, init_of
from tests.compliance.mutations.edits import Edit, all_of, put, target_of, without
from tests.compliance.mutations.evaluations import every
from tests.compliance.mutations.mutation import Label, of_8b, of_405b
from tests.compliance.mutations.sources import FORMATS, INIT_LIMIT, OPEN_STOP, OPEN_TABLE, SEEDS, official, rules

PASS, REJECT, OFFICIAL = Label.PASS, Label.REJECT, Label.OFFICIAL


def opened(*edits: Edit) -> Edit:
    return all_of(put("submission_division", "open"), *edits)


OPEN_DIVISION = (
    of_405b(
        "open",
        "The same log in the open division.",
        opened(),
        PASS,
        official("open_llama31_405b.yaml", "asks for less"),
    ),
    of_405b(
        "open-rate",
        "Open: other rates, warm-up and weight decay.",
        opened(
            put("opt_base_learning_rate", 1e-4),
            put("opt_end_learning_rate", 0.0),
            put("opt_learning_rate_warmup_steps", 10),
            put("opt_adamw_weight_decay", 0.0),
        ),
        PASS,
        OPEN_TABLE,
    ),
    of_405b(
        "open-no-seed",
        "Open: no seed.",
        opened(without("seed")),
        PASS,
        rules(SEEDS, "OPEN: ... The seed is not expected to be logged."),
    ),
    of_405b(
        "open-cadence",
        "Open: evaluations every 11520 sequences from the start.",
        opened(every(11520)),
        PASS,
        rules("Quality measure", "CLOSED: ... must be evaluated at the same frequency"),
    ),
    of_405b(
        "open-init-3-hours", "Open: three hours of initialisation.", opened(init_of(180 * MINUTE)), PASS, INIT_LIMIT
    ),
    of_405b(
        "open-init-5-hours", "Open: five hours of initialisation.", opened(init_of(300 * MINUTE)), REJECT, INIT_LIMIT
    ),
    of_405b(
        "open-optimizer",
        "Open: the optimizer is lamb.",
        opened(put("opt_name", "lamb")),
        OFFICIAL,
        f"{OPEN_TABLE} {official('open_llama31_405b.yaml', 'v == adamw')}",
    ),
    of_405b(
        "open-short-sequences",
        "Open: sequences of 4096 tokens.",
        opened(put("max_sequence_length", 4096)),
        OFFICIAL,
        f"{OPEN_TABLE} {official('open_llama31_405b.yaml', 'v == 8192')}",
    ),
    of_405b(
        "open-target-missed",
        "Open: the run ends at 5.7.",
        opened(lambda log: log.set("eval_accuracy", target_of(log) + 0.1, -1)),
        OFFICIAL,
        f"{OPEN_STOP}; {official('open_llama31_405b.yaml', 'v <= 5.6')}",
    ),
    of_405b(
        "open-precision",
        "Open: a precision of fp6.",
        opened(put("lowest_numerical_precision_in_linear", "fp6")),
        OFFICIAL,
        f"{rules(FORMATS, 'OPEN: Any format and scaling may be used.')}; {official('common.yaml', 'lists formats')}",
    ),
    of_405b(
        "open-5.1",
        "Open in 5.1.0: eval_accuracy has samples_count and no epoch_num.",
        opened(),
        OFFICIAL,
        official("training_5.1.0/open_llama31_405b.yaml", "'epoch_num' in v['metadata']"),
        ruleset="5.1.0",
    ),
    of_8b(
        "open",
        "The same log in the open division.",
        opened(),
        OFFICIAL,
        f"{OPEN_STOP}; {official('open_llama31_8b.yaml', 'v < 1.0')}",
    ),
    of_8b(
        "open-rate",
        "Open in 6.0.0: another rate and optimizer, stopped at 3.3.",
        opened(put("opt_end_learning_rate", 0.0), put("opt_name", "muon")),
        OFFICIAL,
        f"{OPEN_STOP}; {official('open_llama31_8b.yaml', 'v < 1.0')}",
        ruleset="6.0.0",
    ),
    of_8b(
        "open-seven-hours", "Open: seven hours of initialisation.", opened(init_of(420 * MINUTE)), REJECT, INIT_LIMIT
    ),
)
