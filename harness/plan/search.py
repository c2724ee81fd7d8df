"""The layouts in which a number of GPUs can train, the fastest to the target first.

Layouts are generated, memory.py sets aside those that do not fit, and the rest are timed at every minibatch. RunConfig
decides whether a run is possible: each candidate goes through it before it is listed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush

from benchmark.benchmarks import Benchmark, find
from benchmark.config import ConfigError, RunConfig
from benchmark.hardware import GPUS, Gpu, gpu_of_system
from benchmark.rules import Rules
from harness.plan import layouts, memory, step_time
from harness.plan.calibration import Calibration
from harness.plan.job import TrainingJob
from harness.plan.layouts import LAYOUT_NAMES, Lengths, TimedLayout, cuts, name, options, timed
from harness.plan.planner import BF16_GRADIENTS, job_of

LISTED = 20
"""Most layouts that a search takes through RunConfig."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One layout at its best minibatch."""

    config: RunConfig
    values: Mapping[str, str]
    """The variables that select it."""
    job: TrainingJob
    step: float
    """Seconds."""
    memory: float
    """Bytes on the worst stage."""
    minutes: float
    """Expected minutes from run_start to run_stop."""
    kinds: Mapping[str, float]
    """The parts of the minutes, by step_time.KINDS; evaluations in proportion, without opening data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why some layouts are not listed."""

    reason: str
    layouts: int
    example: str


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The result of a search."""

    gpu: Gpu
    gpus: int
    precision: str
    measured: int
    """As in Plan."""
    spread: float
    """Possible relative error of a step."""
    graph_gain: float | None
    """As in WithoutGraph; None if steps are as this trainer makes them."""
    candidates: list[Candidate]
    """Candidates, the fastest first."""
    refusals: list[Refusal]


class Refusals:
    """Refusals by reason: their number, and the nearest miss."""

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
    """Return the variables of a run by the benchmark's latest rules, without a layout; gradients in bf16."""
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
) -> SearchResult:
    """Search every layout for the nodes and GPUs of `base`, a configuration's variables, whatever its layout.

    Raises:
        ConfigError: `base` is impossible in any layout, or its GPU is unknown or lacks the precision.
    """
    job, rules = uncut(base, calibration, gpu, quantised_weights)
    refusals = Refusals()
    shapes = list(_fitting(job, refusals, calibration))
    lengths = Lengths(rules, calibration.of(job.size).evaluation)
    return SearchResult(
        gpu=job.gpu,
        gpus=job.gpus,
        precision=job.precision,
        measured=calibration.measured(job),
        spread=calibration.spread(job),
        graph_gain=calibration.graph_gain(job),
        candidates=list(accepted(shapes, lengths, base, calibration, listed, refusals)),
        refusals=refusals.listed(),
    )


def uncut(
    base: Mapping[str, str], calibration: Calibration, gpu: str | None, quantised_weights: bool
) -> tuple[TrainingJob, Rules]:
    """Return the job of `base` before it is divided, and its rules."""
    stated = base.get("DGXSYSTEM", "")
    device = gpu_of_system(stated) if gpu is None else GPUS.get(gpu)
    # One GPU at a reference point's batch is possible under any rules, so any fault is one of `base` itself.
    points = find(base.get("BENCHMARK", ""), base.get("RULESET") or None).reference_points
    one_gpu = {**dict.fromkeys(LAYOUT_NAMES, "1"), "DGXNNODES": "1", "DGXNGPU": "1"}
    one_gpu["MINIBS"] = str(points[0].global_batch_size if points else 1)
    one_gpu["DGXSYSTEM"] = device.system if device else stated
    config = RunConfig.from_environment({**base, **one_gpu})
    job = job_of(config, calibration, gpu, quantised_weights=quantised_weights)
    try:
        gpus = int(base["DGXNNODES"]) * int(base["DGXNGPU"])
    except (KeyError, ValueError):
        raise ConfigError(
            ["DGXNNODES and DGXNGPU give the number of GPUs; expected a number in each, one is not"]
        ) from None
    return replace(job, gpus=gpus), config.rules


def _fitting(job: TrainingJob, refusals: Refusals, calibration: Calibration) -> Iterator[TimedLayout]:
    for cut in cuts(job):
        if cut.gpus % cut.ranks:
            continue
        worst = layouts.worst(cut)
        if memory.fits(worst, cut):
            yield timed(cut, calibration)
        else:
            sizes = worst.total, cut.gpu.memory, worst.total - cut.gpu.memory
            needed, there, missing = (f"{size / memory.GIB:.1f}" for size in sizes)
            example = f"{name(cut)}: {needed} of {there} GiB, {missing} missing"
            refusals.add("does not fit", example, miss=worst.total)


def accepted(
    shapes: Sequence[TimedLayout],
    lengths: Lengths,
    base: Mapping[str, str],
    calibration: Calibration,
    listed: int,
    refusals: Refusals,
) -> Iterator[Candidate]:
    """Yield the fastest (TP, PP, CP) that RunConfig accepts, each with its fastest VP, MBS and MINIBS."""
    waiting = [iter(options(place, shape, lengths)) for place, shape in enumerate(shapes)]
    heap = []
    for shape, each in zip(shapes, waiting, strict=True):
        first = next(each, None)
        if first is None:
            reason = f"no global batch up to {lengths.largest_batch:,}, the largest reference point's, has a schedule"
            refusals.add(reason, f"{name(shape.job)}: it starts at {shape.least * shape.job.data:,}")
        else:
            heap.append(first)
    heapify(heap)
    seen: set[tuple[int, int, int]] = set()
    while heap and len(seen) < listed:
        seconds, minibatch, place = heappop(heap)
        shape = shapes[place]
        cut = (shape.job.tensor, shape.job.pipeline, shape.job.context)
        if cut in seen:
            continue
        values = {**base, "DGXSYSTEM": shape.job.gpu.system, **shape.values(minibatch)}
        try:
            config = RunConfig.from_environment(values)
        except ConfigError as error:
            refusals.add("refused by the configuration's rules", f"{name(shape.job)}: {error.faults[0]}")
            following = next(waiting[place], None)
            if following is not None:
                heappush(heap, following)
            continue
        seen.add(cut)
        job = replace(shape.job, microbatches=config.layout.gradient_accumulation_steps)
        known = calibration.of(job.size)
        parts = step_time.breakdown(job, known.constants)
        steps = seconds / shape.step(minibatch)
        yield Candidate(
            config=config,
            values=values,
            job=job,
            step=shape.step(minibatch),
            memory=memory.worst(job).total,
            minutes=(known.start + seconds) / 60,
            kinds={kind: steps * sum(parts[part] for part in of) / 60 for kind, of in step_time.KINDS.items()},
        )
