"""Forecasts a run from its log so far: when it will reach the target, and how its convergence will affect the score.

The reference's numbers come from benchmark.convergence. All lengths are in samples.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from benchmark.convergence import accepted_from, find_record, mean_samples
from benchmark.rules import Rules
from compliance.checks.rule import AbsentError
from compliance.convergence.olympic import olympic_mean
from compliance.run import Run
from report.facts import RunFacts
from report.series import LARGEST

RECENT = 256
"""Number of latest steps whose mean predicts the next ones."""

FORWARD = 1 / 3
"""Share of a step's time that its forward pass takes: a guess for evaluations, used until the first one is over.

In the published v5.1 runs, the first evaluation took 0.97 to 1.20 times as long as it predicts.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """When a run is expected to reach the target."""

    samples: int
    """The evaluation that is expected to reach it."""
    by: str
    """The reason for that, in words."""
    minutes: float
    """Minutes from run_start."""
    remaining: float
    """Seconds from the last event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Margin:
    """The factor that a result's score would be multiplied by, and its distance from being refused."""

    samples: int
    """Samples to the target of this run."""
    runs: int
    """Number of runs in the mean: this one and those of the result that are over."""
    factor: float
    minimum: float
    """The smallest mean that the policy accepts."""
    mean: float

    @property
    def margin(self) -> float:
        return self.mean - self.minimum


def trained(run: Run) -> int:
    """Return the samples trained on so far; raises AbsentError for a number that is too large to compute with."""
    last = deque(run.log.steps, maxlen=1)
    steps = last[0].samples if last and math.isfinite(last[0].samples) else 0.0
    samples = max(int(steps), run.evaluations[-1].position if run.evaluations else 0)
    if samples > LARGEST:
        raise AbsentError("samples_count")
    return samples


def next_evaluation(run: Run) -> int:
    """Return the samples at the next evaluation, or at the one that is under way.

    Raises:
        AbsentError: the log does not identify the run.
    """
    done = [evaluation.position for evaluation in run.evaluations if evaluation.log_perplexity is not None]
    return _evaluation_from(run, max(trained(run), done[-1] + 1 if done else 0))


def _evaluation_from(run: Run, samples: float) -> int:
    """Return the first scheduled evaluation at `samples` or later."""
    if run.global_batch_size > LARGEST:
        raise AbsentError("global_batch_size")
    return run.schedule.evaluation_from(samples)


def expected(run: Run) -> tuple[int, str]:
    """Return the evaluation that is expected to reach the target, and the reason in words.

    The reference's mean decides, unless the last two evaluations contradict it. A loss falls ever more slowly, so the
    line through them meets the target too early if anything. If that is before the next evaluation, the next one is
    expected to reach it; if it is after the reference's mean, the mean is out of reach.

    Raises:
        AbsentError: the log does not say what run it is, or its rules have no reference.
    """
    rules, size, coming = run.rules, run.global_batch_size, next_evaluation(run)
    crossing = _crossing(run, rules.target_log_perplexity)
    record = find_record(rules, size)[1]
    mean = mean_samples(rules, size) if record is None else record.mean
    if crossing is not None and (crossing <= coming or mean is None or crossing > mean):
        return _evaluation_from(run, max(crossing, coming)), "its last evaluations"
    if mean is None:
        raise AbsentError("reference")
    return _evaluation_from(run, max(mean, coming)), f"the reference's mean of {mean:,.0f}"


def _crossing(run: Run, target: float) -> float | None:
    """Return where the line through the last two evaluations meets the target; None if it does not fall."""
    points = [
        (evaluation.position, value)
        for evaluation in run.evaluations[-2:]
        if (value := evaluation.log_perplexity) is not None
    ]
    if len(points) < 2:
        return None
    (before, above), (last, value) = points
    fall = (above - value) / (last - before) if last > before else 0.0
    crossing = last + (value - target) / fall if fall > 0 else math.inf
    return crossing if crossing <= LARGEST else None


def arrival(facts: RunFacts) -> Arrival:
    """Return when the run will reach the target, counting the evaluations on the way.

    Raises:
        AbsentError: the log does not say enough: no run_start, no timed step, no reference.
    """
    run, size = facts.run, facts.run.global_batch_size
    recent = [seconds for _, seconds in facts.step_seconds[-RECENT:]]
    if not recent:
        raise AbsentError("train_step_time")
    step, (samples, by) = fmean(recent), expected(run)
    evaluations = 1 + (samples - next_evaluation(run)) // (run.schedule.eval_interval_steps * size)
    steps = max(0, samples - trained(run)) / size
    remaining = steps * step + evaluations * evaluation_seconds(facts, step)
    since = (_last_moment(run) - run.first("run_start").event.time_ms) / 1000
    return Arrival(samples=samples, by=by, minutes=(since + remaining) / 60, remaining=remaining)


def seconds_left(facts: RunFacts, usual: float | None = None, quiet: float = 0.0) -> float | None:
    """Return the seconds that the run will still take; None if nothing indicates it yet.

    Args:
        usual: seconds that such a whole run takes, used before the first step is over.
        quiet: seconds since the last event.
    """
    try:
        left = arrival(facts).remaining
    except AbsentError:
        if usual is None:
            return None
        left = usual - seconds_so_far(facts.run)
    return max(0.0, left - quiet)


def seconds_so_far(run: Run) -> float:
    """Return the seconds from the first event to the last."""
    first = next(run.log.marks, None)
    return 0.0 if first is None else (deque(run.log.marks, maxlen=1)[0].time_ms - first.time_ms) / 1000


def evaluation_seconds(facts: RunFacts, step: float) -> float:
    """Return the median of the evaluations that are over; before the first, a guess from a step's time."""
    taken = [span.seconds for span in facts.spans if span.kind == "evaluation"]
    return median(taken) if taken else FORWARD * step * facts.run.rules.eval_sequences / facts.run.global_batch_size


def _last_moment(run: Run) -> float:
    """Return the time in ms from which the rest counts: the last event, or the start of the evaluation under way."""
    if run.evaluations and run.evaluations[-1].start is not None and run.evaluations[-1].log_perplexity is None:
        return run.evaluations[-1].start.event.time_ms
    return deque(run.log.marks, maxlen=1)[0].time_ms


def margin(rules: Rules, size: int, samples: int, others: Sequence[int | None] = ()) -> Margin | None:
    """Return the factor of a result whose runs need these samples; None without a reference, or without a score.

    With as many runs as a result has, it is the published factor; with fewer, that of a result with their mean.

    Args:
        others: samples of the other runs; None for one that missed the target.
    """
    record, all_runs = find_record(rules, size)[1], [samples, *others]
    is_result = len(all_runs) >= rules.runs
    mean = olympic_mean(all_runs) if is_result else fmean(one for one in all_runs if one is not None)
    if record is None or not mean:
        return None
    minimum = accepted_from(record, rules.runs, rules.convergence_allowance)
    return Margin(samples=samples, runs=len(all_runs), factor=max(1.0, record.mean / mean), minimum=minimum, mean=mean)
