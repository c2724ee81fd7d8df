"""Rules about what a run announces before it starts: values that are fixed, and those that the batch size decides."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from fractions import Fraction

from benchmark.benchmarks import benchmark_named, every_rules
from benchmark.rules import FreeLearningRate, Rules, ScaledLearningRate
from compliance.checks.clock import DIVISIONS_WITH_LIMIT
from compliance.checks.events import PARALLELISM, PRECISION
from compliance.checks.rule import Breach, in_force
from compliance.checks.sources import (
    CONVERGENCE_POINTS,
    DIVISIONS,
    HARNESS,
    HYPERPARAMETERS,
    LOGGING,
    NUMERICAL_FORMATS,
    QUALITY,
    RANDOM_NUMBERS,
)
from compliance.findings import Severity, as_count, as_number, show
from compliance.run import Run, rule

_NUMBER_FORMATS = (
    *("fp64", "fp32", "tf32", "fp16", "fp8", "nvfp4", "mxfp4", "bfloat16", "Graphcore FLOAT 16.16"),
    *("int8", "uint8", "int4", "uint4"),
)


def number_formats(row: Rules) -> tuple[str, ...]:
    """Return the names of the numerical formats that a ruleset knows. Source: its common.yaml (compared in a test)."""
    return (*_NUMBER_FORMATS, "mxfp6") if in_force(row, since="6.1.0") else _NUMBER_FORMATS


FIXED: dict[str, tuple[Callable[[Rules], object], str]] = {
    "max_sequence_length": (lambda rules: rules.sequence_length, HYPERPARAMETERS),
    "init_checkpoint_step": (lambda rules: rules.init_checkpoint_step, HYPERPARAMETERS),
    "max_steps": (lambda rules: rules.fixed_max_steps, HYPERPARAMETERS),
    "eval_samples": (lambda rules: rules.eval_sequences, QUALITY),
    "target_accuracy": (lambda rules: rules.target_log_perplexity, QUALITY),
    "opt_name": (lambda rules: "adamw", HYPERPARAMETERS),
}
"""What the rules fix in both divisions: key -> (its value under a row, None where it is free; source)."""

FIXED_IN_CLOSED: dict[str, Callable[[Rules], object]] = {
    "opt_learning_rate_decay_schedule": lambda rules: "cosine with linear warmup",
    "opt_adamw_beta_1": lambda rules: rules.optimizer.beta_1,
    "opt_adamw_beta_2": lambda rules: rules.optimizer.beta_2,
    "opt_adamw_epsilon": lambda rules: rules.optimizer.epsilon,
    "opt_adamw_weight_decay": lambda rules: rules.optimizer.weight_decay,
    "opt_gradient_clip_norm": lambda rules: rules.optimizer.gradient_clip_norm,
}
"""What the rules fix in the closed division only: key -> its value under a row."""

WHOLE = ("gradient_accumulation_steps", "opt_learning_rate_warmup_steps", "opt_learning_rate_decay_steps")
"""Keys that count steps."""
POSITIVE = ("global_batch_size", "gradient_accumulation_steps", *PARALLELISM)
"""Keys of whole numbers from 1."""


# Benchmark, submission and seeds.


@rule(
    "run.benchmark",
    source=LOGGING,
    example="`submission_benchmark` llama31_405b judged by 6.1.0, which no longer has it",
)
def benchmark(run: Run) -> Iterator[Breach]:
    """The ruleset has the benchmark; without its rules nothing else can be judged."""
    name = run.value("submission_benchmark")
    if run.row is None:
        known = ", ".join(f"{row.benchmark} {row.ruleset}" for row in every_rules())
        yield Breach(
            message=f"{show(name)} is not in {_chosen(run)}, so the run is not judged",
            line=run.first("submission_benchmark").line,
            expected=f"one of {known}",
        )


def _chosen(run: Run) -> str:
    chosen = run.chosen
    return "any ruleset" if chosen.ruleset is None else f"ruleset {show(chosen.ruleset)} ({chosen.origin})"


@rule("run.provenance", source=HARNESS, severity=Severity.WARNING, example="a run.json that is cut off")
def provenance(run: Run) -> Iterator[Breach]:
    """The run.json in the folder of a log can be read, because it names the ruleset to judge by."""
    if run.chosen.fault:
        yield Breach(
            message="run.json in the folder of the log cannot be read, so it names no ruleset",
            actual=run.chosen.fault,
        )


@rule(
    "run.division",
    source=DIVISIONS,
    example='`submission_division` "Closed", which makes the official tools skip their seed and RCP checks',
)
def division(run: Run) -> Iterator[Breach]:
    """The division is closed or open, in lower case."""
    if run.value("submission_division") not in DIVISIONS_WITH_LIMIT:
        yield _wrong(run, "submission_division", " or ".join(DIVISIONS_WITH_LIMIT))


@rule(
    "run.official_open",
    source=LOGGING,
    example="`submission_division` open in a log of llama31_8b",
)
def official_open(run: Run) -> Iterator[Breach]:
    """The official checker can accept a log of the benchmark in the open division."""
    fault = run.rules.official_open_fault
    if run.is_open and fault and benchmark_named(run.rules.benchmark).submittable:
        yield Breach(
            message=f"the log would be refused officially: in the open division compliance_checker asks for {fault}",
            line=run.first("submission_division").line,
            expected="closed, until the official rules of the open division fit the benchmark",
            actual="open",
        )


@rule("run.submission", source=LOGGING, example="an empty `submission_org`; an empty `submission_status` (a WARNING)")
def submission(run: Run) -> Iterator[Breach]:
    """The submission names its organisation, platform and status.

    An empty status is a WARNING: AMD's v6.0 logs of 8B have one, no official tool reads it, and the description of the
    system states it.
    """
    for key in filter(run.has, ("submission_org", "submission_platform", "submission_status")):
        value = run.value(key)
        if not isinstance(value, str) or not value.strip():
            unread = key == "submission_status" and value == ""
            yield _wrong(run, key, "a name", severity=Severity.WARNING if unread else None)


@rule("run.config_filename", source=LOGGING, since="6.1.0", example="an empty `config_filename`")
def config_filename(run: Run) -> Iterator[Breach]:
    """The log names the config file of its run."""
    value = run.value("config_filename")
    if not isinstance(value, str) or not value.strip():
        yield _wrong(run, "config_filename", "a file name")


@rule(
    "run.seed",
    source=RANDOM_NUMBERS,
    example='`seed` "twenty"; one without the `file` and `lineno` that mllog writes; "20" as text (an INFO)',
)
def seed(run: Run) -> Iterator[Breach]:
    """Every seed is a whole number and states the file and line of the code that logged it."""
    for event in run.all("seed"):
        value = event.event.value
        if as_seed(value) is None:
            yield Breach(
                message="seed is not a whole number", line=event.line, expected="a whole number", actual=show(value)
            )
        elif not {"file", "lineno"} <= event.event.metadata.keys():
            yield Breach(
                message="seed does not state the code that logged it; the result would be refused officially",
                line=event.line,
                expected="metadata with file and lineno, as mllog writes them",
                actual=", ".join(sorted(event.event.metadata)) or "no metadata",
            )
        elif not isinstance(value, int):
            yield Breach(
                message="seed is logged as another type than an integer",
                line=event.line,
                expected=f"{as_seed(value)}",
                actual=show(value),
                severity=Severity.INFO,
            )


@rule("run.seed_again", source="mlcommons/logging, seed_checker", example="`seed` 1 twice from one line of one file")
def seed_again(run: Run) -> Iterator[Breach]:
    """In the closed division no line of the code logs the same seed twice."""
    logged = set()
    for event in () if run.is_open else run.all("seed"):
        metadata = event.event.metadata
        place = f"{show(metadata.get('file'))}, line {show(metadata.get('lineno'))}"
        if (as_seed(event.event.value), place) in logged:
            yield Breach(
                message="a seed is logged again from the same line; the result would be refused officially",
                line=event.line,
                expected="each seed once",
                actual=f"{show(event.event.value)} in {place}",
            )
        logged.add((as_seed(event.event.value), place))


# Hyperparameters that do not depend on the batch size.


def _other(key: str) -> str:
    return f"`{key}` with any other value"


def _fixed_check(
    key: str, expected: Callable[[Rules], object], rules_of: Callable[[Run], Rules]
) -> Callable[[Run], Iterator[Breach]]:
    def check(run: Run) -> Iterator[Breach]:
        actual, fixed = run.value(key), expected(rules_of(run))
        if fixed is not None and (isinstance(actual, bool) or actual != fixed):
            yield _wrong(run, key, show(fixed))

    check.__doc__ = f"{key} has the value that the rules fix."
    return check


for _key, (_expected, _source) in FIXED.items():
    rule(f"hyperparameter.{_key}", source=_source, example=_other(_key))(
        _fixed_check(_key, _expected, lambda run: run.rules)
    )
for _key, _expected in FIXED_IN_CLOSED.items():
    rule(f"hyperparameter.{_key}", source=HYPERPARAMETERS, example=_other(_key))(
        _fixed_check(_key, _expected, lambda run: run.closed_rules)
    )


@rule("hyperparameter.positive", source=HYPERPARAMETERS, example="`tensor_parallelism` 0")
def positive(run: Run) -> Iterator[Breach]:
    """Batch sizes, accumulation steps and degrees of parallelism are whole numbers >= 1."""
    for key in filter(run.has, POSITIVE):
        if not as_count(run.value(key)):
            yield _wrong(run, key, "a whole number >= 1")


@rule(
    "hyperparameter.whole",
    source=HYPERPARAMETERS,
    severity=Severity.INFO,
    example="`opt_learning_rate_warmup_steps` 8000.0",
)
def whole(run: Run) -> Iterator[Breach]:
    """Numbers of steps are logged as integers.

    All published 405B logs have numbers such as 8000.0, which equals the integer.
    """
    for key in filter(run.has, WHOLE):
        if isinstance(run.value(key), float):
            yield _wrong(run, key, "an integer", "is not written as an integer, which breaks no rule")


@rule("hyperparameter.train_samples", source=LOGGING, example='`train_samples` "many", or 1 in a run of 313344 samples')
def train_samples(run: Run) -> Iterator[Breach]:
    """train_samples is the number of samples trained on or, in some logs, that of the whole dataset."""
    samples = as_count(run.value("train_samples"))
    if samples is None:
        yield _wrong(run, "train_samples", "a whole number >= 0")
    elif samples < run.samples - run.global_batch_size:
        # One batch less is allowed, because some logs count evaluations that way.
        yield _wrong(run, "train_samples", f"at least the {run.samples} samples trained on")


@rule("hyperparameter.dropout", source=HYPERPARAMETERS, example="`attention_dropout` 0.1")
def dropout(run: Run) -> Iterator[Breach]:
    """The model has no dropout, so any dropout in the log is zero."""
    benchmark = run.closed_rules.benchmark
    for key in run.log.events:
        if key.endswith("dropout") and as_number(run.value(key)) != 0:
            yield Breach(
                message=f"{key} is not zero, but {benchmark} has no dropout",
                line=run.first(key).line,
                expected="0.0, or no such event",
                actual=show(run.value(key)),
            )


@rule(
    "hyperparameter.precision",
    source=f"{NUMERICAL_FORMATS}; {LOGGING}",
    since="6.0.0",
    example='`lowest_numerical_precision_in_attn` "bf16", whose official name is bfloat16',
)
def precision(run: Run) -> Iterator[Breach]:
    """Numerical formats have the names that the official checker knows."""
    known = number_formats(run.rules)
    for key in filter(run.has, PRECISION):
        if run.value(key) not in known:
            yield _wrong(run, key, f"one of {', '.join(known)}")


@rule(
    "hyperparameter.accumulation",
    source=HYPERPARAMETERS,
    example="`gradient_accumulation_steps` 7 at batch size 1152",
)
def accumulation(run: Run) -> Iterator[Breach]:
    """The global batch size is a multiple of the micro batch size times the accumulation steps."""
    size, steps = run.global_batch_size, as_count(run.value("gradient_accumulation_steps"))
    micro = as_count(run.value("micro_batch_size")) if run.has("micro_batch_size") else 1
    if steps and micro and size % (steps * micro):
        factors = f"{steps} x micro_batch_size {micro}" if run.has("micro_batch_size") else f"{steps}"
        yield Breach(
            message="gradient_accumulation_steps does not divide the global batch size",
            line=run.first("gradient_accumulation_steps").line,
            expected=f"a divisor of {size}",
            actual=factors,
        )


# The batch size, and what it decides in the closed division.


@rule("hyperparameter.largest_batch", source=HYPERPARAMETERS, example="`global_batch_size` 9280 of llama31_405b")
def largest_batch(run: Run) -> Iterator[Breach]:
    """The global batch size is at most what the rules allow."""
    limit = run.closed_rules.max_global_batch_size
    if limit is not None and run.global_batch_size > limit:
        yield _wrong(run, "global_batch_size", f"at most {limit}")


@rule(
    "hyperparameter.reference_batch",
    source=CONVERGENCE_POINTS,
    example="`global_batch_size` 6912 of llama31_405b in 6.0.0; 896, below every reference point (a WARNING)",
)
def reference_batch(run: Run) -> Iterator[Breach]:
    """The global batch size lies within those of the reference convergence points; outside it needs a new point."""
    sizes = [point.global_batch_size for point in run.closed_rules.reference_points]
    if sizes and not min(sizes) <= run.global_batch_size <= max(sizes):
        # Below the points the official checker judges by the smallest; above them it refuses the result.
        severity = Severity.WARNING if run.global_batch_size < min(sizes) else Severity.ERROR
        expected = f"{min(sizes)} to {max(sizes)}, or a reference point at this batch size"
        yield _wrong(run, "global_batch_size", expected, severity=severity)


@rule(
    "hyperparameter.opt_base_learning_rate",
    source=HYPERPARAMETERS,
    example="4e-05 at batch size 1152; 8.889e-05 at 1280, which the policy rounds to but the official checker refuses",
)
def base_learning_rate(run: Run) -> Iterator[Breach]:
    """The peak learning rate follows from the global batch size; where the rules leave it free, it is positive."""
    key, rate = "opt_base_learning_rate", run.closed_rules.learning_rate
    actual = as_number(run.value(key))
    if actual is None or actual <= 0:
        yield _wrong(run, key, "a positive number")
    elif isinstance(rate, ScaledLearningRate):
        peak = rate.peak(run.global_batch_size)
        if actual != peak:
            expected = f"{peak} ({rate.base} x {run.global_batch_size} / {rate.batch})"
            fault = "is rounded, so the log would be refused officially" if _is_rounded(actual, peak) else ""
            yield _wrong(run, key, expected, fault)


def _is_rounded(actual: float, exact: float) -> bool:
    """Return whether `actual` is `exact` rounded to 3 digits or more, or computed in another order.

    The policy's text rounds to 8 decimals. The official checker compares doubles and refuses both.
    """
    rounded = (float(f"{exact:.{digits}e}") for digits in range(2, 16))
    return actual in rounded or math.isclose(actual, exact, rel_tol=1e-12)


@rule(
    "hyperparameter.learning_rate_check",
    source=LOGGING,
    example="`global_batch_size` 1984 of llama31_405b",
)
def learning_rate_check(run: Run) -> Iterator[Breach]:
    """Some learning rate passes the official checker's equality test at this batch size; else it refuses every log."""
    rate, size = run.closed_rules.learning_rate, run.global_batch_size
    if isinstance(rate, ScaledLearningRate) and not rate.verifiable(size):
        near = " or ".join(str(batch) for batch in rate.nearest_verifiable(size))
        expected = f"a size at which some double fulfils learning rate x {rate.batch} == size x {rate.base}: {near}"
        yield _wrong(run, "global_batch_size", expected, "has no learning rate that is accepted officially")


@rule(
    "hyperparameter.opt_end_learning_rate",
    source=HYPERPARAMETERS,
    example="8e-06 for llama31_405b; half the peak for llama31_8b, where the rules fix a tenth",
)
def end_learning_rate(run: Run) -> Iterator[Breach]:
    """The learning rate ends at the value that the rules fix or, where the peak is free, at a fixed fraction of it."""
    key, rate, expected = "opt_end_learning_rate", run.closed_rules.learning_rate, run.schedule.end_learning_rate
    actual = as_number(run.value(key))
    # A product of two doubles may differ in the last digit, which no official tool compares.
    tolerance = 1e-9 if isinstance(rate, FreeLearningRate) else 0.0
    if actual is None or not math.isclose(actual, expected, rel_tol=tolerance):
        yield _wrong(run, key, f"{expected}")


@rule(
    "hyperparameter.opt_learning_rate_warmup_steps",
    source=HYPERPARAMETERS,
    example="8000 at batch size 1280; the unrounded quotient 9142.86 at 1008 (a WARNING)",
)
def warmup_steps(run: Run) -> Iterator[Breach]:
    """The warm-up steps follow from the global batch size, rounded up; where they are free, they are a whole number."""
    key, rate = "opt_learning_rate_warmup_steps", run.closed_rules.learning_rate
    actual = as_number(run.value(key))
    if not isinstance(rate, ScaledLearningRate):
        if as_count(actual) is None:
            yield _wrong(run, key, "a whole number >= 0")
    elif actual != run.schedule.warmup_steps:
        exact = Fraction(rate.warmup_steps * rate.batch, run.global_batch_size)
        # The official checker does not judge the warm-up, and accepted logs hold the unrounded quotient.
        unrounded = actual is not None and math.isclose(actual, exact)
        severity = Severity.WARNING if unrounded else Severity.ERROR
        yield _wrong(run, key, f"{run.schedule.warmup_steps}", severity=severity)


@rule(
    "hyperparameter.opt_learning_rate_decay_steps",
    source=HYPERPARAMETERS,
    example="1192000 at batch size 1280 (in 5.0.0 a WARNING)",
)
def decay_steps(run: Run) -> Iterator[Breach]:
    """Warm-up and decay together take as many steps as the rules fix."""
    key, rules, schedule = "opt_learning_rate_decay_steps", run.closed_rules, run.schedule
    actual = as_number(run.value(key))
    if actual != schedule.decay_steps:
        severity = Severity.WARNING if _is_unscaled_decay(rules, actual) else Severity.ERROR
        expected = f"{schedule.decay_steps} ({schedule.max_steps} in all - {schedule.warmup_steps} of warm-up)"
        yield _wrong(run, key, expected, severity=severity)


def _is_unscaled_decay(rules: Rules, actual: float | None) -> bool:
    """Return whether a v5.0 log has the decay of the reference batch at another batch size; 5.1.0 added the check."""
    rate = rules.learning_rate
    if not isinstance(rate, ScaledLearningRate) or not in_force(rules, until="5.0.0"):
        return False
    return actual == rate.total_steps - rate.warmup_steps


def as_seed(value: object) -> int | None:
    """Return a seed as the whole number that the official seed_checker's int() makes of it; None if it is not one.

    Stricter where int() would truncate: neither true nor 20.5 is a seed.
    """
    if isinstance(value, str):
        # A text of thousands of digits is not a seed, and int() would take long to read it.
        return int(value) if re.fullmatch(r"\s*[+-]?[0-9]{1,40}\s*", value) else None
    number = None if isinstance(value, bool) else as_number(value)
    return int(number) if number is not None and number.is_integer() else None


def _wrong(run: Run, key: str, expected: str, fault: str = "", *, severity: Severity | None = None) -> Breach:
    event = run.first(key)
    return Breach(
        message=f"{key} {fault or 'is not what the rules say'}",
        line=event.line,
        expected=expected,
        actual=show(event.event.value),
        severity=severity,
    )
