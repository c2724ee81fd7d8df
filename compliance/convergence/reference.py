"""Make reference convergence points (RCPs) of runs, in the format of mlperf_logging's own files.

Runs are refused if the file could not describe them, or if they would make its numbers false. Whatever else the policy
asks of a reference, or a reader should know, is listed in Reference.lacks: the official checker reads the file anyway.
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
from benchmark.convergence import ReferenceRecord, accepted_from, record_of
from benchmark.errors import RefusedError
from benchmark.plurals import counted
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
"""The least number of runs that has an olympic mean."""

_RUNS_OF_THEIR_OWN = frozenset({"result.seeds", "result.distinct"})
"""Rules that tell whether the runs are as many as their logs."""
_WARMUP = "opt_learning_rate_warmup_steps"
_ACCUMULATION = "gradient_accumulation_steps"
_NAMES = {"bfloat16": "BF16", "fp32": "FP32", "fp8": "FP8"}
"""Name of a precision in logs -> its name in the files."""


class NoReferenceError(RefusedError):
    """The runs cannot make reference convergence points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The runs at one global batch size, as a reference convergence point."""

    name: str
    """Its name in the file."""
    logs: tuple[str, ...]
    fields: Mapping[str, object]
    """Its fields in the file."""
    record: ReferenceRecord
    """The record that the official checker derives from it."""
    accepted_from: float
    """The smallest mean of a result, in samples, that the t-test accepts, without an allowance."""
    lacks: tuple[str, ...]
    """What the policy asks of a reference that these runs lack, and what else a reader should know."""


def references(results: Iterable[Result]) -> list[Reference]:
    """Return one point for each global batch size of the runs, sorted by size.

    Raises:
        NoReferenceError: the runs cannot make points; it lists every reason.
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
        raise NoReferenceError(faults)
    ((_, rules),) = kinds.items()
    return [_reference(rules, size, pool) for size, pool in sorted(pools.items())]


def document(points: Iterable[Reference]) -> str:
    """Return the text of the file that the official rcp_checker reads with --custom_rcps."""
    return json.dumps({point.name: point.fields for point in points}, indent=2) + "\n"


def _fault(run: Run) -> str:
    if run.row is None:
        return "the ruleset does not have this benchmark"
    if batch_size(run) is None:
        return "no global_batch_size"
    return "the run did not reach the target, as those of a reference must" if samples_to_target(run) is None else ""


def _differences(runs: Sequence[Run]) -> Iterator[str]:
    """Yield why runs of one batch size are not independent runs of the same configuration."""
    if len(runs) < FEWEST:
        yield f"{counted(len(runs), 'run')}; the mean without the fastest and the slowest needs at least {FEWEST}"
    for key in HYPERPARAMETERS:
        # How a batch is split over micro batches does not change it, so one reference may be of several systems.
        if key != _ACCUMULATION and (values := _differing(runs, key)):
            yield f"the runs differ in {key}: {values}"
    for finding in check_result(joined([Result(run.log.path.parent, (run,)) for run in runs])):
        if finding.rule in _RUNS_OF_THEIR_OWN:
            yield f"{finding.message}: {finding.actual}"


def _differing(runs: Sequence[Run], key: str) -> str:
    """Return the values of a key, each with a run that has it; empty if all runs have the same."""
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
            "Creator": _logged(runs, "submission_org"),
            "When": _when(rules, runs),
            "Platform": _logged(runs, "submission_platform"),
            "Precision": _logged(runs, "lowest_numerical_precision_in_linear"),
            "BS": size,
            "Hyperparams": _hyperparameters(rules, size, runs[0]),
            "Epochs to converge": list(samples),
        },
        record=record,
        accepted_from=accepted_from(record, rules.runs),
        lacks=tuple(_lacks(rules, runs)),
    )


def _logged(runs: Sequence[Run], key: str) -> str:
    """Return the values that the runs log under a key, joined if they differ; empty if none logs it."""
    values = dict.fromkeys(str(run.value(key)) for run in runs if run.has(key))
    return ", ".join(_NAMES.get(value, value) for value in values)


def _when(rules: Rules, runs: Sequence[Run]) -> str:
    days = sorted({_day(run.first("run_start").event.time_ms) for run in runs if run.has("run_start")})
    return " to ".join([f"Ruleset {rules.ruleset}, {days[0]}", *days[1:][-1:]]) if days else f"Ruleset {rules.ruleset}"


def _day(time_ms: float) -> str:
    with suppress(OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(time_ms / 1000, UTC).date().isoformat()
    return "of an impossible date"


def _hyperparameters(rules: Rules, size: int, run: Run) -> dict[str, object]:
    """Return the hyperparameters that the files name; a warm-up that the submitter chooses is in samples there."""
    keys = filter(run.has, ("opt_base_learning_rate", _WARMUP, _ACCUMULATION))
    values: dict[str, object] = {key: _whole(run.value(key)) for key in keys}
    steps = as_count(values.get(_WARMUP))
    if isinstance(rules.learning_rate, FreeLearningRate) and steps is not None:
        del values[_WARMUP]
        values["opt_learning_rate_warmup_samples"] = steps * size
    return values


def _whole(value: object) -> object:
    """Return 8000 for 8000.0, which some logs have; any other value unchanged."""
    number = as_count(value)
    return value if number is None else number


def _lacks(rules: Rules, runs: Sequence[Run]) -> Iterator[str]:
    needed = 2 * rules.runs
    if len(runs) < needed:
        yield f"{counted(len(runs), 'run')}; the policy asks for {needed}, twice those of a result"
    if marks := sorted({mark for run in runs for mark in run.log.not_a_run}):
        yield f"logs say that their runs do not count: {', '.join(marks)}"
    broken = [run.file for run in runs if count(check_run(run), Severity.ERROR)]
    if broken:
        yield f"{len(broken)} of {len(runs)} logs break a rule; `llama31 check {broken[0]}` says which"
    if values := _differing(runs, _ACCUMULATION):
        yield f"the runs differ in {_ACCUMULATION}, and the file holds only the first value: {values}"
    if not any(run.has("lowest_numerical_precision_in_linear") for run in runs):
        yield "no log names its numerical precision"
    if not benchmark_named(rules.benchmark).submittable:
        yield f"the official checker has no benchmark {rules.benchmark}"
