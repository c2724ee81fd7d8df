"""Summarises results: every number of the page, the Markdown and the CSV comes from here.

The verdict is `llama31 check`'s, the score `llama31 score`'s, the reference `llama31 rcp`'s: nothing is judged again.
Only what a report shows is kept of each log, so that a whole round fits into memory.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from benchmark.benchmarks import BENCHMARKS, benchmark_named
from benchmark.convergence import ReferenceRecord, find_record
from benchmark.errors import RefusedError
from benchmark.files import RUN_JSON
from benchmark.hardware import Gpu, gpu_of_system
from benchmark.rules import Rules
from benchmark.run_record import RunRecord, Scalar, read
from benchmark.sizes import SIZES, ModelSize
from compliance.check import LogGroup, NoLogsError, Opened, check_in_turn, find_logs, open_results
from compliance.checks.rule import AbsentError
from compliance.checks.systems import System
from compliance.convergence.rcp import Convergence, compare
from compliance.convergence.score import Score, score
from compliance.findings import Finding, Severity, as_count, count, show
from compliance.result import Result, in_capitals
from compliance.ruleset import judged_by
from compliance.run import Run
from report.facts import Measure, RunFacts, SlowRankCount, StepTimes, TimeSpan
from report.series import LARGEST
from report.telemetry import Telemetry

_EVERYWHERE = frozenset({"results", *BENCHMARKS})
"""Folders between an organisation and its logs whose names distinguish no results."""

_MOST_NAME = 60
"""Most characters of a name, or of another text of a log, that a table shows."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """Values over a run."""

    samples: Numbers
    """Samples trained on so far."""
    minutes: Numbers
    """Minutes from run_start, or from the first value if there is none."""
    values: Numbers

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One run."""

    name: str
    seed: str
    status: str
    minutes: float | None
    """Minutes to the target; None if it was not reached."""
    samples: int | None
    """Samples to the target."""
    batch: int | None
    evaluations: Curve
    losses: Curve
    step_seconds: Curve
    step_times: StepTimes | None
    spans: Sequence[TimeSpan]
    shares: Mapping[str, float]
    timed: float
    """Seconds from run_start to run_stop; 0 if the run did not stop."""
    warm_up: float | None
    measures: Sequence[Measure]
    slow_ranks: Sequence[SlowRankCount]
    checkpoint_faults: Sequence[str]
    telemetry: Telemetry
    made_for: str | None
    """The earlier round that it was made for, if it was submitted again; else None."""
    settings: Mapping[str, str]
    """The events that it logged once: hyperparameters, submitter, seed and the like."""

    @property
    def number(self) -> str:
        """The part of its name that differs between the runs of a result: 0 of result_0.txt."""
        return self.name.removeprefix("result_").removesuffix(".txt")


@dataclass(frozen=True, slots=True)
class ModelSplit:
    """How a model was split over the GPUs; None for what neither the log nor run.json states."""

    tensor: int | None = None
    pipeline: int | None = None
    virtual: int | None = None
    context: int | None = None


@dataclass(frozen=True, kw_only=True)
class ResultSummary:
    """The runs of one directory, or one log."""

    name: str
    """The name that distinguishes it within a report, made of the folders it lies in."""
    label: str
    """The shortest start of the name that is unique in the report."""
    path: Path
    group: LogGroup
    findings: tuple[Finding, ...]
    """The findings about its logs, its runs together, and its system."""
    record: RunRecord
    """run.json; empty if it is missing or unreadable, which run.provenance reports."""
    runs: Sequence[RunSummary]
    score: Score
    convergence: Convergence
    rules: Rules | None
    ruleset: str
    """The version of the rules, and why that one judges it."""
    is_open: bool
    marks: tuple[str, ...]
    """Reasons why its runs do not count, as their logs state them."""
    system: Mapping[str, object]
    """The description of its system; empty if there is none."""
    gpus: int | None
    """The number in the system's description, else in run.json; the number of ranks if there are no GPUs."""
    nodes: int | None
    gpu: Gpu | None
    """The model, by the system's description, the name of the system, or the platform that the logs name."""
    precision: str | None
    """The precision of the linear layers, from the logs or run.json."""
    shape: ModelSplit
    submitter: str | None
    availability: str | None
    network: ModelSize | None
    """The model that was trained: the benchmark's, unless logs of the open division name another."""

    @cached_property
    def system_name(self) -> str:
        """Return the name that groups results: the system's folder, else run.json's system, else its own name."""
        place = self.group.place
        if place is not None and place.below:
            return place.below[0]
        return self.record.system or self.name

    @cached_property
    def reference(self) -> ReferenceRecord | None:
        """Return the reference's record at its batch size, even if there are too few runs to compare."""
        if self.rules is None or self.global_batch_size is None:
            return None
        return find_record(self.rules, self.global_batch_size)[1]

    @property
    def passed(self) -> bool:
        return count(self.findings, Severity.ERROR) == 0

    @property
    def verdict(self) -> str:
        """Return PASS or FAIL, followed by the marks of its logs."""
        return ", ".join(filter(None, ("PASS" if self.passed else "FAIL", in_capitals(self.marks))))

    @property
    def made_for(self) -> str | None:
        """Return the earlier round that some run was made for."""
        return next((run.made_for for run in self.runs if run.made_for), None)

    @property
    def counts(self) -> bool:
        """Return whether it is a score of the closed division: valid, complete, measured, of an MLPerf benchmark."""
        rules = self.rules
        excluded = self.marks or self.is_open or self.made_for or rules is None or not is_official(rules)
        return self.passed and not excluded and self.score.normalised_minutes is not None

    @property
    def division(self) -> str | None:
        return "open" if self.is_open else ("closed" if self.rules is not None else None)

    @property
    def accelerator(self) -> str | None:
        if self.gpu is not None:
            return self.gpu.name
        named = self.system.get("accelerator_model_name")
        return named[:_MOST_NAME] if isinstance(named, str) and named else None

    @property
    def global_batch_size(self) -> int | None:
        size = self.convergence.global_batch_size
        return size if size is not None and size <= LARGEST else None

    @cached_property
    def median_step(self) -> float | None:
        """Return the median of all steps of all runs, in seconds."""
        seconds = np.concatenate([run.step_seconds.values for run in self.runs] or [np.empty(0)])
        return (median(seconds.tolist()) or None) if len(seconds) else None

    @property
    def sequences_per_second(self) -> float | None:
        """Return global batch size / median step."""
        if self.median_step is None or not self.global_batch_size:
            return None
        return self.global_batch_size / self.median_step

    @property
    def tokens_per_second(self) -> float | None:
        rate = self.sequences_per_second
        return None if rate is None or self.rules is None else rate * self.rules.sequence_length

    @property
    def flops_per_sequence(self) -> int | None:
        """Return the model's FLOP for one sample, forward and backward; see benchmark.sizes."""
        if self.rules is None or self.network is None:
            return None
        vocabulary = benchmark_named(self.rules.benchmark).vocabulary
        return self.network.flops_per_sample(self.rules.sequence_length, vocabulary)

    @property
    def teraflops(self) -> float | None:
        """Return TFLOP/s of one GPU, or of one rank if there are no GPUs."""
        rate, work = self.sequences_per_second, self.flops_per_sequence
        return None if rate is None or work is None or not self.gpus else rate * work / self.gpus / 1e12

    def utilisation(self, precision: str) -> float | None:
        """Return model FLOP/s over the GPU's dense peak in a precision (MFU); None if either is unknown."""
        peak = None if self.gpu is None else self.gpu.peak(precision)
        return None if peak is None or self.teraflops is None else self.teraflops * 1e12 / peak


def is_official(rules: Rules) -> bool:
    """Return whether the benchmark is one of MLPerf's, for which results can be submitted."""
    return benchmark_named(rules.benchmark).submittable


def gather(paths: Sequence[Path], ruleset: str | None = None) -> list[ResultSummary]:
    """Return the results under some paths, judged as `llama31 check` judges them.

    Raises:
        NoLogsError: as compliance.check.check_in_turn, or all logs are of other benchmarks.
    """
    summaries = [
        summary for opened, findings in check_in_turn(paths, ruleset) for summary in _summaries(opened, findings)
    ]
    if not summaries:
        raise NoLogsError(f"{paths[0]} has no log of a benchmark that is judged here")
    return _named(summaries)


def published(folder: Path) -> list[ResultSummary]:
    """Return published results without findings, each judged by the rules of its own round.

    Raises:
        NoLogsError: as compliance.check.find_logs.
    """
    summaries = [summary for group in find_logs([folder]) for summary in _summaries(open_results([group]), ())]
    return _named(summaries)


def _summaries(opened: list[Opened], findings: Sequence[Finding]) -> Iterator[ResultSummary]:
    """Yield the summaries. Each result is taken off the list, so that the memory of its logs is freed."""
    while opened:
        group, result = opened.pop(0)
        yield _summary(group, result, findings)


def _summary(group: LogGroup, result: Result, findings: Iterable[Finding]) -> ResultSummary:
    files = {run.file for run in result.runs}
    if group.is_result:
        files |= {result.file, str(group.system), str(group.organisation)}
    record = _record(group.paths[0].with_name(RUN_JSON))
    system = None if group.system is None else System(group.system, (result,))
    described = {} if system is None or isinstance(system.description, str) else system.description
    return ResultSummary(
        name="",
        label="",
        path=group.path,
        group=group,
        findings=tuple(finding for finding in findings if finding.file in files),
        record=record,
        runs=[summarise(run) for run in result.runs],
        score=score(result),
        convergence=compare(result),
        rules=result.row,
        ruleset=judged_by(result),
        is_open=result.is_open,
        marks=result.marks,
        system=described,
        gpus=_gpus(system, record),
        nodes=_nodes(system, record),
        gpu=_gpu(result, described, record),
        precision=_text(_first(result, "lowest_numerical_precision_in_linear") or record.setting("PRECISION")),
        shape=_shape(result, record),
        submitter=_text(_first(result, "submission_org")),
        availability=_text(_first(result, "submission_status")),
        network=_network(result),
    )


def summarise(run: Run) -> RunSummary:
    """Return the summary of a run."""
    facts = RunFacts(run)
    started = facts.started_ms
    times = {mark.line: mark.time_ms for mark in run.log.marks if mark.key == "tracked_stats"}
    steps = [(step.samples, times[step.line], step.loss, step.seconds) for step in run.log.steps]
    evaluations = [
        (float(evaluation.position), evaluation.accuracy.event.time_ms, evaluation.log_perplexity)
        for evaluation in run.evaluations
        if evaluation.accuracy is not None and evaluation.log_perplexity is not None and evaluation.position <= LARGEST
    ]
    return RunSummary(
        name=facts.name,
        seed=facts.seed,
        status=facts.status,
        minutes=facts.minutes,
        samples=facts.samples,
        batch=_batch(run),
        evaluations=_curve(evaluations, started),
        losses=_curve([(samples, time, loss) for samples, time, loss, _ in steps], started),
        step_seconds=_curve([(samples, time, seconds) for samples, time, _, seconds in steps], started),
        step_times=facts.step_times,
        spans=facts.spans,
        shares=facts.shares,
        timed=facts.timed,
        warm_up=facts.warm_up,
        measures=facts.measures,
        slow_ranks=facts.slow_ranks,
        checkpoint_faults=facts.checkpoint_faults,
        telemetry=facts.telemetry,
        made_for=None if run.own_round is None else run.own_round.ruleset,
        settings={key: show(run.value(key)) for key in run.log.events if run.log.counts[key] == 1 and run.all(key)},
    )


def _curve(points: Sequence[tuple[float, float, float]], started_ms: float | None) -> Curve:
    """Return the curve of some (samples, time in ms, value), without numbers that cannot be drawn."""
    table = np.array(points, dtype=np.float64).reshape(-1, 3)
    # NaN compares false, too.
    table = table[(np.abs(table) <= LARGEST).all(axis=1)]
    origin = started_ms if started_ms is not None else (table[0, 1] if len(table) else 0.0)
    return Curve(table[:, 0].copy(), (table[:, 1] - origin) / 60_000, table[:, 2].copy())


def _batch(run: Run) -> int | None:
    try:
        return run.global_batch_size if run.global_batch_size <= LARGEST else None
    except AbsentError:
        return None


def _first(result: Result, key: str) -> object:
    """Return the value of a key in the first run that logs it; None if no run does."""
    return next((run.value(key) for run in result.runs if run.has(key)), None)


def _text(value: object) -> str | None:
    return value[:_MOST_NAME] if isinstance(value, str) and value else None


def _gpus(system: System | None, record: RunRecord) -> int | None:
    try:
        if system is not None:
            return system.accelerators
    except AbsentError:
        pass
    nodes, each = as_count(record.setting("DGXNNODES")), as_count(record.setting("DGXNGPU"))
    product = (nodes or 0) * (each or 0)
    return product if 0 < product <= LARGEST else None


def _nodes(system: System | None, record: RunRecord) -> int | None:
    try:
        if system is not None:
            return system.count("number_of_nodes")
    except AbsentError:
        pass
    return _small(record.setting("DGXNNODES"))


def _gpu(result: Result, described: Mapping[str, object], record: RunRecord) -> Gpu | None:
    named = [described.get("accelerator_model_name"), record.system, _first(result, "submission_platform")]
    return next((gpu for name in named if isinstance(name, str) and (gpu := gpu_of_system(name))), None)


def _shape(result: Result, record: RunRecord) -> ModelSplit:
    def of(key: str, variable: str) -> int | None:
        return _small(_first(result, key)) or _small(record.setting(variable))

    return ModelSplit(
        tensor=of("tensor_parallelism", "TENSOR_MODEL_PARALLEL"),
        pipeline=of("pipeline_parallelism", "PIPELINE_MODEL_PARALLEL"),
        virtual=of("virtual_pipeline_parallelism", "INTERLEAVED_PIPELINE"),
        context=of("context_parallelism", "CONTEXT_PARALLEL"),
    )


def _small(value: object | Scalar) -> int | None:
    number = as_count(value)
    return number if number and number <= LARGEST else None


def _network(result: Result) -> ModelSize | None:
    if result.row is None:
        return None
    named = _first(result, "model_size")
    return benchmark_named(result.row.benchmark).size if named is None else SIZES.get(str(named))


def _record(path: Path) -> RunRecord:
    try:
        return read(path)
    except (OSError, RefusedError):
        return RunRecord()


def flatten(value: object, name: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield the leaves of a document with their paths. A value of a configuration is followed by its origin."""
    if isinstance(value, Mapping) and set(value) == {"value", "origin"}:
        yield name, f"{value['value']} ({value['origin']})"
    elif isinstance(value, Mapping) and depth < 5:
        for key, item in value.items():
            yield from flatten(item, f"{name}.{key}" if name else str(key), depth + 1)
    elif isinstance(value, list) and depth < 5:
        for index, item in enumerate(value):
            yield from flatten(item, f"{name}.{index}", depth + 1)
    elif value not in ("", None):
        yield name, str(value)


# Names.


def _named(results: Sequence[ResultSummary]) -> list[ResultSummary]:
    names = names_of([one.path for one in results])
    return [
        replace(one, name=name, label=label) for one, name, label in zip(results, names, labels(names), strict=True)
    ]


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return the ends of paths, from where they differ, without the folders that every submission has."""
    parts = [[part for part in path.resolve().parts if part not in _EVERYWHERE] or list(path.parts) for path in paths]
    if len(set(map(tuple, parts))) < len(paths):
        # Two benchmarks of one system.
        parts = [list(path.resolve().parts) for path in paths]
    if len(parts) == 1:
        return ["/".join(parts[0][-2:])]
    shared = 0
    while all(len(one) > shared + 1 and one[shared] == parts[0][shared] for one in parts):
        shared += 1
    return ["/".join(one[shared:]) for one in parts]


def labels(names: Sequence[str]) -> list[str]:
    """Return the shortest start of each name that is unique among them: theia for theia_ngpu512_ngc25.09_nemo.

    Names that end alike stay whole.
    """
    words = [re.split(r"(?<=_)", name.rpartition("/")[2]) for name in names]
    starts = Counter("".join(some[:end]) for some in words for end in range(1, len(some) + 1))
    return [_clipped(_label(name, some, starts)) for name, some in zip(names, words, strict=True)]


def _label(name: str, words: Sequence[str], starts: Counter[str]) -> str:
    prefixes = ("".join(words[:end]) for end in range(1, len(words) + 1))
    return next((prefix.rstrip("_") for prefix in prefixes if starts[prefix] == 1), name)


def _clipped(text: str, most: int = 40) -> str:
    """Return a text; of a long one, both ends."""
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-most // 2 :]}"
