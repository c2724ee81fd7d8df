"""Rules about the runs of a result together: convergence, seeds, and whether the runs are alike."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace

from benchmark.benchmarks import benchmark_named
from compliance.bypass import RCP_BYPASS, bypassed

# Importing a module of checks registers its rules.
from compliance.checks import power
from compliance.checks.events import ANNOUNCED
from compliance.checks.hyperparameters import as_seed
from compliance.checks.rule import AbsentError, Breach
from compliance.checks.sources import BENCHMARK_RESULTS, CONVERGENCE_POINTS, HYPERPARAMETERS, RANDOM_NUMBERS
from compliance.checks.systems import SUBMISSION_STRUCTURE, place_of
from compliance.convergence.olympic import converged
from compliance.convergence.rcp import compare
from compliance.findings import Finding, Severity, show
from compliance.result import LOG_NAME, RESULT_RULES, Result, rule
from compliance.run import Run

__all__ = ["PAGES", "check_result", "missed", "with_one_excused"]

PAGES = (power,)
"""The other modules with rules about results."""

# The seed must differ. max_steps and config_filename differ in accepted results and change nothing in a run.
_MAY_DIFFER = frozenset({"seed", "max_steps", "config_filename"})


def check_result(result: Result) -> tuple[Finding, ...]:
    """Return every finding about the runs as a whole; raises nothing."""
    return RESULT_RULES.judge(result)


def missed(result: Result) -> list[Run]:
    """Return the runs that did not reach the target; none if there are fewer runs than make a result."""
    row = result.row
    if row is None or len(result.runs) < row.runs:
        return []
    return [run for run in result.runs if not converged(run)]


def with_one_excused(result: Result) -> Result:
    """Return the result with its one run that missed the target marked as excused; unchanged if none or several did."""
    runs = missed(result)
    if len(runs) != 1:
        return result
    return replace(result, runs=tuple(replace(run, excused=True) if run is runs[0] else run for run in result.runs))


@rule(
    "result.converged",
    source=BENCHMARK_RESULTS,
    example="two of three runs that were aborted; one (a WARNING, and no finding about its own log)",
)
def all_converged(result: Result) -> Iterator[Breach]:
    """At most one run of a result missed the target; it counts as the slowest.

    It may have ended above the target, been aborted, or been killed before it could log its end. One such run is a
    WARNING: the rules drop the slowest run, and the official tools tolerate one log that does not comply.
    """
    runs = missed(result)
    # Runs that are only planned have missed nothing yet.
    if not any(run.has("run_start") for run in runs):
        return
    if len(runs) > 1:
        yield Breach(
            message=f"{len(runs)} runs did not reach the target, so there is no result",
            expected="at most one such run",
            actual=_names(runs),
        )
    else:
        yield Breach(
            message=f"{_names(runs)} did not reach the target, and counts as the slowest run",
            expected=f"all {len(result.runs)} runs at the target, or all but one",
            actual=_ended(runs[0]),
            severity=Severity.WARNING,
        )


def _ended(run: Run) -> str:
    stop = f"run_stop has status {show(run.status)}" if run.has("run_stop") else "no run_stop"
    try:
        return f"{stop}, last log perplexity {run.last_log_perplexity}"
    except AbsentError:
        return f"{stop}, no evaluation"


@rule(
    "result.convergence",
    source=f"{CONVERGENCE_POINTS}; mlcommons/logging, rcp_checker",
    example="llama31_405b with a mean of 276480 samples at batch size 1152, since 5.1.0 (a WARNING for logs of v5.0)",
)
def convergence(result: Result) -> Iterator[Breach]:
    """In the closed division the runs converge no faster than the reference's seeds allow.

    The policy let 405B converge 46080 samples faster, one evaluation, in v5.0 only; rcp_checker still does. A result
    that only rcp_checker accepts is an ERROR. It is a WARNING if all its logs are of v5.0: Nebius submitted such logs
    again in v5.1, with 276480 samples at batch size 1152, and they were accepted. That is not an advantage, because the
    score is multiplied by the reference's mean over the result's. With rcp-bypass it remains an ERROR: such results are
    rejected by default until the working group approves.
    """
    row = result.row
    if row is None or not benchmark_named(row.benchmark).submittable or result.is_open:
        return
    compared = compare(result)
    # If nothing can be compared, hyperparameter.reference_batch, result.converged or result.count reports why.
    if compared.policy is None or compared.official is None or compared.passed:
        return
    refused = not compared.official.passed and RCP_BYPASS not in bypassed(result.directory)
    of_v50 = all(run.own_round is not None and run.own_round.convergence_allowance for run in result.runs)
    yield Breach(
        message="the runs converge faster than the reference allows"
        + ("; the result would be refused officially: rcp_checker" if refused else ""),
        expected=f"a mean of at least {compared.policy.minimum:.1f} samples by the policy, "
        f"{compared.official.minimum:.1f} by rcp_checker",
        actual=f"{compared.mean}",
        severity=Severity.WARNING if compared.official.passed and of_v50 else None,
    )


@rule(
    "result.seeds",
    source=f"{RANDOM_NUMBERS}; mlcommons/logging, seed_checker",
    example="`seed` 1 in result_0.txt and in result_1.txt, even if it is the second seed of one",
)
def seeds(result: Result) -> Iterator[Breach]:
    """In the closed division every run has seeds of its own.

    The policy's text and the official seed_checker only compare seeds that the same line of code logged. Here the line
    makes no difference, because the same seed gives the same run wherever it is logged.
    """
    if result.is_open:
        return
    owners: defaultdict[int, list[Run]] = defaultdict(list)
    for run in result.runs:
        logged = map(as_seed, (event.event.value for event in run.all("seed")))
        for seed in {seed for seed in logged if seed is not None}:
            owners[seed].append(run)
    for seed, runs in owners.items():
        if len(runs) > 1:
            actual = f"seed {show(seed)} in {_names(runs)}"
            yield Breach(message="runs share a seed", expected="seeds of its own in each run", actual=actual)


@rule("result.distinct", source=BENCHMARK_RESULTS, example="a copy of result_0.txt with another seed")
def distinct(result: Result) -> Iterator[Breach]:
    """Every log is of a run of its own, not a copy of another one with its seed changed."""
    for what, curve in CURVES.items():
        for runs in alike(result.runs, curve):
            yield Breach(
                message=f"logs have the same {what}, to the last digit",
                expected="runs with results of their own",
                actual=f"equal in {_names(runs)}",
            )
            return


def _evaluations(run: Run) -> Hashable:
    return tuple((evaluation.position, evaluation.log_perplexity) for evaluation in run.evaluations)


def _losses(run: Run) -> Hashable:
    return tuple(step.loss for step in run.log.steps)


CURVES: dict[str, Callable[[Run], Hashable]] = {"evaluations": _evaluations, "training losses": _losses}
"""What no two runs share: name -> a function that reads it from a run, and returns nothing if its log has none."""


def alike(runs: Iterable[Run], curve: Callable[[Run], Hashable]) -> list[list[Run]]:
    """Return the groups of runs that share a curve; a run without a curve is in none."""
    groups: defaultdict[Hashable, list[Run]] = defaultdict(list)
    for run in runs:
        groups[curve(run)].append(run)
    return [group for value, group in groups.items() if value and len(group) > 1]


@rule(
    "result.same_configuration",
    source=HYPERPARAMETERS,
    example="`opt_gradient_clip_norm` 1.0 in one run and 0.5 in another",
)
def same_configuration(result: Result) -> Iterator[Breach]:
    """All runs of a result announce the same submission, system and hyperparameters."""
    for key in ANNOUNCED:
        runs = {json.dumps(run.value(key)): run for run in result.runs if run.has(key)}
        if len(runs) > 1 and key not in _MAY_DIFFER:
            yield Breach(
                message=f"runs differ in {key}",
                expected="one value in all runs",
                actual="; ".join(f"{show(run.value(key))} in {_names([run])}" for run in runs.values()),
            )


@rule("result.count", source=BENCHMARK_RESULTS, severity=Severity.INFO, example="two runs of llama31_405b")
def count(result: Result) -> Iterator[Breach]:
    """A result has as many runs as the rules ask for."""
    row = result.row
    if row is not None and benchmark_named(row.benchmark).submittable and len(result.runs) < row.runs:
        yield Breach(
            message="the folder has fewer runs than make a result",
            expected=f"{row.runs} runs of {row.benchmark}",
            actual=f"{len(result.runs)}",
        )


@rule(
    "result.layout",
    source=SUBMISSION_STRUCTURE,
    example="results/A/llama31_405b/run_0/result_0.txt; a folder named result_2.txt",
)
def layout(result: Result) -> Iterator[Breach]:
    """The logs of a submission are files in results/<system>/<benchmark>/, where checkers look."""
    place = place_of(result.directory)
    if place is not None and place.system is None:
        yield Breach(
            message="logs lie where no checker looks, so they are not part of the submission",
            expected="results/<system>/<benchmark>/result_<n>.txt",
            actual="/".join(("results", *place.below, result.runs[0].log.path.name)),
        )
    # A result that is only planned has no folder yet.
    names = os.listdir(result.directory) if result.directory.is_dir() else []
    for name in sorted(names):
        if LOG_NAME.fullmatch(name) and (result.directory / name).is_dir():
            yield Breach(message="a folder is named like a log", expected="a file", actual=show(name))


def _names(runs: Sequence[Run]) -> str:
    names = [run.log.path.name for run in runs]
    # Runs of several folders may have the same name.
    return ", ".join(names if len({*names}) == len(names) else (run.file for run in runs))
