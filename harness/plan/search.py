"""The layouts that a number of GPUs can train in, fastest to the target first.

Layouts are generated, those that do not fit are set aside by memory.py, and the rest are timed at every minibatch.
Whether a run is possible is RunConfig's to say: each candidate goes through it before it is listed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from itertools import product

from benchmark.benchmarks import Benchmark, UnknownRules, find
from benchmark.config import ConfigError, RunConfig
from benchmark.hardware import GPUS, Gpu, gpu_of_system
from benchmark.rules import Rules, RuleViolation
from harness.plan import memory, step_time
from harness.plan.calibration import Calibration
from harness.plan.job import Job
from harness.plan.planner import BF16_GRADIENTS, job_of
from harness.plan.time_to_target import expected_steps

TENSOR = CONTEXT = (1, 2, 4, 8)
MICRO_BATCH = (1, 2, 4)
LONGEST_PIPELINE = 32

LISTED = 20
"""Layouts that a search takes through RunConfig, at most."""

LAYOUT_NAMES = (
    "TENSOR_MODEL_PARALLEL",
    "PIPELINE_MODEL_PARALLEL",
    "INTERLEAVED_PIPELINE",
    "CONTEXT_PARALLEL",
    "MICRO_BATCH_SIZE",
    "MINIBS",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One layout at its best minibatch."""

    config: RunConfig
    values: Mapping[str, str]
    """The variables that say it."""
    job: Job
    step: float
    """Seconds."""
    memory: float
    """Bytes on the worst stage."""
    minutes: float
    """Expected, from run_start to run_stop."""
    kinds: Mapping[str, float]
    """What the minutes are spent on, by step_time.KINDS; evaluations in proportion, opening the data left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why some layouts are not listed."""

    reason: str
    layouts: int
    example: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search came to."""

    gpu: Gpu
    gpus: int
    precision: str
    measured: int
    """As in Plan."""
    spread: float
    """How far off a step may be."""
    graph_gain: float | None
    """As in WithoutGraph; None where steps are as this trainer makes them."""
    candidates: list[Candidate]
    """Fastest first."""
    refusals: list[Refusal]


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """A layout with the two numbers that its step time is linear in: seconds = each * microbatches + once."""

    job: Job
    """Of any number of microbatches."""
    each: float
    once: float
    """The bubble included."""

    def minibatches(self, largest: int) -> range:
        """Sequences a replica that whole microbatches, and whole rounds of an interleaved pipeline, divide into."""
        job = self.job
        least = job.micro_batch * (job.pipeline if job.chunks > 1 else 1)
        return range(least, largest // job.data + 1, least)

    def step(self, minibatch: int) -> float:
        return self.each * minibatch / self.job.micro_batch + self.once

    def values(self, minibatch: int) -> dict[str, str]:
        """The layout's variables."""
        job = self.job
        sizes = (job.tensor, job.pipeline, job.chunks, job.context, job.micro_batch, minibatch)
        return dict(zip(LAYOUT_NAMES, map(str, sizes), strict=True))


def _name(job: Job) -> str:
    return f"tp{job.tensor}pp{job.pipeline}vp{job.chunks}cp{job.context}mbs{job.micro_batch}"


class _Refusals:
    """Refusals by reason: how many, and the nearest miss."""

    def __init__(self) -> None:
        self._layouts: Counter[str] = Counter()
        self._examples: dict[str, tuple[float, str]] = {}

    def add(self, reason: str, example: str, miss: float = 0.0) -> None:
        self._layouts[reason] += 1
        if reason not in self._examples or miss < self._examples[reason][0]:
            self._examples[reason] = (miss, example)

    def listed(self) -> list[Refusal]:
        return [
            Refusal(reason=reason, layouts=count, example=self._examples[reason][1])
            for reason, count in self._layouts.most_common()
        ]


def bare_values(benchmark: Benchmark, gpu: Gpu, nodes: int, gpus_per_node: int) -> dict[str, str]:
    """The variables of a run by the benchmark's latest rules, without a layout; gradients in bf16, as published."""
    return {
        "BENCHMARK": benchmark.name,
        "RULESET": benchmark.rulesets[-1],
        "DGXSYSTEM": gpu.system,
        "DGXNNODES": str(nodes),
        "DGXNGPU": str(gpus_per_node),
        **BF16_GRADIENTS,
    }


def search(
    base: Mapping[str, str],
    calibration: Calibration,
    gpu: str | None = None,
    *,
    quantised_weights: bool = False,
    listed: int = LISTED,
) -> Found:
    """Every layout for the nodes and GPUs of `base`, a configuration's variables; its own layout does not matter.

    Raises:
        ConfigError: `base` is impossible whatever the layout, its GPU is unknown or lacks the precision.
    """
    job, rules = _job(base, calibration, gpu, quantised_weights)
    refusals = _Refusals()
    shapes = list(_fitting(_shapes(job), refusals, calibration))
    lengths = _Lengths(rules, calibration.evaluation)
    options = [_options(place, shape, lengths) for place, shape in enumerate(shapes)]
    values = {**base, "DGXSYSTEM": job.gpu.system}
    return Found(
        gpu=job.gpu,
        gpus=job.gpus,
        precision=job.precision,
        measured=calibration.measured(job),
        spread=calibration.spread(job),
        graph_gain=calibration.graph_gain(job),
        candidates=list(_accepted(shapes, options, values, calibration, listed, refusals)),
        refusals=refusals.listed(),
    )


def _job(
    base: Mapping[str, str], calibration: Calibration, gpu: str | None, quantised_weights: bool
) -> tuple[Job, Rules]:
    """The job of `base` before it is cut, and its rules."""
    stated = base.get("DGXSYSTEM", "")
    found = gpu_of_system(stated) if gpu is None else GPUS.get(gpu)
    # One GPU at a reference point's batch: possible under any rules, so that a fault is one of `base` itself.
    try:
        points = find(base.get("BENCHMARK", ""), base.get("RULESET") or None).reference_points
    except UnknownRules as error:
        raise ConfigError([str(error)]) from None
    one = {**dict.fromkeys(LAYOUT_NAMES, "1"), "DGXNNODES": "1", "DGXNGPU": "1"}
    one["MINIBS"] = str(points[0].global_batch_size if points else 1)
    one["DGXSYSTEM"] = found.system if found else stated
    config = RunConfig.from_environment({**base, **one})
    job = job_of(config, calibration, gpu, quantised_weights=quantised_weights)
    try:
        gpus = int(base["DGXNNODES"]) * int(base["DGXNGPU"])
    except (KeyError, ValueError):
        raise ConfigError(["DGXNNODES and DGXNGPU say how many GPUs there are; one of them is no number"]) from None
    return replace(job, gpus=gpus), config.rules


def _shapes(job: Job) -> Iterator[Job]:
    """Every cut of the model that its layers, heads and the number of GPUs allow."""
    layers = job.size.layers
    stages = [n for n in range(1, layers + 3) if layers % n == 0 or (layers + 2) % n == 0]
    pipelines = [(pp, n // pp) for n in stages for pp in range(2, min(n, LONGEST_PIPELINE) + 1) if n % pp == 0]
    for tensor, context, micro_batch, cut in product(TENSOR, CONTEXT, MICRO_BATCH, [(1, 1), *pipelines]):
        pipeline, chunks = cut
        if job.gpus % (tensor * pipeline * context) == 0 and job.size.query_groups % tensor == 0:
            yield replace(
                job, tensor=tensor, pipeline=pipeline, chunks=chunks, context=context, micro_batch=micro_batch
            )


def _fitting(jobs: Iterable[Job], refusals: _Refusals, calibration: Calibration) -> Iterator[_Shape]:
    for job in jobs:
        # Activations grow with the microbatches up to the pipeline's depth; a run has at least that many.
        worst = memory.worst(replace(job, microbatches=2 * job.pipeline))
        if memory.fits(worst, job):
            parts = step_time.step(job)
            each = step_time.total(parts.microbatch, calibration.constants)
            once = step_time.total(parts.once, calibration.constants)
            yield _Shape(job=job, each=each, once=once + each * job.bubble)
        else:
            needed, there = (f"{size / memory.GIB:.1f}" for size in (worst.total, job.gpu.memory))
            example = f"{_name(job)}: {needed} of {there} GiB"
            refusals.add("does not fit", example, miss=worst.total)


class _Lengths:
    """How many steps a run takes by global batch size, evaluations included; None where the rules have no schedule."""

    def __init__(self, rules: Rules, ratio: float) -> None:
        self._rules, self._ratio = rules, ratio
        self._known: dict[int, float | None] = {}

    def of(self, gbs: int) -> float | None:
        if gbs not in self._known:
            try:
                self._known[gbs] = expected_steps(self._rules, self._rules.schedule(gbs), self._ratio)
            except RuleViolation:
                self._known[gbs] = None
        return self._known[gbs]

    @property
    def largest_batch(self) -> int:
        """Beyond the largest reference point a submitter has to bring one."""
        points = self._rules.reference_points
        return points[-1].global_batch_size if points else self._rules.largest_batch


_Option = tuple[float, int, int]
"""Seconds of a run's steps and evaluations, sequences a replica and step, and the place of the layout that fits."""


def _options(place: int, shape: _Shape, lengths: _Lengths) -> list[_Option]:
    """A layout at every minibatch that it divides, fastest first."""
    found = []
    for minibatch in shape.minibatches(lengths.largest_batch):
        steps = lengths.of(minibatch * shape.job.data)
        if steps is not None:
            found.append((steps * shape.step(minibatch), minibatch, place))
    return sorted(found)


def _accepted(
    shapes: Sequence[_Shape],
    options: Sequence[list[_Option]],
    base: Mapping[str, str],
    calibration: Calibration,
    listed: int,
    refusals: _Refusals,
) -> Iterator[Candidate]:
    """The fastest (TP, PP, CP) that RunConfig accepts, each at its fastest interleaving, microbatch and minibatch."""
    waiting = [iter(each) for each in options]
    heap = [first for each in waiting if (first := next(each, None)) is not None]
    heapify(heap)
    seen: set[tuple[int, int, int]] = set()
    while heap and len(seen) < listed:
        seconds, minibatch, place = heappop(heap)
        shape = shapes[place]
        cut = (shape.job.tensor, shape.job.pipeline, shape.job.context)
        if cut in seen:
            continue
        values = {**base, **shape.values(minibatch)}
        try:
            config = RunConfig.from_environment(values)
        except ConfigError as error:
            refusals.add("refused by the configuration's rules", f"{_name(shape.job)}: {error.faults[0]}")
            following = next(waiting[place], None)
            if following is not None:
                heappush(heap, following)
            continue
        seen.add(cut)
        job = replace(shape.job, microbatches=config.layout.gradient_accumulation_steps)
        parts = step_time.breakdown(job, calibration.constants)
        steps = seconds / shape.step(minibatch)
        yield Candidate(
            config=config,
            values=values,
            job=job,
            step=shape.step(minibatch),
            memory=memory.worst(job).total,
            minutes=(calibration.start + seconds) / 60,
            kinds={kind: steps * sum(parts[part] for part in of) / 60 for kind, of in step_time.KINDS.items()},
        )
