"""Choose the runs that the policy lets a submitter submit, of all that were made.

Source: training_rules.adoc, "Scoring". Of M > N runs made as a group, the N consecutive ones are submitted whose
olympic mean is the median of all such windows. A window with more than one run that did not converge counts as
infinite; if it is the median, there is no result. Runs are consecutive in an objective order, here that of their
launch. For an even number of windows the policy does not define the median; the slower of the two middle ones is taken
here.
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
from benchmark.benchmarks import benchmark_named, find
from benchmark.config import RunConfig
from benchmark.errors import RefusedError
from benchmark.files import RUN_JSON, walk
from benchmark.rules import Rules
from benchmark.run_record import RunRecord, UnreadableRecordError, read
from compliance.check import open_run
from compliance.checks.packages import disqualifications
from compliance.checks.rule import AbsentError
from compliance.convergence.olympic import olympic_mean
from compliance.convergence.score import minutes_to_target
from compliance.findings import show
from compliance.log import SIMULATED, DefectKind
from compliance.run import Run


class NotPackageableError(RefusedError):
    """The runs cannot be submitted; `faults` lists every reason. For it `llama31 package` ends with status 1."""


_NEVER = datetime.min.replace(tzinfo=UTC)
"""Sorts a launch without a time first."""


@dataclass(frozen=True)
class Launch:
    """The runs of one launch."""

    folder: Path
    record: RunRecord

    @property
    def started(self) -> datetime:
        """When the runs were launched."""
        return self.record.started or _NEVER

    @property
    def rules(self) -> Rules:
        """The rules of its benchmark and ruleset; raises UnknownRulesError if there are none."""
        return find(self.record.benchmark, self.record.ruleset)

    @cached_property
    def config(self) -> RunConfig:
        """The configuration at its launch; raises ConfigError if it is not valid."""
        return self.record.config()

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Every run that was started, in order; one without a log is an unreadable run."""
        names = [experiment.result for experiment in self.record.experiments]
        return tuple(open_run(self.folder / Path(name).name, self.record.ruleset) for name in names)


@dataclass(frozen=True)
class ChosenRuns:
    """The runs of one system and benchmark that are submitted."""

    launch: Launch
    """The launch of the first of them."""
    runs: tuple[Run, ...]
    launched: int
    """How many runs they were chosen from."""


def choose(folders: Iterable[Path], *, rehearsal: bool = False) -> list[ChosenRuns]:
    """Choose the runs to submit from the launches in or below some folders, for each system and benchmark.

    Args:
        folders: the folders of the launches, or folders above them.
        rehearsal: whether to choose among simulated runs and refuse all others.

    Raises:
        NotPackageableError: the runs cannot be submitted; it lists every reason.
    """
    launches = sorted(_launches(folders), key=lambda launch: launch.started)
    faults = [fault for launch in launches for fault in _faults(launch, rehearsal=rehearsal)]
    if len(rulesets := {launch.record.ruleset for launch in launches}) > 1:
        faults.append(f"the runs have several rulesets ({', '.join(sorted(rulesets))}); a submission has one")
    if faults:
        raise NotPackageableError(faults)
    groups: defaultdict[tuple[str, str], list[Launch]] = defaultdict(list)
    for launch in launches:
        groups[launch.record.system, launch.record.benchmark].append(launch)
    choices = [_chosen(group) for group in groups.values()]
    if faults := [choice for choice in choices if isinstance(choice, str)]:
        raise NotPackageableError(faults)
    return [choice for choice in choices if isinstance(choice, ChosenRuns)]


def _chosen(launches: Sequence[Launch]) -> ChosenRuns | str:
    """Return the choice among the runs of some launches, or the reason why there is none."""
    rules = launches[0].rules
    runs = [run for launch in launches for run in launch.runs]
    window = median_window(runs, rules.runs)
    if window is None:
        return f"{launches[0].record.system}, {rules.benchmark}: {_why_none(runs, rules.runs)}"
    owner = next(launch for launch in launches if window[0] in launch.runs)
    return ChosenRuns(launch=owner, runs=window, launched=len(runs))


def _why_none(runs: Sequence[Run], needed: int) -> str:
    if len(runs) < needed:
        return f"{len(runs)} of the {needed} runs that make a result"
    missed = sum(minutes_to_target(run) is None for run in runs)
    return f"{missed} of {len(runs)} runs did not converge, so the median set of {needed} runs is not a result"


def median_window(runs: Sequence[Run], size: int) -> tuple[Run, ...] | None:
    """Return the `size` consecutive runs whose score is the median of all such windows; None if it is not a result."""
    windows = [tuple(runs[first : first + size]) for first in range(len(runs) - size + 1)]
    if not windows:
        return None
    median = sorted(windows, key=_window_minutes)[len(windows) // 2]
    return median if math.isfinite(_window_minutes(median)) else None


def _window_minutes(runs: Sequence[Run]) -> float:
    # A result needs a log of every run, so a window with an unreadable one is not a result.
    if any(defect.kind is DefectKind.UNREADABLE for run in runs for defect in run.log.defects):
        return math.inf
    mean = olympic_mean([minutes_to_target(run) for run in runs])
    return math.inf if mean is None else mean


# Reading launches.


def _launches(folders: Iterable[Path]) -> list[Launch]:
    """Read each launch once, even if folders overlap."""
    paths = {path.resolve(): path for folder in folders for path in _launch_folders(folder)}
    return [Launch(path, _record(path / RUN_JSON)) for path in paths.values()]


def _launch_folders(folder: Path) -> list[Path]:
    try:
        paths = sorted(Path(here) for here, _, names in walk(folder) if RUN_JSON in names)
    except OSError as error:
        raise NotPackageableError([f"{folder} cannot be searched for runs: {error}"]) from None
    if not paths:
        raise NotPackageableError([f"no {RUN_JSON} in {folder} or below it; expected a folder that a run wrote"])
    return paths


def _record(path: Path) -> RunRecord:
    try:
        return read(path)
    except (OSError, UnreadableRecordError) as error:
        raise NotPackageableError([str(error)]) from None


def _faults(launch: Launch, *, rehearsal: bool) -> Iterator[str]:
    try:
        rules, config = launch.rules, launch.config
    except RefusedError as error:
        yield f"{launch.folder}: {error}"
        return
    if launch.record.started is None:
        yield f"{launch.folder}: {RUN_JSON} does not state when the runs were launched"
    if not benchmark_named(rules.benchmark).submittable:
        yield f"{launch.folder}: {rules.benchmark} exists only in this harness and cannot be submitted"
    elif unset := config.submission.unset:
        yield (
            f"{launch.folder}: {', '.join(unset)} not set when the runs were made, so their logs do not state who "
            "submits what, and a log must not be changed; move the folder away, or package the folder of other runs. "
            "Before the next runs: `llama31 submission init`, and source its submission.sh"
        )
    for run in launch.runs:
        yield from (f"{run.file}: {fault}" for fault in _disowned(run, rehearsal=rehearsal))
        yield from (f"{run.file}: {difference}" for difference in _differences(config, run))


def _disowned(run: Run, *, rehearsal: bool) -> Iterator[str]:
    """Yield why a run does not count or, in a rehearsal, was not simulated."""
    marks = set(disqualifications(run))
    # A run without a log has no marks; choosing the runs deals with it.
    if rehearsal and run.log.counts and SIMULATED not in marks:
        yield "the log does not have the mark of a simulated run; a rehearsal takes no other: leave out --rehearse"
    for mark in sorted(marks - ({SIMULATED} if rehearsal else set())):
        hint = "; --rehearse packages such runs as a rehearsal" if mark == SIMULATED else ""
        yield f"the log has the mark {mark}{hint}"


def _differences(config: RunConfig, run: Run) -> Iterator[str]:
    """Yield where the log of a run differs from its configuration."""
    try:
        seed = run.value("seed")
    except AbsentError:
        # The run ended before it announced anything.
        return
    if isinstance(seed, bool) or not isinstance(seed, int):
        yield f"seed is {show(seed)} in the log; expected a whole number"
        return
    for key, value in announce(config.for_experiment(seed=seed, result_file=run.log.path)):
        if run.has(key) and run.value(key) != value:
            yield f"{key} is {show(run.value(key))} in the log, but {show(value)} by its {RUN_JSON}"
