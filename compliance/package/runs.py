"""The runs that were made, and the ones among them that the policy submits.

Source: training_rules.adoc, "Scoring". Of M > N runs made as a group, the N consecutive ones whose olympic mean is the
median of all such windows are submitted; a window with more than one run that did not converge counts as infinite, and
if that is the median there is no result. Consecutive is by an objective order; here by the time of the launch. Where
the number of windows is even the policy names no median: the slower of the two in the middle is taken.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from benchmark.announce import announce
from benchmark.benchmarks import UnknownRules, benchmark_named, find
from benchmark.config import ConfigError, RunConfig
from benchmark.files import RUN_JSON, walk
from benchmark.rules import Rules
from benchmark.run_record import RunRecord, UnreadableRecord, read
from compliance.check import open_run
from compliance.checks.packages import disqualifications
from compliance.checks.rule import Absent
from compliance.convergence.olympic import olympic_mean
from compliance.convergence.score import minutes_to_target
from compliance.findings import show
from compliance.log import SIMULATED, DefectKind
from compliance.run import Run


class NotPackageable(ValueError):
    """Runs that cannot be submitted; `faults` lists everything that is wrong with them."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(faults))


_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Batch:
    """The runs of one launch."""

    folder: Path
    record: RunRecord

    @property
    def started(self) -> datetime:
        return self.record.started or _NEVER

    @property
    def rules(self) -> Rules:
        """Raises UnknownRules."""
        return find(self.record.benchmark, self.record.ruleset)

    @cached_property
    def config(self) -> RunConfig:
        """The configuration as it was; raises ConfigError where it is none."""
        return self.record.config()

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Every run that was started, in that order; one without a log is an unreadable one."""
        names = [experiment.result for experiment in self.record.experiments]
        return tuple(open_run(self.folder / Path(name).name, self.record.ruleset) for name in names)


@dataclass(frozen=True)
class Chosen:
    """The runs of one system and benchmark that are submitted."""

    batch: Batch
    """The launch of the first of them."""
    runs: tuple[Run, ...]
    launched: int
    """Of how many they were chosen."""


def choose(folders: Iterable[Path], *, rehearsal: bool = False) -> list[Chosen]:
    """The runs to submit from the launches in or below the folders, for each system and benchmark.

    Args:
        rehearsal: choose among simulated runs, and refuse all others.

    Raises:
        NotPackageable: with everything that keeps them from being submitted.
    """
    batches = sorted(_batches(folders), key=lambda batch: batch.started)
    faults = [fault for batch in batches for fault in _faults(batch, rehearsal=rehearsal)]
    if len(rulesets := {batch.record.ruleset for batch in batches}) > 1:
        faults.append(f"runs of several rulesets ({', '.join(sorted(rulesets))}); a submission is for one")
    if faults:
        raise NotPackageable(faults)
    groups: defaultdict[tuple[str, str], list[Batch]] = defaultdict(list)
    for batch in batches:
        groups[batch.record.system, batch.record.benchmark].append(batch)
    chosen = [_chosen(group) for group in groups.values()]
    if faults := [one for one in chosen if isinstance(one, str)]:
        raise NotPackageable(faults)
    return [one for one in chosen if isinstance(one, Chosen)]


def _chosen(batches: Sequence[Batch]) -> Chosen | str:
    """The choice among the runs of some launches, or why there is none."""
    rules = batches[0].rules
    runs = [run for batch in batches for run in batch.runs]
    window = median_window(runs, rules.runs)
    if window is None:
        return f"{batches[0].record.system}, {rules.benchmark}: {_why_none(runs, rules.runs)}"
    owner = next(batch for batch in batches if window[0] in batch.runs)
    return Chosen(batch=owner, runs=window, launched=len(runs))


def _why_none(runs: Sequence[Run], needed: int) -> str:
    if len(runs) < needed:
        return f"{len(runs)} of the {needed} runs that make a result"
    missed = sum(minutes_to_target(run) is None for run in runs)
    return f"{missed} of {len(runs)} runs did not converge, so the median set of {needed} runs is no result"


def median_window(runs: Sequence[Run], size: int) -> tuple[Run, ...] | None:
    """The `size` consecutive runs whose score is the median of all such windows; None where that is no result."""
    windows = [tuple(runs[first : first + size]) for first in range(len(runs) - size + 1)]
    if not windows:
        return None
    median = sorted(windows, key=_window_minutes)[len(windows) // 2]
    return median if math.isfinite(_window_minutes(median)) else None


def _window_minutes(runs: Sequence[Run]) -> float:
    # A result has as many logs as runs, so a run that left none makes no result.
    if any(defect.kind is DefectKind.UNREADABLE for run in runs for defect in run.log.defects):
        return math.inf
    mean = olympic_mean([minutes_to_target(run) for run in runs])
    return math.inf if mean is None else mean


# Reading launches.


def _batches(folders: Iterable[Path]) -> list[Batch]:
    """Each launch once, even where folders overlap."""
    found = {here.resolve(): here for folder in folders for here in _launches(folder)}
    return [Batch(here, _record(here / RUN_JSON)) for here in found.values()]


def _launches(folder: Path) -> list[Path]:
    try:
        found = sorted(Path(here) for here, _, names in walk(folder) if RUN_JSON in names)
    except OSError as error:
        raise NotPackageable([f"{folder} cannot be searched for runs: {error}"]) from None
    if not found:
        raise NotPackageable([f"no {RUN_JSON} in {folder} or below it; expected a folder that a run made"])
    return found


def _record(path: Path) -> RunRecord:
    try:
        return read(path)
    except (OSError, UnreadableRecord) as error:
        raise NotPackageable([str(error)]) from None


def _faults(batch: Batch, *, rehearsal: bool) -> Iterator[str]:
    try:
        rules, config = batch.rules, batch.config
    except (UnknownRules, ConfigError) as error:
        yield f"{batch.folder}: {error}"
        return
    if batch.record.started is None:
        yield f"{batch.folder}: {RUN_JSON} does not say when the runs were launched"
    if not benchmark_named(rules.benchmark).submittable:
        yield f"{batch.folder}: {rules.benchmark} is a benchmark of this harness alone; nothing of it is submitted"
    elif unset := config.submission.unset:
        yield (
            f"{batch.folder}: {', '.join(unset)} not set when the runs were made, so their logs do not say who submits "
            "what, and a log is not changed; `llama31 submission init` asks for them before the next runs"
        )
    for run in batch.runs:
        yield from (f"{run.file}: {fault}" for fault in _disowned(run, rehearsal=rehearsal))
        yield from (f"{run.file}: {difference}" for difference in _differences(config, run))


def _disowned(run: Run, *, rehearsal: bool) -> Iterator[str]:
    """Why a run is neither one that counts nor, in a rehearsal, one that was simulated."""
    marks = set(disqualifications(run))
    # A run that left no log says nothing; it is the choice that minds.
    if rehearsal and run.log.counts and SIMULATED not in marks:
        yield "the log does not say that it is simulated; a rehearsal is of simulated runs alone: leave --rehearse out"
    for mark in sorted(marks - ({SIMULATED} if rehearsal else set())):
        hint = "; --rehearse packs such runs as a rehearsal" if mark == SIMULATED else ""
        yield f"the log says that it is {mark}{hint}"


def _differences(config: RunConfig, run: Run) -> Iterator[str]:
    """What the log of a run announced otherwise than its configuration says."""
    try:
        seed = run.value("seed")
    except Absent:
        # It did not come to announce anything.
        return
    if isinstance(seed, bool) or not isinstance(seed, int):
        yield f"seed is {show(seed)}"
        return
    for key, value in announce(config.for_experiment(seed=seed, result_file=run.log.path)):
        if run.has(key) and run.value(key) != value:
            yield f"{key} is {show(run.value(key))} in the log, {show(value)} by {RUN_JSON} beside it"
