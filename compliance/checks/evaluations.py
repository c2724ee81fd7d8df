"""Evaluations and training: when the model was evaluated, whether it reached the target, what it was trained on."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator

from benchmark.benchmarks import benchmark_named
from compliance.checks.rule import Absent, Breach
from compliance.checks.sources import HARNESS, HYPERPARAMETERS, INITIALIZATION, LOGGING, QUALITY, RUN_RESULTS
from compliance.findings import Severity, as_count, as_number, show
from compliance.run import Evaluation, Run, rule, samples_count


@rule("eval.position", source=LOGGING, example="`eval_accuracy` with `samples_count` 276481 at batch size 1152")
def position(run: Run) -> Iterator[Breach]:
    """An evaluation says after how many sequences it came, a multiple of the global batch size."""
    size = run.global_batch_size
    for event in run.all("eval_accuracy"):
        samples = samples_count(event)
        if not samples or samples % size:
            yield Breach(
                message="eval_accuracy is at no multiple of the global batch size",
                line=event.line,
                expected=f"samples_count as a positive multiple of {size}",
                actual=show(event.event.metadata.get("samples_count")),
            )


@rule("eval.value", source=QUALITY, example='`eval_accuracy` "low", or below 0')
def value(run: Run) -> Iterator[Breach]:
    """A log perplexity is a positive number."""
    for event in run.all("eval_accuracy"):
        number = as_number(event.event.value)
        if number is None or number <= 0:
            yield Breach(
                message="eval_accuracy is no log perplexity",
                line=event.line,
                expected="a positive number",
                actual=show(event.event.value),
            )


@rule(
    "eval.cadence",
    source=QUALITY,
    example="a first evaluation after 258048 sequences of llama31_405b at batch size 1152, an interval early",
)
def cadence(run: Run) -> Iterator[Breach]:
    """Evaluations come when the rules say: the first after those that are skipped, then one every interval."""
    schedule = run.schedule
    for due, evaluation in zip(schedule.evaluation_steps(), run.evaluations, strict=False):
        expected = due * schedule.global_batch_size
        if evaluation.position == expected:
            continue
        if not _ended_by_max_steps(run, evaluation):
            yield Breach(
                message="an evaluation is off the schedule",
                line=evaluation.line,
                expected=f"after {expected} sequences ({due} steps; then every {schedule.eval_interval_steps} steps)",
                actual=f"after {evaluation.position} sequences",
            )
        return


@rule(
    "eval.max_steps",
    source=QUALITY,
    severity=Severity.WARNING,
    example="`max_steps` 500 at batch size 576: the last evaluation is after 288000 sequences, not 294912",
)
def max_steps(run: Run) -> Iterator[Breach]:
    """A run ends at a scheduled evaluation, not because max_steps came between two."""
    last, schedule = run.last_evaluation, run.schedule
    first, interval = (
        steps * schedule.global_batch_size for steps in (schedule.first_eval_step, schedule.eval_interval_steps)
    )
    if (last.position - first) % interval and _ended_by_max_steps(run, last):
        yield Breach(
            message="the last evaluation came because max_steps was reached",
            line=last.line,
            expected=f"after {first} sequences and every {interval} from there",
            actual=f"after {last.position} sequences, max_steps {run.value('max_steps')}",
        )


def _ended_by_max_steps(run: Run, evaluation: Evaluation) -> bool:
    if evaluation is not run.last_evaluation or not run.has("max_steps"):
        return False
    steps = as_count(run.value("max_steps"))
    return steps is not None and evaluation.position == steps * run.global_batch_size


@rule("eval.target", source=QUALITY, example="a last `eval_accuracy` of 5.6005 for llama31_405b")
def target(run: Run) -> Iterator[Breach]:
    """The last evaluation reaches the target."""
    if _missed_target(run):
        yield Breach(
            message=f"the target was not reached; run_stop is {_status(run)}",
            line=run.last_evaluation.line,
            expected=f"log perplexity <= {run.rules.target_log_perplexity} at the last evaluation",
            actual=f"{run.last_log_perplexity} after {run.last_evaluation.position} sequences",
        )


@rule("eval.stop_at_target", source=RUN_RESULTS, example="an `eval_accuracy` of 5.59 and another evaluation after it")
def stop_at_target(run: Run) -> Iterator[Breach]:
    """The run stops at the first evaluation that reaches the target."""
    for evaluation in run.evaluations[:-1]:
        value = evaluation.log_perplexity
        if value is not None and value <= run.rules.target_log_perplexity:
            yield Breach(
                message="the run went on after the target was reached",
                line=evaluation.line,
                expected=f"run_stop at the first log perplexity <= {run.rules.target_log_perplexity}",
                actual=f"{value} after {evaluation.position} sequences, run until {run.last_evaluation.position}",
            )
            return


@rule("run.status", source=LOGGING, example='`run_stop` with the status "aborted"')
def status(run: Run) -> Iterator[Breach]:
    """A run that counts says so: run_stop has the status success."""
    # A missed target is reported as that; its status follows from it.
    if run.status != "success" and not _missed_target(run):
        yield Breach(
            message=f"the run did not succeed: run_stop is {_status(run)}",
            line=run.first("run_stop").line,
            expected='run_stop with status "success"',
            actual=show(run.status),
        )


def _status(run: Run) -> str:
    reason = run.first("run_stop").event.metadata.get("reason")
    return show(run.status) + (f", reason: {show(reason)}" if reason else "")


def _missed_target(run: Run) -> bool:
    """Whether the run ended above the target; one that has not ended, or has no last value, is another rule's."""
    try:
        return run.has("run_stop") and run.last_log_perplexity > run.rules.target_log_perplexity
    except Absent:
        return False


@rule("run.samples", source=RUN_RESULTS, example="`run_stop` with another `samples_count` than the last evaluation")
def samples(run: Run) -> Iterator[Breach]:
    """A run that succeeds stops where its last evaluation was."""
    stop = run.first("run_stop")
    stated, last = samples_count(stop), run.last_evaluation.position
    if run.status == "success" and stated is not None and stated != last:
        yield Breach(
            message="run_stop is not at the last evaluation",
            line=stop.line,
            expected=f"samples_count {last}",
            actual=f"samples_count {stated}",
        )


@rule(
    "train.steps",
    source=HARNESS,
    example="a log of 272 steps with 271 `tracked_stats`; with fewer than half of them an INFO",
)
def steps(run: Run) -> Iterator[Breach]:
    """Every training step is reported once: their number times the global batch size is what was trained on."""
    if run.aborted:
        return  # Its last step may have failed before it could be reported.
    size, final = run.global_batch_size, run.samples
    due = range(size, final + 1, size)
    expected = final // size  # len() overflows for the numbers that a hostile log may hold.
    # Columns of numbers, and sets only where something is wrong: a log may hold a million steps.
    reported = array("d", (step.samples for step in run.log.steps))
    if len(reported) * 2 < expected:
        yield Breach(
            message="most training steps are not reported, so they are not judged",
            expected=f"tracked_stats for {expected} steps",
            actual=f"{len(reported)}",
            severity=Severity.INFO,
        )
        return
    if reported == array("d", due):
        return
    missing = sorted(set(due).difference(reported))
    if len(missing) < expected and missing:
        yield Breach(
            message=f"tracked_stats is missing for step {missing[0] // size} (samples_count {missing[0]})",
            expected=f"one for each of {expected} steps of {size} sequences",
            actual=f"{len(missing)} missing",
        )
    elif len(reported) != expected:
        yield Breach(
            message="tracked_stats reports another number of training steps than the run took",
            expected=f"{expected} steps of {size} sequences make the {final} trained on",
            actual=f"{len(reported)} steps",
        )


@rule("train.loss", source=HARNESS, example='`reduced_train_loss` "low"')
def loss(run: Run) -> Iterator[Breach]:
    """A training loss is a positive number."""
    wrong = [step.line for step in run.log.steps if not step.loss > 0]
    if wrong:
        yield Breach(
            message="a training loss is no positive number",
            line=wrong[0],
            expected="reduced_train_loss > 0",
            actual=f"{len(wrong)} steps with another value",
        )


@rule(
    "train.initial_loss",
    source=f"{INITIALIZATION}; {HYPERPARAMETERS}",
    severity=Severity.WARNING,
    example="a first `reduced_train_loss` of 10.4 for llama31_405b: no checkpoint was loaded",
)
def initial_loss(run: Run) -> Iterator[Breach]:
    """The first training loss is what the benchmark's initial weights, tokenizer and model give."""
    low, high = benchmark_named(run.rules.benchmark).initial_train_loss
    first = next(run.log.steps, None)
    if first is None or first.samples != run.global_batch_size or math.isnan(first.loss):
        return
    if not low <= first.loss <= high:
        yield Breach(
            message="the first training loss is not that of the benchmark's initial weights",
            line=first.line,
            expected=f"{low} to {high}",
            actual=f"{first.loss}",
        )
