"""The ways to divide a model over GPUs, and the step time of each at every number of GPUs and every minibatch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from benchmark.rules import Rules, RuleViolationError
from harness.plan import memory, step_time
from harness.plan.calibration import Calibration
from harness.plan.job import TrainingJob
from harness.plan.time_to_target import expected_steps

TENSOR = CONTEXT = (1, 2, 4, 8)
MICRO_BATCH = (1, 2, 4)
LONGEST_PIPELINE = 32
"""The sizes that a search tries, and its most pipeline stages: twice those of the deepest published layout."""

LAYOUT_NAMES = (
    "TENSOR_MODEL_PARALLEL",
    "PIPELINE_MODEL_PARALLEL",
    "INTERLEAVED_PIPELINE",
    "CONTEXT_PARALLEL",
    "MICRO_BATCH_SIZE",
    "MINIBS",
)


@dataclass(frozen=True, kw_only=True)
class TimedLayout:
    """A layout and the two numbers that determine its step time in seconds: each * microbatches + once."""

    job: TrainingJob
    """The layout, for any number of microbatches."""
    each: float
    once: float
    """Seconds once a step, including the bubble."""
    shared: float
    """The part of `once` that more GPUs share among them: the optimizer."""

    @property
    def least(self) -> int:
        """Smallest minibatch, in samples of a replica, of whole microbatches and an interleaved pipeline's rounds."""
        return self.job.micro_batch * (self.job.pipeline if self.job.chunks > 1 else 1)

    def minibatches(self, largest: int) -> range:
        """Return every minibatch with a global batch of at most `largest`."""
        return range(self.least, largest // self.job.data + 1, self.least)

    def step(self, minibatch: int) -> float:
        return self.each * minibatch / self.job.micro_batch + self.once

    def values(self, minibatch: int) -> dict[str, str]:
        """Return the layout's variables."""
        job = self.job
        sizes = (job.tensor, job.pipeline, job.chunks, job.context, job.micro_batch, minibatch)
        return dict(zip(LAYOUT_NAMES, map(str, sizes), strict=True))


def name(job: TrainingJob) -> str:
    return f"tp{job.tensor}pp{job.pipeline}vp{job.chunks}cp{job.context}mbs{job.micro_batch}"


def cuts(job: TrainingJob) -> Iterator[TrainingJob]:
    """Yield every division of the model that its layers and heads allow, whatever the number of GPUs."""
    layers = job.size.layers
    stages = [n for n in range(1, layers + 3) if layers % n == 0 or (layers + 2) % n == 0]
    pipelines = [(pp, n // pp) for n in stages for pp in range(2, min(n, LONGEST_PIPELINE) + 1) if n % pp == 0]
    for tensor, context, micro_batch, cut in product(TENSOR, CONTEXT, MICRO_BATCH, [(1, 1), *pipelines]):
        pipeline, chunks = cut
        if job.size.query_groups % tensor == 0:
            yield replace(
                job, tensor=tensor, pipeline=pipeline, chunks=chunks, context=context, micro_batch=micro_batch
            )


def worst(job: TrainingJob) -> memory.Stage:
    """Return the stage that needs most memory, at any minibatch.

    Activations grow with the microbatches up to the pipeline's depth; a run has at least that many.
    """
    return memory.worst(replace(job, microbatches=2 * job.pipeline))


def timed(job: TrainingJob, calibration: Calibration) -> TimedLayout:
    parts, constants = step_time.step(job), calibration.of(job.size).constants
    each = step_time.total(parts.microbatch, constants)
    once = step_time.total(parts.once, constants)
    shared = step_time.total((term for term in parts.once if term.part == "optimizer"), constants)
    return TimedLayout(job=job, each=each, once=once + each * job.bubble, shared=shared)


class Lengths:
    """How many steps a run takes by global batch size, with evaluations; None if the rules have no schedule."""

    def __init__(self, rules: Rules, ratio: float) -> None:
        self._rules, self._ratio = rules, ratio
        self._known: dict[int, float | None] = {}

    def of(self, gbs: int) -> float | None:
        if gbs not in self._known:
            try:
                self._known[gbs] = expected_steps(self._rules, self._rules.schedule(gbs), self._ratio)
            except RuleViolationError:
                self._known[gbs] = None
        return self._known[gbs]

    @property
    def largest_batch(self) -> int:
        """Largest batch; with a larger one than the largest reference point's, a submitter must provide a new point."""
        points = self._rules.reference_points
        return points[-1].global_batch_size if points else self._rules.largest_batch


Option = tuple[float, int, int]
"""Seconds of a run's steps and evaluations, samples of a replica and step, and the place of the layout that fits."""


def options(place: int, shape: TimedLayout, lengths: Lengths) -> list[Option]:
    """Return a layout's options at every minibatch that it divides, the fastest first."""
    timed_sizes = []
    for minibatch in shape.minibatches(lengths.largest_batch):
        steps = lengths.of(minibatch * shape.job.data)
        if steps is not None:
            timed_sizes.append((steps * shape.step(minibatch), minibatch, place))
    return sorted(timed_sizes)
