"""Time to the target: minutes for each evaluation at which a run may reach it, from the reference's samples.

The seed decides at which evaluation a run ends, and evaluations are at least 18,432 samples apart, so a single number
would be wrong by 6 % or more even with a perfect step time. All lengths are in samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from benchmark.convergence import accepted_from, find_record, likely_samples, mean_samples, score_factor
from benchmark.rules import Rules, Schedule

FEW = 4
"""Outcomes that are shown if no reference point says which are likely."""

LONGEST_INIT_MINUTES = 20.0
"""Minutes from the start of the job to run_start: the longest published run took 18.5 after its container."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The parts of a run's time, in seconds."""

    step: float
    evaluation: float
    """One pass over the evaluation samples."""
    start: float
    """Once a run: opening data, slow first steps."""
    spread: float
    """Possible relative error of the step: 0.05 is 5 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelyOutcome:
    """A run that reaches the target at a certain evaluation."""

    samples: int
    steps: int
    evaluations: int
    """Evaluations done by then, including the last one."""
    minutes: float
    margin: float | None
    """Samples over the fewest that a result of such runs may have needed, as `llama31 rcp` computes it; below zero the
    result is refused. None without a reference point at or above the batch size."""
    factor: float
    """Factor on the score of such runs, as `llama31 rcp` computes it."""


def outcomes(rules: Rules, schedule: Schedule, pace: Pace, *, limit: int | None = None) -> list[LikelyOutcome]:
    """Return the evaluations at which a run is likely to reach the target, first to last.

    They range from the reference's fastest seed, minus what the rules allow, to its slowest, plus one evaluation: a run
    ends at the first evaluation after reaching the target. Without reference points, they are the first evaluations.

    Args:
        limit: the run's own last step, if it has one.
    """
    gbs = schedule.global_batch_size
    first, last = likely_samples(rules, gbs)
    beyond = last + schedule.eval_interval_steps * gbs
    steps = list(schedule.evaluation_steps(limit))
    chosen = [step for step in steps if first <= step * gbs <= beyond] or steps[:FEW]
    return [outcome(rules, schedule, pace, step) for step in chosen]


def outcome(rules: Rules, schedule: Schedule, pace: Pace, steps: int) -> LikelyOutcome:
    """Return the outcome of a run that ends after `steps` steps."""
    samples, record = steps * schedule.global_batch_size, find_record(rules, schedule.global_batch_size)[1]
    fewest = None if record is None else accepted_from(record, rules.runs, rules.convergence_allowance)
    evaluations = sum(1 for _ in schedule.evaluation_steps(steps))
    return LikelyOutcome(
        samples=samples,
        steps=steps,
        evaluations=evaluations,
        minutes=(pace.start + steps * pace.step + evaluations * pace.evaluation) / 60,
        margin=None if fewest is None else samples - fewest,
        factor=score_factor(record, samples),
    )


def evaluation_steps(rules: Rules, gbs: int, ratio: float) -> float:
    """Return the length of an evaluation in training steps: forward passes over the batches that its samples fill."""
    return ratio * ceil(rules.eval_sequences / gbs)


def expected_steps(rules: Rules, schedule: Schedule, ratio: float) -> float:
    """Return the steps of a run that needs the reference's mean and half an interval more, evaluations included.

    The result is smooth in the batch size, so configurations can be ranked by it: where the nearest evaluation lies is
    chance.
    """
    gbs, interval, first = schedule.global_batch_size, schedule.eval_interval_steps, schedule.first_eval_step
    mean = mean_samples(rules, gbs)
    steps = max(first, 0.0 if mean is None else mean / gbs + interval / 2)
    return steps + ((steps - first) / interval + 1) * evaluation_steps(rules, gbs, ratio)


def walltime(slowest: LikelyOutcome, pace: Pace, experiments: int) -> int:
    """Return the minutes to request: every run at its slowest likely end, with steps as slow as the error allows."""
    each = slowest.minutes * (1 + pace.spread) + LONGEST_INIT_MINUTES
    return ceil(each * experiments / 10) * 10
