"""Rules about evaluations: when they come, whether the last one reaches the target, and whether the run stops there."""

from __future__ import annotations

from collections.abc import Iterator

from benchmark.plurals import counted
from compliance.checks.rule import AbsentError, Breach
from compliance.checks.sources import LOGGING, QUALITY, RUN_RESULTS
from compliance.findings import Severity, as_count, as_number, show
from compliance.run import Evaluation, Run, rule, samples_count


@rule(
    "eval.position",
    source=LOGGING,
    example="`eval_accuracy` at `samples_count` 276481, batch size 1152; one batch less than `eval_start` (a WARNING)",
)
def position(run: Run) -> Iterator[Breach]:
    """All events of an evaluation have the same samples_count, a positive multiple of the global batch size.

    In AMD's v5.1 logs of 8B eval_accuracy counts one batch less than eval_start and eval_stop, which is a WARNING. It
    is not an advantage: convergence is judged by that number, and fewer samples are refused sooner and score worse.
    """
    size = run.global_batch_size
    for event in run.all("eval_accuracy"):
        samples = samples_count(event)
        if not samples or samples % size:
            yield Breach(
                message="samples_count of eval_accuracy is not a multiple of the global batch size",
                line=event.line,
                expected=f"a positive multiple of {size}",
                actual=show(event.event.metadata.get("samples_count")),
            )
    differing = [evaluation for evaluation in run.evaluations if len(set(map(samples_count, evaluation.events))) > 1]
    others = [evaluation for evaluation in differing if not _counts_a_batch_less(evaluation, size)]
    if differing:
        first = (others or differing)[0]
        yield Breach(
            message="the events of an evaluation state different sample counts",
            line=first.line,
            expected=f"samples_count {first.position} in all of them",
            actual=f"{_counts(first)}; {len(differing)} of {counted(len(run.evaluations), 'evaluation')} differ so",
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
                message="eval_accuracy is not a log perplexity",
                line=event.line,
                expected="a positive number",
                actual=show(event.event.value),
            )


@rule(
    "eval.cadence",
    source=QUALITY,
    example="a first evaluation of llama31_405b after 258048 samples at batch size 1152, one interval early",
)
def cadence(run: Run) -> Iterator[Breach]:
    """In the closed division evaluations come when the rules say: after the skipped ones, one every interval.

    For llama31_8b another interval is a WARNING, if the run keeps it throughout and accepted v5.1 results lie on both
    sides of it: they kept 6144 (University of Florida), 8192 (HPE), 21888 (Cisco), 24576 and 49152 samples. Evaluating
    less often costs samples, by which convergence is judged; evaluating more often costs the time of the evaluations.
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
                expected=f"after {expected} samples ({due} steps; then every {schedule.eval_interval_steps} steps)",
                actual=f"after {evaluation.position} samples",
            )
        return


def _own_cadence(run: Run) -> int | None:
    """Return the interval in samples of a run that keeps another than the rules' which was accepted; else None."""
    if not run.evaluations:
        return None
    own = run.evaluations[0].position
    steady = all(evaluation.position == own * nth for nth, evaluation in enumerate(run.evaluations, start=1))
    due = run.schedule.first_eval_step * run.schedule.global_batch_size
    return own if steady and own != due and own in run.rules.accepted_cadences else None


def _other_cadence(run: Run, own: int) -> Breach:
    due = run.schedule.eval_interval_steps * run.schedule.global_batch_size
    advantage = "fewer of them are on the clock" if own > due else "the run may stop sooner after its target"
    return Breach(
        message=f"evaluations come {'less' if own > due else 'more'} often than the rules say: {advantage}",
        line=run.evaluations[0].line,
        expected=f"every {due} samples",
        actual=f"every {own} samples throughout, as in accepted v5.1 results",
        severity=Severity.WARNING,
    )


@rule(
    "eval.max_steps",
    source=QUALITY,
    severity=Severity.WARNING,
    example="`max_steps` 500 at batch size 576: the last evaluation is after 288000 samples, not 294912",
)
def max_steps(run: Run) -> Iterator[Breach]:
    """A run ends at a scheduled evaluation, not because it reached max_steps between two of them."""
    last, schedule = run.last_evaluation, run.schedule
    first, interval = (
        steps * schedule.global_batch_size for steps in (schedule.first_eval_step, schedule.eval_interval_steps)
    )
    if (last.position - first) % interval and ended_by_max_steps(run, last):
        yield Breach(
            message="the last evaluation came because max_steps was reached",
            line=last.line,
            expected=f"after {first} samples, then every {interval}",
            actual=f"after {last.position} samples, max_steps {run.value('max_steps')}",
        )


def ended_by_max_steps(run: Run, evaluation: Evaluation) -> bool:
    """Return whether an evaluation is the last one, made because max_steps was reached."""
    if evaluation is not run.last_evaluation or not run.has("max_steps"):
        return False
    steps = as_count(run.value("max_steps"))
    return steps is not None and evaluation.position == steps * run.global_batch_size


@rule("eval.target", source=QUALITY, example="a last `eval_accuracy` of 5.6005 for llama31_405b")
def target(run: Run) -> Iterator[Breach]:
    """The last evaluation reaches the target; one run of a result may miss it."""
    if not run.excused and _missed_target(run):
        yield Breach(
            message=f"the target was not reached; the status at run_stop is {_status(run)}",
            line=run.last_evaluation.line,
            expected=f"log perplexity <= {run.rules.target_log_perplexity} at the last evaluation",
            actual=f"{run.last_log_perplexity} after {run.last_evaluation.position} samples",
        )


@rule("eval.stop_at_target", source=RUN_RESULTS, example="an `eval_accuracy` of 5.59 and another evaluation after it")
def stop_at_target(run: Run) -> Iterator[Breach]:
    """The run stops at the first evaluation that reaches the target."""
    for evaluation in run.evaluations[:-1]:
        value = evaluation.log_perplexity
        if value is not None and value <= run.rules.target_log_perplexity:
            yield Breach(
                message="the run continued after the target was reached",
                line=evaluation.line,
                expected=f"run_stop at the first log perplexity <= {run.rules.target_log_perplexity}",
                actual=f"{value} after {evaluation.position} samples, continued to {run.last_evaluation.position}",
            )
            return


@rule("run.status", source=LOGGING, example='`run_stop` with the status "aborted"')
def status(run: Run) -> Iterator[Breach]:
    """A run that counts stops with the status success."""
    # eval.target reports a missed target; the status follows from it.
    if run.status != "success" and not run.excused and not _missed_target(run):
        yield Breach(
            message=f"the run did not succeed: the status at run_stop is {_status(run)}",
            line=run.first("run_stop").line,
            expected='run_stop with status "success"',
            actual=show(run.status),
        )


def _status(run: Run) -> str:
    reason = run.first("run_stop").event.metadata.get("reason")
    return show(run.status) + (f", reason: {show(reason)}" if reason else "")


def _missed_target(run: Run) -> bool:
    """Return whether the run ended above the target; other rules report one that has no end or no last value."""
    try:
        return run.has("run_stop") and run.last_log_perplexity > run.rules.target_log_perplexity
    except AbsentError:
        return False


@rule("run.samples", source=RUN_RESULTS, example="`run_stop` one batch after the last evaluation")
def samples(run: Run) -> Iterator[Breach]:
    """At run_stop, a run that succeeds has the samples_count of its last evaluation."""
    stop = run.first("run_stop")
    stated, last = samples_count(stop), run.last_evaluation.position
    if run.status == "success" and stated is not None and stated != last:
        yield Breach(
            message="run_stop has another samples_count than the last evaluation",
            line=stop.line,
            expected=f"samples_count {last}",
            actual=f"samples_count {stated}",
        )
