"""Rules about training: blocks, steps, losses, and whether the first loss can be that of the benchmark."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from statistics import median

from benchmark.benchmarks import benchmark_named
from benchmark.plurals import counted
from compliance.checks.evaluations import ended_by_max_steps
from compliance.checks.rule import Breach, in_force
from compliance.checks.sources import HARNESS, HYPERPARAMETERS, INITIALIZATION, LOGGING
from compliance.findings import Severity
from compliance.log import Located, TrainStep
from compliance.run import BLOCK, Run, rule, samples_count

FAR = 1.0
"""Nats above the range of first losses. A loss so far above it is not explained by seed or precision."""

BlockCount = Callable[[int, int], tuple[int, int]]
"""From the samples before and after a block to the samples_count of its block_start and of its block_stop."""

BLOCK_COUNTS: tuple[BlockCount, ...] = (
    lambda before, after: (before, after),
    lambda before, after: (after - before, after - before),
    lambda before, after: (before, before),
)
"""The known ways to count: where the block starts and stops (the reference, AMD's v5.1 logs), how long it is (NVIDIA's
v5.1 logs), only where it starts (the v5.0 logs)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _BlockEvent:
    """A block_start or block_stop, and where its block was."""

    event: Located
    samples: int
    """Its samples_count."""
    before: int
    """Samples at the evaluation before the block; 0 at the start of the run."""
    after: int
    """Samples at the evaluation after the block."""
    scheduled: int | None
    """Samples that the block should have had, if max_steps ended it; else None."""

    def fits(self, way: BlockCount) -> bool:
        """Return whether the samples_count is what this way of counting gives."""
        expected = way(self.before, self.after)[self.event.event.key == "block_stop"]
        return self.samples == expected or (self.scheduled is not None and self.samples == self.scheduled)


@rule(
    "train.blocks",
    source=LOGGING,
    example="`block_stop` with `samples_count` 999 where its block ended after 276480 samples (in 5.0.0 a WARNING)",
)
def blocks(run: Run) -> Iterator[Breach]:
    """All blocks of training count their samples in the same one of the known ways.

    They state where they start and stop, how long they are, or only where they start. If most events fit none of these,
    that is a WARNING: the log may count in a way that is not known here.
    """
    events = list(_block_events(run))
    if not events:
        return
    wrong = min(([event for event in events if not event.fits(way)] for way in BLOCK_COUNTS), key=len)
    if wrong:
        first = wrong[0]
        counted_otherwise = 2 * len(wrong) > len(events)
        lenient = counted_otherwise or in_force(run.rules, until="5.0.0")
        yield Breach(
            message="blocks count their samples in an unknown way"
            if counted_otherwise
            else "a block contradicts the others",
            line=first.event.line,
            expected=f"samples_count of a block that trains from {first.before} to {first.after} samples",
            actual=f"{first.event.event.key} {first.samples}; wrong in {len(wrong)} of {counted(len(events), 'event')}",
            severity=Severity.WARNING if lenient else None,
        )


def _block_events(run: Run) -> Iterator[_BlockEvent]:
    """Yield the events of the blocks after which the run was evaluated."""
    ends = [(event.index, evaluation.position) for evaluation in run.evaluations for event in evaluation.events[:1]]
    interval = run.schedule.eval_interval_steps * run.schedule.global_batch_size
    started = None
    for event in run.in_order(BLOCK):
        # Some v5.0 logs stop a block after its evaluation, so a stop is looked up where its block started.
        place = event.index if started is None else started
        started = event.index if event.event.key == "block_start" else None
        at = bisect_right(ends, (place if event.event.key == "block_stop" else event.index, math.inf))
        samples = samples_count(event)
        if samples is None or at == len(ends):
            continue
        evaluation = run.evaluations[at]
        yield _BlockEvent(
            event=event,
            samples=samples,
            before=ends[at - 1][1] if at else 0,
            after=ends[at][1],
            scheduled=interval if ended_by_max_steps(run, evaluation) else None,
        )


@rule(
    "train.steps",
    source=HARNESS,
    example="a log of 272 steps with 271 `tracked_stats`; one that reports few steps, and none in the second half",
)
def steps(run: Run) -> Iterator[Breach]:
    """Training steps are reported to the end of the run: every step once, or some of them, evenly spaced."""
    if run.aborted:
        return  # Its last step may have failed before it could be reported.
    size, final = run.global_batch_size, run.samples
    expected = final // size  # len() overflows for the numbers that a hostile log may hold.
    # A log may hold a million steps: compare arrays, and build sets only if something is wrong.
    reported = array("d", (step.samples for step in run.log.steps))
    if len(reported) * 2 < expected:
        yield from _sparse(reported, size, expected)
        return
    # NVIDIA's v6.0 logs count the samples before a step, others those after it.
    first = 0 if reported[:1] == array("d", [0]) else size
    due = range(first, final + first - size + 1, size)
    if reported == array("d", due):
        return
    missing = sorted(set(due).difference(reported))
    if len(missing) < expected and missing:
        step = (missing[0] - first) // size + 1
        yield Breach(
            message=f"tracked_stats is missing for step {step} (samples_count {missing[0]})",
            expected=f"one for each of {counted(expected, 'step')} of {size} samples",
            actual=f"{len(missing)} missing",
        )
    elif len(reported) != expected:
        yield Breach(
            message="tracked_stats reports another number of training steps than the run took",
            expected=f"{counted(expected, 'step')} of {size} samples, {final} in all",
            actual=counted(len(reported), "step"),
        )


def _sparse(reported: array[float], size: int, expected: int) -> Iterator[Breach]:
    """Judge a log that reports less than half of its steps: they are evenly spaced and reach to the end of the run."""
    places = [0.0, *reported, float(expected * size)]
    gaps = [later - earlier for earlier, later in pairwise(places)]
    usual = median(gaps[:-1]) if len(reported) > 1 else math.inf
    longest = max(range(len(gaps)), key=gaps.__getitem__)
    if gaps[longest] > 2 * usual:
        yield Breach(
            message="training steps are reported for only a part of the run",
            expected=f"tracked_stats every {usual / size:g} steps, as elsewhere in the log",
            actual=f"none for {gaps[longest] / size:g} steps from samples_count {places[longest]:.0f}",
        )
    else:
        yield Breach(
            message="most training steps are not reported, so they are not judged",
            expected=f"tracked_stats for {counted(expected, 'step')}",
            actual=f"{len(reported)}",
            severity=Severity.INFO,
        )


@rule("train.loss", source=HARNESS, example='`reduced_train_loss` "low"')
def loss(run: Run) -> Iterator[Breach]:
    """A training loss is a positive number."""
    wrong = [step.line for step in run.log.steps if not step.loss > 0]
    if wrong:
        yield Breach(
            message="a training loss is not a positive number",
            line=wrong[0],
            expected="reduced_train_loss > 0",
            actual=f"{counted(len(wrong), 'step')} with another value",
        )


@rule(
    "train.initial_loss",
    source=f"{INITIALIZATION}; {HYPERPARAMETERS}",
    example="a first `reduced_train_loss` of 10.4 for llama31_405b: no checkpoint was loaded; 12.9 for 8B (a WARNING)",
)
def initial_loss(run: Run) -> Iterator[Breach]:
    """In the closed division the first training loss is what the benchmark's weights, tokenizer and model give.

    A loss outside the expected range is a WARNING: seed, precision and other code's initialisation move it. It is an
    ERROR in two cases. A loss nearer to the target than to the range shows that the model was trained before. One that
    is more than 1 nat above the range shows that the checkpoint was not loaded, if the benchmark starts from one.
    """
    benchmark = benchmark_named(run.closed_rules.benchmark)
    low, high = benchmark.initial_train_loss
    first = next(run.log.steps, None)
    if first is None or not _is_of_one_step(run, first) or math.isnan(first.loss):
        return
    if not low <= first.loss <= high:
        trained = first.loss < (low + run.rules.target_log_perplexity) / 2
        not_loaded = benchmark.initial_weights is not None and first.loss > high + FAR
        yield Breach(
            message="the first training loss is not that of the benchmark's initial weights",
            line=first.line,
            expected=f"{low} to {high}",
            actual=f"{first.loss}",
            severity=None if trained or not_loaded else Severity.WARNING,
        )


def _is_of_one_step(run: Run, first: TrainStep) -> bool:
    """Return whether the first report is of the first step alone: most logs of 8B report the mean of several tens."""
    second = next(islice(run.log.steps, 1, None), None)
    apart = second is None or second.samples - first.samples == run.global_batch_size
    every = sum(1 for _ in run.log.steps) * run.global_batch_size * 2 >= run.samples
    return first.samples in (0, run.global_batch_size) and apart and every
