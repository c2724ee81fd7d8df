"""Mutations of evaluations: where, how often, with what result."""

from __future__ import annotations

from collections.abc import Callable

from tests.compliance.mutations.edits import (
    INTERVAL_EVENTS,
    Edit,
    batches,
    counts,
    evaluated_at,
    falling,
    put,
    rerun,
    target_of,
    without,
)
from tests.compliance.mutations.mutation import Label, of_8b, of_405b, of_both
from tests.compliance.mutations.sources import (
    EXACT_COUNTS,
    FREQUENCY,
    RCP,
    REPORTING,
    RESUBMISSION,
    RUN,
    TARGET,
    official,
    published,
    rules,
)
from tests.logs import LogFile

PASS, REJECT, OFFICIAL, DEBATABLE = Label.PASS, Label.REJECT, Label.OFFICIAL, Label.DEBATABLE

ONE_LOW = f"{REPORTING}; {published('AMD v5.1 8B', 'eval_accuracy one batch below eval_start')}"
CONTRADICTS = f"{EXACT_COUNTS}; eval_start and eval_stop say another number"
SKIPS = rules("Quality measure", "Skipping first FLOOR(0.0026*global_batch_size+12) evaluations")
POSITIVE = official("closed_*.yaml", "ATLEAST_ONE_CHECK: v <= target and v > 0.0")
BLOCKS = official("common.yaml", "block_start AT_LEAST_ONE_OR(epoch_start), eval_start AT_LEAST_ONE_OR(block_start)")


def every(interval: int, evaluations: int = 3) -> Edit:
    """The run is evaluated at multiples of an interval from its start."""
    return lambda log: rerun(log, falling(log, [interval * nth for nth in range(1, evaluations + 1)]))


def at(places: Callable[[int, int], list[int]]) -> Edit:
    """The run is evaluated at places that are computed from the first evaluation and the interval of the valid log."""

    def edit(log: LogFile) -> None:
        first, second, *_ = evaluated_at(log)
        rerun(log, falling(log, places(first, second - first)))

    return edit


def _of_lengths(log: LogFile) -> None:
    """Blocks say how long they are, not where they begin and end."""
    begin = 0
    for start, stop in zip(log.indices("block_start"), log.indices("block_stop"), strict=True):
        end = log.events[stop]["metadata"]["samples_count"]
        log.events[start]["metadata"]["samples_count"] = log.events[stop]["metadata"]["samples_count"] = end - begin
        begin = end


def _as_epochs(log: LogFile) -> None:
    for event in log.events:
        event["key"] = event["key"].replace("block_", "epoch_")


def _as_of_tyche(log: LogFile) -> None:
    without("eval_start")(log)
    for _ in log.indices("block_stop")[1:]:
        log.drop("block_stop")


def _passes_twice(log: LogFile) -> None:
    log.set("eval_accuracy", target_of(log) - 0.01, 1)


def _by_epochs(log: LogFile) -> None:
    for index in log.indices("eval_accuracy"):
        metadata = log.events[index]["metadata"]
        metadata["epoch_num"] = metadata.pop("samples_count")


def _doubled_evaluation(log: LogFile) -> None:
    """Two evaluations at one place; the first does not reach the target, the second does."""
    start = log.indices("eval_start")[-1]
    evaluation = log.events[start : start + 3]
    repeated = [event | {"time_ms": event["time_ms"] - 3000} for event in evaluation]
    repeated[1]["value"] = target_of(log) + 0.01
    log.events[start:start] = repeated


EVALUATIONS = (
    # What eval_accuracy counts.
    *of_both(
        "accuracy-one-low",
        "eval_accuracy counts one batch less than eval_start and eval_stop.",
        counts(batches(-1), "eval_accuracy"),
        PASS,
        ONE_LOW,
    ),
    of_8b(
        "accuracy-one-low-5.1",
        "eval_accuracy counts one batch less than eval_start and eval_stop.",
        counts(batches(-1), "eval_accuracy"),
        PASS,
        ONE_LOW,
        ruleset="5.1.0",
    ),
    *of_both(
        "accuracy-two-low",
        "eval_accuracy counts two batches less.",
        counts(batches(-2), "eval_accuracy"),
        REJECT,
        CONTRADICTS,
    ),
    *of_both(
        "accuracy-one-high",
        "eval_accuracy counts one batch more, which looks like slower convergence.",
        counts(batches(1), "eval_accuracy"),
        REJECT,
        f"{CONTRADICTS}; {RCP}",
    ),
    of_8b(
        "accuracy-interval-high",
        "eval_accuracy counts an interval more.",
        counts(lambda log, count: count + 12288, "eval_accuracy"),
        REJECT,
        f"{CONTRADICTS}; {RCP}",
    ),
    of_405b(
        "accuracy-last-high",
        "The last eval_accuracy alone counts an interval more.",
        counts(lambda log, count: count + 18432, "eval_accuracy", nth=-1),
        REJECT,
        f"{CONTRADICTS}; {RCP}",
    ),
    of_8b(
        "accuracy-last-one-low",
        "The last eval_accuracy alone counts one batch less.",
        counts(batches(-1), "eval_accuracy", nth=-1),
        DEBATABLE,
        REPORTING,
    ),
    of_8b(
        "accuracy-by-epochs",
        "eval_accuracy has epoch_num, and no samples_count.",
        _by_epochs,
        REJECT,
        official("closed_llama31_8b.yaml", "'samples_count' in v['metadata']"),
    ),
    of_405b(
        "accuracy-counts-float",
        "samples_count of eval_accuracy is a float.",
        counts(lambda log, count: float(count), "eval_accuracy"),
        PASS,
        published("Verda v5.1 8B", "floats in tracked_stats"),
    ),
    of_8b(
        "accuracy-counts-text",
        "samples_count of eval_accuracy is a text.",
        counts(lambda log, count: str(count), "eval_accuracy"),
        REJECT,
        REPORTING,
    ),
    of_405b(
        "counts-between-batches",
        "All events of the last evaluation count one sequence more than whole batches.",
        counts(lambda log, count: count + 1, "block_stop", "eval_start", "eval_accuracy", "eval_stop", nth=-1),
        REJECT,
        FREQUENCY,
    ),
    of_8b(
        "stop-contradicts-start",
        "eval_stop counts a batch more than eval_start.",
        counts(batches(1), "eval_stop", nth=1),
        REJECT,
        EXACT_COUNTS,
    ),
    # Blocks.
    *of_both(
        "blocks-of-lengths",
        "Blocks say how long they are, not where.",
        _of_lengths,
        PASS,
        published("NVIDIA, HPE and Verda v5.1", "block_start with the length of the block"),
    ),
    *of_both(
        "block-contradicts",
        "The second block_stop says another number than the evaluation after it.",
        counts(batches(3), "block_stop", nth=1),
        REJECT,
        EXACT_COUNTS,
    ),
    of_8b(
        "block-start-contradicts",
        "The last block_start says a place before the one where the block before it ended.",
        counts(batches(-5), "block_start", nth=-1),
        REJECT,
        EXACT_COUNTS,
    ),
    of_405b(
        "block-negative",
        "A block starts at -1152.",
        counts(lambda log, count: -1152, "block_start", nth=1),
        REJECT,
        official("common.yaml", "block_start: samples_count >= 0"),
    ),
    *of_both("epochs", "Epochs instead of blocks.", _as_epochs, PASS, BLOCKS),
    of_405b(
        "blocks-of-tyche",
        "No eval_start, and one block_stop for all blocks.",
        _as_of_tyche,
        PASS,
        published("NVIDIA v5.0 405B (tyche)", "no eval_start, one block_stop"),
        ruleset="5.0.0",
    ),
    of_8b("no-eval-start", "No eval_start.", without("eval_start"), PASS, BLOCKS),
    of_8b(
        "no-blocks",
        "Neither blocks nor epochs.",
        without("block_start", "block_stop"),
        REJECT,
        BLOCKS,
    ),
    of_405b(
        "no-intervals",
        "No blocks, epochs, eval_start and eval_stop.",
        without(*(key for key in INTERVAL_EVENTS if key != "eval_accuracy")),
        REJECT,
        BLOCKS,
    ),
    # How often.
    of_8b("every-6144", "Evaluations every 6144 sequences.", every(6144), PASS, published("v5.1 8B", "6144")),
    of_8b("every-8192", "Evaluations every 8192 sequences.", every(8192), PASS, published("HPE v5.1 8B", "8192")),
    of_8b("every-21888", "Evaluations every 21888 sequences.", every(21888), PASS, published("v5.1 8B", "21888")),
    of_8b("every-24576", "Evaluations every 24576 sequences.", every(24576), PASS, published("v5.1 8B", "24576")),
    of_8b(
        "every-49152",
        "Evaluations every 49152 sequences.",
        every(49152),
        PASS,
        published("v5.1 8B", "49152"),
        ruleset="6.0.0",
    ),
    of_8b(
        "every-1024",
        "Evaluations every 1024 sequences, twelve times as often.",
        every(1024),
        DEBATABLE,
        FREQUENCY,
    ),
    of_8b(
        "every-196608",
        "One evaluation in sixteen, every 196608 sequences.",
        every(196608, 2),
        DEBATABLE,
        FREQUENCY,
    ),
    *of_both(
        "evaluation-left-out",
        "The second evaluation is left out.",
        at(lambda first, every: [first, first + 2 * every, first + 3 * every]),
        REJECT,
        FREQUENCY,
    ),
    *of_both(
        "evaluation-more",
        "An evaluation more, in the middle of the last interval.",
        at(lambda first, every: [first, first + every, first + every + every // 2 // 1152 * 1152, first + 2 * every]),
        REJECT,
        FREQUENCY,
    ),
    *of_both(
        "last-evaluation-early",
        "The last evaluation, which passes, comes a third of an interval early.",
        at(lambda first, every: [first, first + every, first + every + every * 2 // 3 // 1152 * 1152]),
        REJECT,
        FREQUENCY,
    ),
    of_8b(
        "irregular",
        "Intervals of 6144, 12288 and 24576 sequences.",
        at(lambda first, every: [first // 2, first // 2 + every, first // 2 + 3 * every]),
        REJECT,
        FREQUENCY,
    ),
    of_405b(
        "every-9216",
        "Evaluations twice as often.",
        at(lambda first, every: [first + nth * every // 2 for nth in range(4)]),
        REJECT,
        FREQUENCY,
    ),
    of_405b(
        "every-36864",
        "Evaluations half as often.",
        at(lambda first, every: [first + 2 * nth * every for nth in range(3)]),
        REJECT,
        FREQUENCY,
    ),
    of_405b(
        "first-evaluation-of-reference",
        "The first evaluation is an interval early, as in the reference code.",
        at(lambda first, every: [first - every, first, first + every]),
        DEBATABLE,
        SKIPS,
    ),
    of_405b(
        "none-skipped",
        "No evaluation is skipped.",
        at(lambda first, every: [*range(every, first + every, every)]),
        REJECT,
        SKIPS,
    ),
    of_405b(
        "more-skipped",
        "Two evaluations more are skipped.",
        at(lambda first, every: [first + 2 * every, first + 3 * every]),
        REJECT,
        SKIPS,
    ),
    of_8b(
        "first-skipped",
        "The first two evaluations are skipped.",
        at(lambda first, every: [3 * every, 4 * every, 5 * every]),
        REJECT,
        rules("Quality measure", "Llama31_8b: Every 12288 sequences"),
    ),
    of_405b(
        "old-cadence",
        "A log of 5.0.0 judged by 5.1.0, with evaluations every 46080 sequences from the start.",
        lambda log: None,
        DEBATABLE,
        RESUBMISSION,
        ruleset="5.1.0",
        made_for="5.0.0",
    ),
    # With what result.
    *of_both(
        "target-missed",
        "The last evaluation is a little above the target.",
        lambda log: log.set("eval_accuracy", target_of(log) + 1e-6, -1),
        REJECT,
        TARGET,
    ),
    *of_both(
        "passes-twice", "An evaluation passes, and training goes on for another interval.", _passes_twice, REJECT, RUN
    ),
    of_405b("result-zero", "The last evaluation says 0.0.", put("eval_accuracy", 0.0, -1), REJECT, POSITIVE),
    of_8b("result-negative", "The last evaluation says -3.", put("eval_accuracy", -3.0, -1), REJECT, POSITIVE),
    of_8b(
        "result-text",
        'The last evaluation says "3.29".',
        put("eval_accuracy", "3.29", -1),
        OFFICIAL,
        official("mlp_compliance.configured_checks", "a comparison outside of try raises TypeError"),
    ),
    of_405b(
        "result-null",
        "The first evaluation says null.",
        put("eval_accuracy", None),
        REJECT,
        official("mlp_compliance.configured_checks", "a comparison outside of try raises TypeError"),
    ),
    *of_both(
        "no-result",
        "The second evaluation has no eval_accuracy.",
        lambda log: log.drop("eval_accuracy", 1),
        REJECT,
        f"{FREQUENCY}; an evaluation without a result is none",
    ),
    of_8b(
        "no-passing-result",
        "The last evaluation has no eval_accuracy.",
        lambda log: log.drop("eval_accuracy", -1),
        REJECT,
        POSITIVE,
    ),
    of_8b(
        "evaluated-until-it-passes",
        "The last weights are evaluated twice; the second time they pass.",
        _doubled_evaluation,
        REJECT,
        FREQUENCY,
    ),
)
