"""Evaluations and training: when the model was evaluated, whether it reached the target, what it was trained on."""

from __future__ import annotations

from collections.abc import Iterator

from compliance.checks.rule import Absent, Breach
from compliance.checks.sources import LOGGING, QUALITY, RUN_RESULTS
from compliance.findings import Severity, as_count, as_number, show
from compliance.run import Evaluation, Run, rule, samples_count


@rule(
    "eval.position",
    source=LOGGING,
    example="`eval_accuracy` with `samples_count` 276481 at batch size 1152; one batch less than its start, a WARNING",
)
def position(run: Run) -> Iterator[Breach]:
    """An evaluation says after how many sequences it came, a multiple of the global batch size, and says it once.

    AMD's v5.1 logs of 8B count a batch less at eval_accuracy than at its start and stop. That is no advantage: the
    number is what convergence is judged by, and fewer samples are refused sooner and score worse.
    """
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
    apart = [evaluation for evaluation in run.evaluations if len(set(map(samples_count, evaluation.events))) > 1]
    others = [evaluation for evaluation in apart if not _counts_a_batch_less(evaluation, size)]
    if apart:
        first = (others or apart)[0]
        yield Breach(
            message="an evaluation's events disagree about where it is",
            line=first.line,
            expected=f"one samples_count, {first.position}",
            actual=f"{_counts(first)}; so in {len(apart)} of {len(run.evaluations)} evaluations",
            severity=None if others else Severity.WARNING,
        )


def _counts_a_batch_less(evaluation: Evaluation, size: int) -> bool:
    start, stop, accuracy = map(samples_count, evaluation.events) if len(evaluation.events) == 3 else (None,) * 3
    return start is not None and start == stop and accuracy == start - size


def _counts(evaluation: Evaluation) -> str:
    return ", ".join(f"{event.event.key} {samples_count(event)}" for event in evaluation.events)


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
    """In the closed division evaluations come when the rules say: after those that are skipped, one every interval.

    Another interval of llama31_8b is a WARNING, where accepted results kept it: 6144 (University of Florida, v5.1),
    8192 (HPE, v5.1), 21888 (Cisco, v5.1), 24576 and 49152. A rarer one is paid for in samples, which are judged; one
    that is more frequent in evaluations.
    """
    if run.is_open:
        return
    schedule, own = run.schedule, _own_cadence(run)
    if own is not None:
        yield _other_cadence(run, own)
        return
    for due, evaluation in zip(schedule.evaluation_steps(), run.evaluations, strict=False):
        expected = due * schedule.global_batch_size
        if evaluation.position == expected:
            continue
        if not ended_by_max_steps(run, evaluation):
            yield Breach(
                message="an evaluation is off the schedule",
                line=evaluation.line,
                expected=f"after {expected} sequences ({due} steps; then every {schedule.eval_interval_steps} steps)",
                actual=f"after {evaluation.position} sequences",
            )
        return


def _own_cadence(run: Run) -> int | None:
    """Another interval than the rules', in sequences, kept all the time, that accepted results have kept; else None."""
    if not run.evaluations:
        return None
    own = run.evaluations[0].position
    steady = all(evaluation.position == own * nth for nth, evaluation in enumerate(run.evaluations, start=1))
    due = run.schedule.first_eval_step * run.schedule.global_batch_size
    return own if steady and own != due and own in run.rules.accepted_cadences else None


def _other_cadence(run: Run, own: int) -> Breach:
    due = run.schedule.eval_interval_steps * run.schedule.global_batch_size
    advantage = "fewer of them are on the clock" if own > due else "the run may end sooner after its target"
    return Breach(
        message=f"evaluations come {'rarer' if own > due else 'more often'} than the rules say: {advantage}",
        line=run.evaluations[0].line,
        expected=f"every {due} sequences",
        actual=f"every {own}, all the time, as in accepted v5.1 results",
        severity=Severity.WARNING,
    )


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
    if (last.position - first) % interval and ended_by_max_steps(run, last):
        yield Breach(
            message="the last evaluation came because max_steps was reached",
            line=last.line,
            expected=f"after {first} sequences and every {interval} from there",
            actual=f"after {last.position} sequences, max_steps {run.value('max_steps')}",
        )


def ended_by_max_steps(run: Run, evaluation: Evaluation) -> bool:
    """Whether an evaluation is the last one, made because max_steps was reached."""
    if evaluation is not run.last_evaluation or not run.has("max_steps"):
        return False
    steps = as_count(run.value("max_steps"))
    return steps is not None and evaluation.position == steps * run.global_batch_size


@rule("eval.target", source=QUALITY, example="a last `eval_accuracy` of 5.6005 for llama31_405b")
def target(run: Run) -> Iterator[Breach]:
    """The last evaluation reaches the target; that of one run of a result need not."""
    if not run.excused and _missed_target(run):
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
    if run.status != "success" and not run.excused and not _missed_target(run):
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
