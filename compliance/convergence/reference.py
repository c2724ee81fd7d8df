"""Reference convergence points (RCPs) made of runs, in the format of mlperf_logging's own files.

What the file could not say, or what would make its numbers false, is refused. What the policy asks of a reference
besides, and what a reader should know of these runs, is told beside them: the official checker reads the file anyway.
Source: training_rules.adoc, "Reference Convergence Points"; mlcommons/logging, rcp_checker and its
training_6.0.0/rcps_llama31_405b.json.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from benchmark.benchmarks import benchmark_named
from benchmark.convergence import Record, accepted_from, record_of
from benchmark.refusal import Refused
from benchmark.rules import FreeLearningRate, ReferencePoint, Rules
from compliance.checks.events import HYPERPARAMETERS
from compliance.checks.results import check_result
from compliance.checks.runs import check_run
from compliance.convergence.pool import joined
from compliance.convergence.rcp import batch_size, samples_to_target
from compliance.findings import Severity, as_count, count, show
from compliance.result import Result
from compliance.run import Run

FEWEST = 3
"""Runs of which there is an olympic mean."""

_RUNS_OF_THEIR_OWN = frozenset({"result.seeds", "result.distinct"})
"""Rules of a result without which its runs are not so many."""
_WARMUP = "opt_learning_rate_warmup_steps"
_ACCUMULATION = "gradient_accumulation_steps"
_NAMES = {"bfloat16": "BF16", "fp32": "FP32", "fp8": "FP8"}
"""What the logs call otherwise than the files."""


class NoReference(Refused):
    """Runs that make no reference convergence points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The runs at one global batch size, as a reference convergence point."""

    name: str
    """In the file."""
    logs: tuple[str, ...]
    fields: Mapping[str, object]
    """What the file says of it."""
    record: Record
    """What the official checker makes of it."""
    accepted_from: float
    """The fastest mean of a result, by the t-test alone."""
    lacks: tuple[str, ...]
    """What the policy asks of a reference and these runs are not."""


def references(results: Iterable[Result]) -> list[Reference]:
    """A point for each global batch size of the runs, by size.

    Raises:
        NoReference: with everything that keeps the runs from being one.
    """
    runs = joined(list(results)).runs
    faults = [f"{run.file}: {fault}" for run in runs if (fault := _fault(run))]
    kinds = {(run.row.benchmark, run.row.ruleset): run.row for run in runs if run.row is not None}
    if len(kinds) > 1:
        names = ", ".join(" ".join(kind) for kind in kinds)
        faults.append(f"runs of several benchmarks or rulesets ({names}); a file of references is for one")
    pools: defaultdict[int, list[Run]] = defaultdict(list)
    for run in runs:
        pools[batch_size(run) or 0].append(run)
    faults += [f"batch size {size}: {fault}" for size, pool in sorted(pools.items()) for fault in _differences(pool)]
    if faults:
        raise NoReference(faults)
    ((_, rules),) = kinds.items()
    return [_reference(rules, size, pool) for size, pool in sorted(pools.items())]


def document(points: Iterable[Reference]) -> str:
    """The file that the official rcp_checker reads under --custom_rcps."""
    return json.dumps({point.name: point.fields for point in points}, indent=2) + "\n"


def _fault(run: Run) -> str:
    if run.row is None:
        return "the ruleset does not have this benchmark"
    if batch_size(run) is None:
        return "no global_batch_size"
    return "did not reach the target; a reference is made of runs that did" if samples_to_target(run) is None else ""


def _differences(runs: Sequence[Run]) -> Iterator[str]:
    """Why runs of one batch size are not so many runs of the same thing."""
    if len(runs) < FEWEST:
        yield f"{len(runs)} runs; without the fastest and the slowest, {FEWEST} have a mean"
    for key in HYPERPARAMETERS:
        # How a batch is cut changes no sum, so that one reference may be of several systems.
        if key != _ACCUMULATION and (said := _differing(runs, key)):
            yield f"the runs differ in {key}: {said}"
    for finding in check_result(joined([Result(run.log.path.parent, (run,)) for run in runs])):
        if finding.rule in _RUNS_OF_THEIR_OWN:
            yield f"{finding.message}: {finding.actual}"


def _differing(runs: Sequence[Run], key: str) -> str:
    """The values of a key, each with a run that has it; empty where there is but one."""
    values: dict[str, Run] = {}
    for run in filter(lambda run: run.has(key), runs):
        values.setdefault(json.dumps(run.value(key)), run)
    return "; ".join(f"{show(run.value(key))} in {run.file}" for run in values.values()) if len(values) > 1 else ""


def _reference(rules: Rules, size: int, runs: Sequence[Run]) -> Reference:
    samples = tuple(number for run in runs if (number := samples_to_target(run)) is not None)
    record = record_of(ReferencePoint(global_batch_size=size, samples=samples))
    return Reference(
        name=f"{rules.benchmark}_ref_{size}",
        logs=tuple(run.file for run in runs),
        fields={
            "Benchmark": rules.benchmark,
            "Creator": _told(runs, "submission_org"),
            "When": _when(rules, runs),
            "Platform": _told(runs, "submission_platform"),
            "Precision": _told(runs, "lowest_numerical_precision_in_linear"),
            "BS": size,
            "Hyperparams": _hyperparameters(rules, size, runs[0]),
            "Epochs to converge": list(samples),
        },
        record=record,
        accepted_from=accepted_from(record, rules.runs),
        lacks=tuple(_lacks(rules, runs)),
    )


def _told(runs: Sequence[Run], key: str) -> str:
    """What the runs say under a key; several texts where they differ, none where none says it."""
    values = dict.fromkeys(str(run.value(key)) for run in runs if run.has(key))
    return ", ".join(_NAMES.get(value, value) for value in values)


def _when(rules: Rules, runs: Sequence[Run]) -> str:
    days = sorted({_day(run.first("run_start").event.time_ms) for run in runs if run.has("run_start")})
    return " to ".join([f"Ruleset {rules.ruleset}, {days[0]}", *days[1:][-1:]]) if days else f"Ruleset {rules.ruleset}"


def _day(time_ms: float) -> str:
    with suppress(OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(time_ms / 1000, UTC).date().isoformat()
    return "of no date"


def _hyperparameters(rules: Rules, size: int, run: Run) -> dict[str, object]:
    """Those that the files name; of a warm-up that the submitter chooses, they give the samples."""
    keys = filter(run.has, ("opt_base_learning_rate", _WARMUP, _ACCUMULATION))
    found: dict[str, object] = {key: _whole(run.value(key)) for key in keys}
    steps = as_count(found.get(_WARMUP))
    if isinstance(rules.learning_rate, FreeLearningRate) and steps is not None:
        del found[_WARMUP]
        found["opt_learning_rate_warmup_samples"] = steps * size
    return found


def _whole(value: object) -> object:
    """8000.0, as some logs have it, as 8000."""
    number = as_count(value)
    return value if number is None else number


def _lacks(rules: Rules, runs: Sequence[Run]) -> Iterator[str]:
    needed = 2 * rules.runs
    if len(runs) < needed:
        yield f"{len(runs)} runs; the policy asks a reference for {needed}, twice those of a result"
    if marks := sorted({mark for run in runs for mark in run.log.not_a_run}):
        yield f"logs say that they are of no run that counts: {', '.join(marks)}"
    broken = [run.file for run in runs if count(check_run(run), Severity.ERROR)]
    if broken:
        yield f"{len(broken)} of {len(runs)} logs break a rule; `llama31 check {broken[0]}` says which"
    if said := _differing(runs, _ACCUMULATION):
        yield f"the runs differ in {_ACCUMULATION}, of which the file holds the first: {said}"
    if not any(run.has("lowest_numerical_precision_in_linear") for run in runs):
        yield "no log names its numerical precision"
    if not benchmark_named(rules.benchmark).submittable:
        yield f"the official checker has no benchmark {rules.benchmark}"
