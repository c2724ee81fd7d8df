"""What a report shows of results, as values: every number of the page, of the Markdown and of the table is made here.

The verdict is `compliance check`'s, the score `compliance score`'s, the reference `compliance rcp`'s; nothing is parsed
or judged again.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, median, pstdev

from benchmark.benchmarks import BENCHMARKS, benchmark_named
from benchmark.convergence import Record, find_record
from benchmark.files import RUN_JSON
from benchmark.hardware import Gpu, gpu_of_system
from benchmark.mllog import Event
from benchmark.refusal import Refused
from benchmark.rules import Rules
from benchmark.run_record import RunRecord, read
from benchmark.sizes import SIZES, ModelSize
from compliance.check import LogGroup, check_paths, find_logs, open_results
from compliance.checks.rule import Absent
from compliance.checks.systems import System
from compliance.convergence.rcp import Convergence, compare, samples_to_target
from compliance.convergence.score import Score, minutes_to_target, score
from compliance.findings import Finding, Severity, as_count, as_number, count, show
from compliance.result import Result, in_capitals
from compliance.run import Run
from report.series import LARGEST, Point, drawable, quantile
from report.telemetry import Telemetry, read_telemetry

MAX_MEASURES = 40
"""Names of other measurements of a run that are shown."""

SLOW = 1.2
"""A step that takes so many times the median is called slow."""

_SHOWN = 200
"""Characters of what a run says of a checkpoint."""

_EVERYWHERE = frozenset({"results", *BENCHMARKS})
"""Folders between an organisation and its logs that tell no results apart."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a run's time, in seconds from run_start."""

    kind: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


KINDS = ("initialisation", "training", "evaluation", "other")
"""What the time of a run goes into; `other` is the time between the clock's start and stop that is none of these."""


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
    """(sequences trained on, seconds) of the steps that took SLOW times the median or longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A number that a run logged about itself, several times."""

    name: str
    count: int
    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowRank:
    """A rank that a run named among its slowest, once or several times."""

    rank: int
    node: str
    count: int
    median: float
    """Of its ratios to the median rank of its pipeline stage."""
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
        """To the target; None where it was not reached."""
        return minutes_to_target(self.run)

    @cached_property
    def samples(self) -> int | None:
        """Sequences to the target."""
        return samples_to_target(self.run)

    @cached_property
    def evaluations(self) -> list[Point]:
        """(sequences trained on, log perplexity)."""
        found = ((float(one.position), one.log_perplexity) for one in self.run.evaluations if _small(one.position))
        return drawable((samples, value) for samples, value in found if value is not None)

    @cached_property
    def losses(self) -> list[Point]:
        """(sequences trained on, training loss)."""
        return drawable((step.samples, step.loss) for step in self.run.log.steps)

    @cached_property
    def step_seconds(self) -> list[Point]:
        """(sequences trained on, seconds) of each step."""
        return drawable((step.samples, step.seconds) for step in self.run.log.steps)

    @cached_property
    def step_times(self) -> StepTimes | None:
        """None where no step says how long it took."""
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
    def spans(self) -> list[Span]:
        """Initialisation, blocks of training and evaluations, in the order of their starts."""
        origin = self._time("run_start")
        pairs = [("initialisation", ("init_start", "init_stop"))]
        pairs += [("training", ("block_start", "block_stop")), ("evaluation", ("eval_start", "eval_stop"))]
        if origin is None:
            return []
        found = [Span(kind, *span) for kind, keys in pairs for span in self._between(*keys, origin=origin)]
        return sorted(found, key=lambda span: span.start)

    @cached_property
    def shares(self) -> Mapping[str, float]:
        """Seconds by kind; empty where the run did not stop."""
        start, stop = self._time("run_start"), self._time("run_stop")
        if start is None or stop is None or not 0 < stop - start < LARGEST:
            return {}
        spent = {kind: math.fsum(span.seconds for span in self.spans if span.kind == kind) for kind in KINDS[:-1]}
        timed = spent["training"] + spent["evaluation"]
        return spent | {"other": (stop - start) / 1000 - timed}

    @property
    def timed(self) -> float:
        """Seconds from run_start to run_stop; 0 where the run did not stop."""
        return math.fsum(self.shares.get(kind, 0.0) for kind in KINDS[1:])

    @cached_property
    def warm_up(self) -> float | None:
        """Seconds of initialisation that the run says were warm-up."""
        return next((value for name, value in self._logged() if name == "warmup_time"), None)

    @cached_property
    def measures(self) -> list[Measure]:
        """What the run logged beside its training steps: memory, throughput, times."""
        found: defaultdict[str, list[float]] = defaultdict(list)
        for name, value in self._logged():
            if name in found or len(found) < MAX_MEASURES:
                found[name].append(value)
        return [
            Measure(name=name, count=len(values), low=min(values), median=median(values), high=max(values))
            for name, values in found.items()
        ]

    @cached_property
    def slow_ranks(self) -> list[SlowRank]:
        """The ranks that it named, the slowest first; see benchmark.stragglers."""
        return _slow_ranks(one for named in self._stragglers for one in named)

    @property
    def latest_slow_ranks(self) -> list[SlowRank]:
        """Those of its last report."""
        return _slow_ranks(self._stragglers[-1] if self._stragglers else [])

    @cached_property
    def _stragglers(self) -> list[list[tuple[int, str, float]]]:
        """Rank, node and ratio of each that a report names; a list for each report."""
        values = (event.event.value for event in self.run.all("tracked_stats"))
        reports = (value.get("slowest_ranks") for value in values if isinstance(value, dict))
        return [list(filter(None, map(_straggler, report))) for report in reports if isinstance(report, list)]

    @property
    def checkpoint_faults(self) -> list[str]:
        """What it said of saves that failed, and of damaged checkpoints that it passed over."""
        return [said for event in self.run.all("tracked_stats") for said in _checkpoint_faults(event.event)]

    @cached_property
    def telemetry(self) -> Telemetry:
        """Of its nodes, by the files beside the log."""
        return read_telemetry(self.run.log.path, self._time("run_start"))

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
        except Absent:
            return None
        return time if _small(time) else None

    def _between(self, start_key: str, end_key: str, *, origin: float) -> Iterator[tuple[float, float]]:
        """Each end with the start before it, in seconds from the origin."""
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


def _slow_ranks(named: Iterable[tuple[int, str, float]]) -> list[SlowRank]:
    found: defaultdict[tuple[int, str], list[float]] = defaultdict(list)
    for rank, node, ratio in named:
        found[rank, node].append(ratio)
    ranks = (
        SlowRank(rank=rank, node=node, count=len(ratios), median=median(ratios), high=max(ratios))
        for (rank, node), ratios in found.items()
    )
    return sorted(ranks, key=lambda one: one.median, reverse=True)


def _small(value: float) -> bool:
    return abs(value) <= LARGEST


@dataclass(frozen=True, kw_only=True)
class ResultFacts:
    """The runs of one directory, or one log."""

    name: str
    """What tells it from the other results of a report."""
    result: Result
    group: LogGroup
    findings: tuple[Finding, ...]
    """Of its logs, of the runs together, and of its system."""
    record: RunRecord
    """run.json; empty where there is none, or it cannot be read, which is a finding of run.provenance."""

    @cached_property
    def runs(self) -> list[RunFacts]:
        return [RunFacts(run) for run in self.result.runs]

    @cached_property
    def score(self) -> Score:
        return score(self.result)

    @cached_property
    def convergence(self) -> Convergence:
        return compare(self.result)

    @cached_property
    def reference(self) -> Record | None:
        """What the reference needs at its batch size, whether or not the runs are enough to be compared with it."""
        if self.rules is None or self.global_batch_size is None:
            return None
        return find_record(self.rules, self.global_batch_size)[1]

    @property
    def rules(self) -> Rules | None:
        return self.result.row

    @property
    def passed(self) -> bool:
        return count(self.findings, Severity.ERROR) == 0

    @property
    def global_batch_size(self) -> int | None:
        size = self.convergence.global_batch_size
        return size if size is not None and _small(size) else None

    @cached_property
    def system(self) -> Mapping[str, object]:
        """The description of its system; empty where there is none."""
        description = self._system.description if self._system is not None else ""
        return {} if isinstance(description, str) else description

    @property
    def _system(self) -> System | None:
        return None if self.group.system is None else System(self.group.system, (self.result,))

    @cached_property
    def gpus(self) -> int | None:
        """By the system's description, else by run.json; ranks where they are no GPUs."""
        try:
            if self._system is not None:
                return self._system.accelerators
        except Absent:
            pass
        nodes, each = as_count(self.record.setting("DGXNNODES")), as_count(self.record.setting("DGXNGPU"))
        product = (nodes or 0) * (each or 0)
        return product if product and _small(product) else None

    @cached_property
    def gpu(self) -> Gpu | None:
        """The model, by the system's description, the name of the system, or the platform that the logs name."""
        platforms = [run.value("submission_platform") for run in self.result.runs if run.has("submission_platform")]
        named = [self.system.get("accelerator_model_name"), self.record.system, *platforms[:1]]
        return next((gpu for name in named if isinstance(name, str) and (gpu := gpu_of_system(name))), None)

    @cached_property
    def precision(self) -> str | None:
        """Of the linear layers, by the logs or by run.json."""
        stated = [run.value(_PRECISION) for run in self.result.runs if run.has(_PRECISION)]
        value = stated[0] if stated else self.record.setting("PRECISION")
        return value if isinstance(value, str) else None

    @cached_property
    def median_step(self) -> float | None:
        """Seconds; the median of all steps of all runs."""
        seconds = [value for run in self.runs for _, value in run.step_seconds]
        return (median(seconds) or None) if seconds else None

    @cached_property
    def sequences_per_second(self) -> float | None:
        """Global batch size / median step."""
        if self.median_step is None or not self.global_batch_size:
            return None
        return self.global_batch_size / self.median_step

    @property
    def tokens_per_second(self) -> float | None:
        rate = self.sequences_per_second
        return None if rate is None or self.rules is None else rate * self.rules.sequence_length

    @property
    def flops_per_sequence(self) -> int | None:
        """Of the model, forward and backward; see benchmark.sizes."""
        if self.rules is None or self.network is None:
            return None
        vocabulary = benchmark_named(self.rules.benchmark).vocabulary
        return self.network.flops_per_sample(self.rules.sequence_length, vocabulary)

    @property
    def network(self) -> ModelSize | None:
        """What was trained: the benchmark's, unless the logs name another of the open division."""
        if self.rules is None:
            return None
        named = [run.value("model_size") for run in self.result.runs if run.has("model_size")]
        return SIZES.get(str(named[0])) if named else benchmark_named(self.rules.benchmark).size

    @property
    def teraflops(self) -> float | None:
        """TFLOP/s of one GPU, or of one rank where there are none."""
        rate, work = self.sequences_per_second, self.flops_per_sequence
        return None if rate is None or work is None or not self.gpus else rate * work / self.gpus / 1e12

    def utilisation(self, precision: str) -> float | None:
        """Model FLOP/s over the GPU's dense peak in a precision (MFU); None where either is unknown."""
        peak = None if self.gpu is None else self.gpu.peak(precision)
        return None if peak is None or self.teraflops is None else self.teraflops * 1e12 / peak

    @property
    def verdict(self) -> str:
        """Whether it passes, and why it does not count where its logs say so."""
        return ", ".join(filter(None, ("PASS" if self.passed else "FAIL", in_capitals(self.result.marks))))


_PRECISION = "lowest_numerical_precision_in_linear"


def gather(paths: Sequence[Path], ruleset: str | None = None) -> list[ResultFacts]:
    """The results under some paths, judged as `compliance check` does.

    Raises:
        NoLogs: as compliance.check.find_logs.
    """
    opened = open_results(find_logs(paths), ruleset)
    findings = check_paths(paths, ruleset).findings
    names = _names([group.path for group, _ in opened])
    return [_facts(group, result, name, findings) for (group, result), name in zip(opened, names, strict=True)]


def published(folder: Path) -> list[ResultFacts]:
    """Published results, each judged by the rules of its own round; without their findings.

    Raises:
        NoLogs: as compliance.check.find_logs.
    """
    opened = open_results(find_logs([folder]))
    names = _names([result.directory for _, result in opened])
    return [_facts(group, result, name, ()) for (group, result), name in zip(opened, names, strict=True)]


def _facts(group: LogGroup, result: Result, name: str, findings: Iterable[Finding]) -> ResultFacts:
    files = {run.file for run in result.runs}
    if group.is_result:
        files |= {result.file, str(group.system), str(group.organisation)}
    return ResultFacts(
        name=name,
        result=result,
        group=group,
        findings=tuple(finding for finding in findings if finding.file in files),
        record=_record(group.paths[0].with_name(RUN_JSON)),
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """The ends of the paths in which they differ, without the folders that every submission has."""
    parts = [[part for part in path.resolve().parts if part not in _EVERYWHERE] or list(path.parts) for path in paths]
    if len(parts) == 1:
        return ["/".join(parts[0][-2:])]
    shared = 0
    while all(len(one) > shared + 1 and one[shared] == parts[0][shared] for one in parts):
        shared += 1
    return ["/".join(one[shared:]) for one in parts]


def _record(path: Path) -> RunRecord:
    try:
        return read(path)
    except (OSError, Refused):
        return RunRecord()
