"""Describes one run by values: its curves, where its time went, how long its steps took.

Each value is computed when it is first needed: `watch` needs few of them, often; report.results needs all, once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, median, pstdev

from benchmark.mllog import Event
from compliance.checks.rule import AbsentError
from compliance.convergence.rcp import samples_to_target
from compliance.convergence.score import minutes_to_target
from compliance.findings import as_number, show
from compliance.run import Run
from report.series import LARGEST, Point, drawable, quantile
from report.telemetry import Telemetry, read_telemetry

MAX_MEASURES = 40
"""Most names of other measurements of a run that are kept."""

SLOW = 1.2
"""A step is slow if it takes this many times the median."""

_SHOWN = 200
"""Most characters of a message about a checkpoint."""


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """A part of a run's time, in seconds from run_start."""

    kind: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


KINDS = ("initialisation", "training", "evaluation", "other")
"""Where a run's time goes; `other` is the time between run_start and run_stop that is none of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Seconds that the training steps of a run took."""

    count: int
    mean: float
    median: float
    deviation: float
    p99: float
    longest: float
    slow: tuple[Point, ...]
    """(samples trained on, seconds) of the steps that took SLOW times the median or longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A number that a run logged, usually several times."""

    name: str
    count: int
    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowRankCount:
    """A rank that a run reported among its slowest."""

    rank: int
    node: str
    count: int
    median: float
    """Median of its ratios to the median rank of its pipeline stage."""
    high: float


@dataclass(frozen=True)
class RunFacts:
    """One run."""

    run: Run

    @property
    def name(self) -> str:
        return self.run.log.path.name

    @property
    def seed(self) -> str:
        return show(self.run.value("seed")) if self.run.has("seed") else "none"

    @property
    def status(self) -> str:
        return str(self.run.status)[:40] if self.run.has("run_stop") else "not stopped"

    @cached_property
    def minutes(self) -> float | None:
        """Return the minutes to the target; None if it was not reached."""
        return minutes_to_target(self.run)

    @cached_property
    def samples(self) -> int | None:
        """Return the samples to the target."""
        return samples_to_target(self.run)

    @cached_property
    def evaluations(self) -> list[Point]:
        """Return (samples trained on, log perplexity) of each evaluation."""
        points = (
            (float(evaluation.position), evaluation.log_perplexity)
            for evaluation in self.run.evaluations
            if _small(evaluation.position)
        )
        return drawable((samples, value) for samples, value in points if value is not None)

    @cached_property
    def losses(self) -> list[Point]:
        """Return (samples trained on, training loss) of each step."""
        return drawable((step.samples, step.loss) for step in self.run.log.steps)

    @cached_property
    def step_seconds(self) -> list[Point]:
        """Return (samples trained on, seconds) of each step."""
        return drawable((step.samples, step.seconds) for step in self.run.log.steps)

    @cached_property
    def step_times(self) -> StepTimes | None:
        """Return the times of the steps; None if no step was timed."""
        ordered = sorted(seconds for _, seconds in self.step_seconds)
        if not ordered:
            return None
        middle = median(ordered)
        return StepTimes(
            count=len(ordered),
            mean=fmean(ordered),
            median=middle,
            deviation=pstdev(ordered),
            p99=quantile(ordered, 0.99),
            longest=ordered[-1],
            slow=tuple(point for point in self.step_seconds if point[1] >= SLOW * middle > 0),
        )

    @cached_property
    def spans(self) -> list[TimeSpan]:
        """Return initialisation, blocks of training and evaluations, in the order of their starts."""
        origin = self.started_ms
        pairs = [("initialisation", ("init_start", "init_stop"))]
        pairs += [("training", ("block_start", "block_stop")), ("evaluation", ("eval_start", "eval_stop"))]
        if origin is None:
            return []
        time_spans = [TimeSpan(kind, *span) for kind, keys in pairs for span in self._between(*keys, origin=origin)]
        return sorted(time_spans, key=lambda span: span.start)

    @cached_property
    def shares(self) -> Mapping[str, float]:
        """Return seconds by kind; empty if the run did not stop."""
        start, stop = self.started_ms, self._time("run_stop")
        if start is None or stop is None or not 0 < stop - start < LARGEST:
            return {}
        spent = {kind: math.fsum(span.seconds for span in self.spans if span.kind == kind) for kind in KINDS[:-1]}
        timed = spent["training"] + spent["evaluation"]
        return spent | {"other": (stop - start) / 1000 - timed}

    @property
    def timed(self) -> float:
        """Return the seconds from run_start to run_stop; 0 if the run did not stop."""
        return math.fsum(self.shares.get(kind, 0.0) for kind in KINDS[1:])

    @cached_property
    def warm_up(self) -> float | None:
        """Return the seconds of initialisation that the run logged as warm-up."""
        return next((value for name, value in self._logged() if name == "warmup_time"), None)

    @cached_property
    def measures(self) -> list[Measure]:
        """Return what the run logged besides its training steps: memory, throughput, times."""
        found: defaultdict[str, list[float]] = defaultdict(list)
        for name, value in self._logged():
            if name in found or len(found) < MAX_MEASURES:
                found[name].append(value)
        return [
            Measure(name=name, count=len(values), low=min(values), median=median(values), high=max(values))
            for name, values in found.items()
        ]

    @cached_property
    def slow_ranks(self) -> list[SlowRankCount]:
        """Return the ranks that it reported as slow, the slowest first; see benchmark.stragglers."""
        return _slow_ranks(one for named in self._stragglers for one in named)

    @property
    def latest_slow_ranks(self) -> list[SlowRankCount]:
        """Return the slow ranks of its last report."""
        return _slow_ranks(self._stragglers[-1] if self._stragglers else [])

    @cached_property
    def _stragglers(self) -> list[list[tuple[int, str, float]]]:
        """Return a list for each report: rank, node and ratio of each rank in it."""
        values = (event.event.value for event in self.run.all("tracked_stats"))
        reports = (value.get("slowest_ranks") for value in values if isinstance(value, dict))
        return [list(filter(None, map(_straggler, report))) for report in reports if isinstance(report, list)]

    @property
    def checkpoint_faults(self) -> list[str]:
        """Return a line for each failed save, and for each damaged checkpoint that the run did not resume from."""
        return [fault for event in self.run.all("tracked_stats") for fault in _checkpoint_faults(event.event)]

    @cached_property
    def telemetry(self) -> Telemetry:
        """Return what its nodes measured, from the files next to the log."""
        return read_telemetry(self.run.log.path, self.started_ms)

    @property
    def started_ms(self) -> float | None:
        """Return the time of run_start in ms since the epoch; None without one."""
        return self._time("run_start")

    def _logged(self) -> Iterator[tuple[str, float]]:
        for event in self.run.all("tracked_stats"):
            value = event.event.value
            for name, item in value.items() if isinstance(value, dict) else ():
                number = as_number(item)
                if number is not None and abs(number) <= LARGEST:
                    yield name, number

    def _time(self, key: str) -> float | None:
        try:
            time = self.run.first(key).event.time_ms
        except AbsentError:
            return None
        return time if _small(time) else None

    def _between(self, start_key: str, end_key: str, *, origin: float) -> Iterator[tuple[float, float]]:
        """Yield each start with the end that follows it, in seconds from the origin."""
        started = None
        for event in self.run.in_order((start_key, end_key)):
            time = event.event.time_ms
            if not _small(time):
                continue
            if event.event.key == start_key:
                started = time if started is None else started
            elif started is not None and time >= started:
                yield (started - origin) / 1000, (time - origin) / 1000
                started = None


def _checkpoint_faults(event: Event) -> Iterator[str]:
    match event.value:
        case {"save_failed": str(fault)}:
            yield f"step {show(event.metadata.get('step'))} was not saved: {fault[:_SHOWN]}"
        case {"damaged": list(damaged)}:
            yield from (said[:_SHOWN] for said in damaged if isinstance(said, str))


def _straggler(named: object) -> tuple[int, str, float] | None:
    match named:
        case {"rank": int(rank), "node": str(node), "ratio": float(ratio)} if 0 <= rank <= LARGEST >= ratio:
            return rank, node[:40], ratio
    return None


def _slow_ranks(named: Iterable[tuple[int, str, float]]) -> list[SlowRankCount]:
    found: defaultdict[tuple[int, str], list[float]] = defaultdict(list)
    for rank, node, ratio in named:
        found[rank, node].append(ratio)
    ranks = (
        SlowRankCount(rank=rank, node=node, count=len(ratios), median=median(ratios), high=max(ratios))
        for (rank, node), ratios in found.items()
    )
    return sorted(ranks, key=lambda one: one.median, reverse=True)


def _small(value: float) -> bool:
    return abs(value) <= LARGEST
