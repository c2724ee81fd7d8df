"""Mutations of what is written into a log: which events, how often, in what form."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

from benchmark.mllog import TOKEN
from tests.compliance.mutations.edits import add, again, all_of, event_like, move_after, put, shift, without
from tests.compliance.mutations.mutation import Label, of_8b, of_405b, of_both
from tests.compliance.mutations.sources import (
    CACHE,
    EXACTLY_ONE,
    FORMATS,
    NOT_CHECKED,
    SEEDS,
    TWICE,
    UNKNOWN,
    official,
    published,
    rules,
)
from tests.logs import LogFile

PASS, REJECT, OFFICIAL, DEBATABLE = Label.PASS, Label.REJECT, Label.OFFICIAL, Label.DEBATABLE

PARSER = official("mlp_parser.parse_generator", "a line that is no JSON is a parsing error, and so a refusal")
SEED_CHECKER = official("seed_checker._assert_unique_seed_per_run", "int(value) of each seed, at its file and line")
ALL_INTEGERS = rules(SEEDS, "All seeds must be valid integer (convertible via int()).")
SEVERAL_SEEDS = rules(SEEDS, "If any run logs more than one seed, a warning is raised by the package checker.")
APPROVED = rules(
    FORMATS, "pre-approved: fp64 ... nvfp4, mxfp4, bfloat16 ...; Additional formats require explicit approval"
)


def _eight_ranks(log: LogFile, *, first: str = "") -> None:
    """Each of eight ranks clears its cache and then begins; the ranks interleave.

    Args:
        first: what rank 3 does a second before all others, if anything.
    """
    start = log.indices("cache_clear")[0]
    pair = log.events[start : start + 2]
    assert [event["key"] for event in pair] == ["cache_clear", "init_start"]
    ranks = []
    for rank in range(8):
        for event, late in zip(pair, (0, 35), strict=True):
            ranks.append(event | {"time_ms": event["time_ms"] + 40 * rank + late})
    ranks.sort(key=lambda event: event["time_ms"])
    if first:
        early = next(event for event in ranks if event["key"] == first)
        ranks.insert(0, deepcopy(early) | {"time_ms": early["time_ms"] - 1000})
    log.events[start : start + 2] = ranks


def _not_cleared_by_one_rank(log: LogFile) -> None:
    _eight_ranks(log)
    log.set("cache_clear", False, 5)


def _truncated_line(text: str) -> str:
    lines = text.splitlines(keepends=True)
    return "".join([*lines[:40], lines[40][:60] + "\n", *lines[40:]])


def _noise(text: str) -> str:
    return text.replace("\n", "\niteration 17 | loss 6.25 \x1b[32mok\x1b[0m {not: json}\n")


def _rank_prefix(text: str) -> str:
    return "".join(f" 0: {line}" for line in text.splitlines(keepends=True))


def _carriage_returns(text: str) -> str:
    return text.replace("\n", "\r\n")


def _joined_with_next(key: str) -> Callable[[str], str]:
    def rewrite(text: str) -> str:
        lines = text.splitlines(keepends=True)
        nth = next(number for number, line in enumerate(lines) if f'"{key}"' in line)
        return "".join([*lines[:nth], lines[nth].rstrip("\n"), *lines[nth + 1 :]])

    return rewrite


def _nothing(log: LogFile) -> None:
    pass


def _no_metadata(log: LogFile) -> None:
    del log.get("opt_name")["metadata"]


def _seed_without_place(log: LogFile) -> None:
    log.get("seed")["metadata"] = {}


def _other_line(log: LogFile) -> None:
    again("seed")(log)
    log.get("seed", 1)["metadata"]["lineno"] += 1


def _late_stats(log: LogFile) -> None:
    log.events.append(event_like(log.events[-1], "tracked_stats", {"throughput": 30.5}))


def _passes_after_the_stop(log: LogFile) -> None:
    stop = log.indices("run_stop")[0]
    evaluation = log.events[stop - 3 : stop]
    assert [event["key"] for event in evaluation] == ["eval_start", "eval_accuracy", "eval_stop"]
    log.events[stop - 3 : stop + 1] = [log.events[stop] | {"time_ms": evaluation[0]["time_ms"]}, *evaluation]


def _evaluates_once_more(log: LogFile) -> None:
    stop = log.indices("run_stop")[0]
    log.events += [deepcopy(event) | {"time_ms": event["time_ms"] + 3000} for event in log.events[stop - 3 : stop]]


LOG_EVENTS = (
    # Missing.
    *of_both("no-run-stop", "No run_stop.", without("run_stop"), REJECT, EXACTLY_ONE),
    of_405b("no-platform", "No submission_platform.", without("submission_platform"), REJECT, EXACTLY_ONE),
    of_405b(
        "no-init-checkpoint-step", "No init_checkpoint_step.", without("init_checkpoint_step"), REJECT, EXACTLY_ONE
    ),
    of_405b("no-max-steps", "No max_steps, which no rule of 405B asks for.", without("max_steps"), PASS, NOT_CHECKED),
    of_8b("no-max-steps", "No max_steps.", without("max_steps"), REJECT, EXACTLY_ONE),
    of_8b("no-train-samples", "No train_samples.", without("train_samples"), REJECT, EXACTLY_ONE),
    of_405b(
        "no-org-5.0",
        "No submission_org in the round that did not ask for it.",
        without("submission_org"),
        PASS,
        official("training_5.0.0/common.yaml", "has no submission_org"),
        ruleset="5.0.0",
    ),
    of_405b("no-org-5.1", "No submission_org.", without("submission_org"), REJECT, EXACTLY_ONE, ruleset="5.1.0"),
    of_8b(
        "org-empty", "submission_org is empty.", put("submission_org", ""), REJECT, official("common.yaml", "v != ''")
    ),
    of_405b(
        "platform-empty",
        "submission_platform is empty.",
        put("submission_platform", ""),
        REJECT,
        official("common.yaml", "v != ''"),
    ),
    *of_both("status-empty", "submission_status is empty.", put("submission_status", ""), PASS, NOT_CHECKED),
    of_8b("no-status", "No submission_status.", without("submission_status"), PASS, NOT_CHECKED, ruleset="6.0.0"),
    # Of another round or benchmark.
    of_405b(
        "not-in-round",
        "A log of 6.0.0 judged by 6.1.0, which has no llama31_405b.",
        _nothing,
        REJECT,
        official("training_6.1.0/closed_common.yaml", "submission_benchmark is none of the round's"),
        ruleset="6.1.0",
        made_for="6.0.0",
    ),
    of_8b(
        "not-in-round",
        "A log of 5.1.0 judged by 5.0.0, which has no llama31_8b.",
        _nothing,
        REJECT,
        official("training_5.0.0/closed_common.yaml", "submission_benchmark is none of the round's"),
        ruleset="5.0.0",
        made_for="5.1.0",
    ),
    of_405b(
        "benchmark-misspelt",
        "submission_benchmark is llama31_405B.",
        put("submission_benchmark", "llama31_405B"),
        REJECT,
        official("closed_common.yaml", "submission_benchmark is none of the round's"),
    ),
    of_8b(
        "division-capital",
        "submission_division is Closed.",
        put("submission_division", "Closed"),
        REJECT,
        official("common.yaml", "v in ['closed', 'open']"),
    ),
    # More than once.
    *of_both("twice-same", "opt_name twice, the same.", again("opt_name"), PASS, TWICE),
    of_8b(
        "twice-same-int-float",
        "max_steps twice: 1200000 and 1200000.0.",
        again("max_steps", value=1200000.0),
        PASS,
        TWICE,
    ),
    of_405b(
        "twice-different",
        "opt_learning_rate_warmup_steps twice, with different values.",
        again("opt_learning_rate_warmup_steps", value=9000),
        REJECT,
        EXACTLY_ONE,
    ),
    of_8b(
        "twice-different",
        "opt_base_learning_rate twice, with different values.",
        again("opt_base_learning_rate", value=0.001),
        REJECT,
        EXACTLY_ONE,
    ),
    of_405b(
        "two-divisions",
        "submission_division twice: closed and open.",
        again("submission_division", value="open"),
        REJECT,
        EXACTLY_ONE,
    ),
    # Keys of nobody.
    *of_both(
        "unknown-after-run-stop",
        "Keys that no rule knows come after run_stop.",
        all_of(
            add("run_duration", "5176.42s -> 86.27 minutes", after="run_stop", samples=36864),
            add("overall_throughput", 35.61, after="run_stop"),
        ),
        PASS,
        published("AMD v6.0 8B", "run_duration and overall_throughput after run_stop"),
    ),
    of_405b("stats-after-run-stop", "tracked_stats of the throughput as the last line.", _late_stats, PASS, UNKNOWN),
    *of_both(
        "unknown-within",
        "Keys that no rule knows, in the initialisation and in the run.",
        all_of(add("nccl_version", "2.28.3", after="init_start"), add("gpu_clock", 1980, after="block_start")),
        PASS,
        UNKNOWN,
    ),
    *of_both(
        "passes-after-run-stop",
        "run_stop comes before the evaluation that passes.",
        _passes_after_the_stop,
        REJECT,
        rules("Quality measure", "the time to evaluate the quality is included in the wallclock time"),
    ),
    of_8b(
        "evaluates-after-run-stop",
        "An evaluation more after run_stop.",
        _evaluates_once_more,
        DEBATABLE,
        official("rcp_checker.read_submission_file", "the last eval_accuracy before run_stop counts"),
    ),
    # Form.
    *of_both(
        "truncated-line",
        "One event is cut off in the middle of a line.",
        _nothing,
        OFFICIAL,
        PARSER,
        rewrite=_truncated_line,
    ),
    of_405b(
        "noise",
        "Other output between the lines.",
        _nothing,
        PASS,
        official("mlp_parser", "only lines with the token count"),
        rewrite=_noise,
    ),
    of_405b(
        "rank-prefix",
        "Every line begins with the rank that srun adds.",
        _nothing,
        PASS,
        official("mlp_parser.strip_and_dedup", "what is before the token is cut off"),
        rewrite=_rank_prefix,
    ),
    of_8b(
        "carriage-returns",
        "Lines end as on Windows.",
        _nothing,
        PASS,
        official("mlp_parser.parse_generator", "lines are stripped"),
        rewrite=_carriage_returns,
    ),
    of_8b(
        "empty",
        "The log is empty.",
        _nothing,
        REJECT,
        official("mlp_compliance.check_loglines", "No log lines detected"),
        rewrite=lambda text: "",
    ),
    of_8b(
        "only-noise",
        "The log has lines, but no event.",
        _nothing,
        REJECT,
        official("mlp_compliance.check_loglines", "No log lines detected"),
        rewrite=lambda text: text.replace(TOKEN, "MLLOG"),
    ),
    of_405b(
        "two-on-a-line",
        "opt_name and the next event are on one line.",
        _nothing,
        OFFICIAL,
        official("mlp_parser.strip_and_dedup", "of two events on a line the first is lost, here a required one"),
        rewrite=_joined_with_next("opt_name"),
    ),
    of_8b(
        "two-stats-on-a-line",
        "tracked_stats and the next event are on one line.",
        _nothing,
        DEBATABLE,
        official("mlp_parser.strip_and_dedup", "of two events on a line the first is lost"),
        rewrite=_joined_with_next("tracked_stats"),
    ),
    of_8b(
        "no-metadata",
        "One event has no metadata.",
        _no_metadata,
        OFFICIAL,
        official("mlp_parser.string_to_logline", "m['metadata'] raises KeyError"),
    ),
    # Seeds.
    *of_both("two-seeds", "Two different seeds in one run.", again("seed", value=777), PASS, SEVERAL_SEEDS),
    of_8b("seed-from-two-lines", "One seed, logged from two lines of the code.", _other_line, PASS, SEVERAL_SEEDS),
    of_405b(
        "seed-twice-from-one-line",
        "One seed, logged twice from the same line.",
        again("seed"),
        OFFICIAL,
        official("seed_checker._assert_unique_seed_per_run", "the run's own second seed counts as a repetition"),
    ),
    *of_both("seed-text", 'The seed is "7758".', put("seed", "7758"), PASS, ALL_INTEGERS),
    *of_both("seed-negative", "The seed is -7758.", put("seed", -7758), PASS, ALL_INTEGERS),
    of_8b("seed-spaces", 'The seed is " 77 ", which int() takes.', put("seed", " 77 "), PASS, ALL_INTEGERS),
    of_405b("seed-float", "The seed is 7758.0.", put("seed", 7758.0), PASS, ALL_INTEGERS),
    of_8b(
        "seed-hexadecimal", 'The seed is "0x1f", which int() does not take.', put("seed", "0x1f"), REJECT, ALL_INTEGERS
    ),
    of_405b("seed-word", 'The seed is "random".', put("seed", "random"), REJECT, ALL_INTEGERS),
    of_8b("seed-null", "The seed is null.", put("seed", None), REJECT, ALL_INTEGERS),
    of_405b("seed-list", "The seed is [405].", put("seed", [405]), REJECT, ALL_INTEGERS),
    *of_both(
        "no-seed", "No seed.", without("seed"), REJECT, rules(SEEDS, "We expect all runs to log at least one seed.")
    ),
    of_405b("seed-without-place", "The seed has no file and line.", _seed_without_place, OFFICIAL, SEED_CHECKER),
    # Formats of numbers.
    of_8b(
        "mxfp6",
        "A precision of mxfp6, which 6.1.0 lists.",
        put("lowest_numerical_precision_in_linear", "mxfp6"),
        PASS,
        official("training_6.1.0/common.yaml", "lists mxfp6"),
    ),
    of_8b(
        "mxfp6-6.0",
        "A precision of mxfp6, which 6.0.0 does not list.",
        put("lowest_numerical_precision_in_linear", "mxfp6"),
        REJECT,
        APPROVED,
        ruleset="6.0.0",
    ),
    of_405b(
        "mxfp6",
        "A precision of mxfp6, which 6.0.0 does not list.",
        put("lowest_numerical_precision_in_attn", "mxfp6"),
        REJECT,
        APPROVED,
    ),
    of_405b("nvfp4", "A precision of nvfp4.", put("lowest_numerical_precision_in_linear", "nvfp4"), PASS, APPROVED),
    of_8b(
        "bf16",
        "bfloat16 is called bf16.",
        put("lowest_numerical_precision_in_comm", "bf16"),
        OFFICIAL,
        official("training_6.1.0/common.yaml", "the listed name is bfloat16"),
    ),
    of_8b(
        "fp8-capital",
        "fp8 is called FP8.",
        put("lowest_numerical_precision_in_linear", "FP8"),
        OFFICIAL,
        official("training_6.1.0/common.yaml", "the listed name is fp8"),
    ),
    of_8b(
        "no-precision",
        "No lowest_numerical_precision_in_attn.",
        without("lowest_numerical_precision_in_attn"),
        REJECT,
        official("training_6.1.0/common.yaml", "EXACTLY_ONE"),
    ),
    of_8b(
        "no-precision-6.0",
        "No lowest_numerical_precision_in_attn, where it is optional.",
        without("lowest_numerical_precision_in_attn"),
        PASS,
        official("training_6.0.0/common.yaml", "OPTIONAL"),
        ruleset="6.0.0",
    ),
    of_8b(
        "no-config-name",
        "config_filename is empty.",
        put("config_filename", ""),
        REJECT,
        official("training_6.1.0/common.yaml", "v != ''"),
    ),
    of_8b(
        "half-micro-batch",
        "micro_batch_size is 1.5.",
        put("micro_batch_size", 1.5),
        REJECT,
        official("common.yaml", "is_integer(v)"),
    ),
    of_8b(
        "parallelism-zero",
        "tensor_parallelism is 0.",
        put("tensor_parallelism", 0),
        REJECT,
        official("training_6.1.0/common.yaml", "v >= 1"),
    ),
    of_8b(
        "parallelism-text",
        'pipeline_parallelism is "1".',
        put("pipeline_parallelism", "1"),
        OFFICIAL,
        official("mlp_compliance.is_integer", "round('1') raises TypeError"),
    ),
    # The cache.
    *of_both("cache-not-cleared", "cache_clear says false.", put("cache_clear", False), REJECT, CACHE),
    of_8b(
        "cache-not-cleared-by-a-rank",
        "cache_clear says false on one of eight ranks.",
        _not_cleared_by_one_rank,
        REJECT,
        CACHE,
    ),
    *of_both("no-cache-clear", "No cache_clear.", without("cache_clear"), REJECT, CACHE),
    *of_both(
        "cache-cleared-late",
        "cache_clear comes after run_start.",
        move_after("cache_clear", "run_start"),
        REJECT,
        CACHE,
    ),
    *of_both(
        "ranks-interleaved",
        "cache_clear and init_start of eight ranks interleave.",
        _eight_ranks,
        PASS,
        published("AMD v5.1 and v6.0 8B", "eight ranks interleave"),
    ),
    *of_both(
        "rank-before-cache-clear",
        "One rank begins to initialise a second before any cache is cleared.",
        lambda log: _eight_ranks(log, first="init_start"),
        REJECT,
        CACHE,
    ),
    of_8b(
        "rank-clears-first",
        "One rank clears its cache a second before all others.",
        lambda log: _eight_ranks(log, first="cache_clear"),
        PASS,
        CACHE,
    ),
    of_405b(
        "init-start-after-init-stop",
        "A second rank begins after init_stop.",
        all_of(add("init_start", None, after="init_stop"), shift("init_start", 1, 1)),
        REJECT,
        official("common.yaml", "init_start: not s['init_stopped']"),
    ),
)
