"""Checks a configuration before anything is spent on it, by the rules that will judge its logs.

The events that the configuration would announce are treated as a log that ends there, and go through the same rule
functions as any log. Whatever else can be known before a run has rules of its own here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from pathlib import Path

from benchmark.announce import announce
from benchmark.config import ConfigError, RunConfig, by_origin, kernels, overrides, resolve
from benchmark.config.kernels import Switch
from benchmark.files import why_unwritable
from benchmark.mllog import POINT, Event
from benchmark.rules import Rules
from compliance.check import Report
from compliance.checks.packages import NAME
from compliance.checks.results import check_result
from compliance.checks.rule import AbsentError, Breach, Rulebook
from compliance.checks.runs import check_run
from compliance.checks.sources import PREFLIGHT
from compliance.checks.systems import SUMMARIZER, SYSTEM_CHECKER, SYSTEM_RULES, System
from compliance.findings import Finding, Severity
from compliance.log import Log
from compliance.package import machine
from compliance.package.facts import read_facts
from compliance.package.fields import RECORDED
from compliance.package.runs import NotPackageableError
from compliance.package.system import contradictions, decided_by, lacking, merged
from compliance.result import Result
from compliance.ruleset import asked_for
from compliance.run import Run
from harness.launch.containers import require_container
from harness.pace import Expected, expected
from harness.simulate import SimulatedPace, VirtualClock, simulate


@dataclass(frozen=True, kw_only=True)
class PlannedRuns:
    """A configuration before its runs."""

    path: Path | None
    """Its file; None for a configuration from the environment."""
    possible: RunConfig | None = None
    """None if no such run is possible."""
    faults: tuple[str, ...] = ()
    """Why it is impossible."""
    origins: tuple[str, ...] = ()
    """A line for each origin of its values."""
    overrides: tuple[str, ...] = ()
    """Values of the environment that the file overrides."""
    step_seconds: float | None = None
    """Expected seconds of an optimizer step; None if unknown."""
    system_yaml: Path | None = None
    """The user's description of the system; not judged if None."""
    in_batch: bool = True
    """Whether the runs belong to a batch job, which ends with its walltime."""

    @property
    def file(self) -> str:
        return "the environment" if self.path is None else str(self.path)

    @property
    def row(self) -> Rules | None:
        return None if self.possible is None else self.possible.rules

    @cached_property
    def expected(self) -> Expected | None:
        """The planner's estimates; None if it does not know the GPU in the system's name."""
        return expected(self.config)

    @property
    def config(self) -> RunConfig:
        """Raise AbsentError if no such run is possible."""
        if self.possible is None:
            raise AbsentError("configuration")
        return self.possible


_PLACE = {"file": announce.__module__, "lineno": 1}
"""The fields that mllog adds to every event; an announced event has no place in a file yet."""

PREFLIGHT_RULES: Rulebook[PlannedRuns] = Rulebook()
rule = PREFLIGHT_RULES.rule


def make_plan(file: Path | None, *, step_seconds: float | None = None, system_yaml: Path | None = None) -> PlannedRuns:
    """Make the plan of a config file, or of the environment; faults in either become part of the plan."""
    try:
        resolved = resolve(file)
    except ConfigError as error:
        return PlannedRuns(path=file, faults=tuple(error.faults))
    return PlannedRuns(
        path=file,
        possible=resolved.config,
        origins=tuple(by_origin(resolved)),
        overrides=tuple(overrides(resolved)),
        step_seconds=step_seconds,
        system_yaml=system_yaml,
    )


def report_on(plan: PlannedRuns) -> Report:
    """Return every finding about a plan, as the commands print them."""
    return Report(logs=(plan.file,), findings=check_plan(plan), unreadable=False)


def check_plan(plan: PlannedRuns) -> tuple[Finding, ...]:
    """Return every finding about a plan."""
    findings = PREFLIGHT_RULES.judge(plan)
    if plan.possible is None:
        return findings
    runs = announced_runs(plan.possible, Path(plan.file))
    foreseen = [*check_run(runs[0]), *check_result(Result(Path(plan.file), runs))]
    # There are no lines, and events after the announcement are not missing yet.
    return (*findings, *(replace(finding, line=None) for finding in foreseen if finding.rule != "event.missing"))


def announced_runs(config: RunConfig, path: Path) -> tuple[Run, ...]:
    """Return as many of a configuration's runs as make a result, with the events that each would announce."""
    return tuple(_announced(config, seed, path) for seed in config.seeds[: config.rules.runs])


def _announced(config: RunConfig, seed: int, path: Path) -> Run:
    log = Log(path)
    for key, value in announce(config.changed(SEED=seed)):
        log.add(1, Event(key, value, POINT, 0, "", _PLACE), 0)
    return Run(log, asked_for(config.rules.ruleset))


@rule(
    "preflight.config",
    source=PREFLIGHT,
    example="MINIBS=31 on 64 replicas: no learning rate passes the official check at batch size 1984",
)
def possible(plan: PlannedRuns) -> Iterator[Breach]:
    """The configuration describes a run that is possible, and its name what it describes."""
    yield from (Breach(message=fault) for fault in plan.faults)


@rule("preflight.name", source=PREFLIGHT, severity=Severity.WARNING, example="config_OLD.sh that exports DGXSYSTEM=NEW")
def name(plan: PlannedRuns) -> Iterator[Breach]:
    """A config file is named after its system, which its results are kept under."""
    expected = f"config_{plan.config.system}.sh"
    if plan.path is not None and plan.path.name != expected:
        yield Breach(message="the file is not named after its DGXSYSTEM", expected=expected, actual=plan.path.name)


@rule(
    "preflight.overridden",
    source=PREFLIGHT,
    severity=Severity.INFO,
    example="MINIBS=16 in the environment, and a config that exports MINIBS=8",
)
def overridden(plan: PlannedRuns) -> Iterator[Breach]:
    """A value in the environment counts, unless the config file sets another one."""
    yield from (Breach(message=line) for line in plan.overrides)


@rule(
    "preflight.identity",
    source=PREFLIGHT,
    example="MLPERF_SUBMISSION_ORG not set and NEXP=3 for 405B; a WARNING where NEXP makes no whole result",
)
def identity(plan: PlannedRuns) -> Iterator[Breach]:
    """Runs that make a result say who submits what: a log is not changed afterwards, and is packaged as it is."""
    config, submission = plan.config, plan.config.submission
    if not config.benchmark_row.submittable:
        return
    runs, needed = config.job.experiments, config.rules.runs
    severity = Severity.ERROR if runs >= needed else Severity.WARNING
    if submission.unset:
        yield Breach(
            message=f"{', '.join(submission.unset)} not set: the runs cannot be packaged",
            expected="values that the job has before its first run; `llama31 submission init` asks for them",
            actual=f"NEXP={runs}, and {needed} runs make a result",
            severity=severity,
        )
    if submission.org is not None and not NAME.fullmatch(submission.org):
        yield Breach(
            message="MLPERF_SUBMISSION_ORG cannot name the folder of a submission: the runs cannot be packaged",
            expected="letters, digits and _ . + - @ = , only, no dot first",
            actual=submission.org,
            severity=severity,
        )


@rule(
    "preflight.system",
    source=f"{SYSTEM_CHECKER}; {SUMMARIZER}",
    example="cores that a node of the system contradicts are a WARNING; not judged without `--system-yaml`",
)
def system(plan: PlannedRuns) -> Iterator[Breach]:
    """The description that packaging makes of system.yaml and these runs breaks no rule of `llama31 check`."""
    if plan.system_yaml is None:
        return
    try:
        facts = read_facts(plan.system_yaml)
    except NotPackageableError as error:
        yield from (Breach(message=fault) for fault in error.faults)
        return
    config = plan.config.changed(MLPERF_SUBMISSION_STATUS=plan.config.submission.status or "research")
    runs = announced_runs(config, Path(config.benchmark, "announced"))
    decided = decided_by(config, str(runs[0].value("submission_org")))
    described = merged(decided, facts)
    for fault in (*contradictions(decided, facts), *(fault for fault in lacking(described, without=RECORDED))):
        yield Breach(message=f"{plan.system_yaml}: {fault}")
    for doubt in machine.differences(facts):
        yield Breach(message=f"{plan.system_yaml}: {doubt}", severity=Severity.WARNING)
    for finding in SYSTEM_RULES.judge(
        System(plan.system_yaml, (Result(Path(config.benchmark), runs),), given=described)
    ):
        yield Breach(
            message=f"{finding.rule}: {finding.message}",
            expected=finding.expected,
            actual=finding.actual,
            severity=finding.severity,
        )


@rule(
    "preflight.walltime",
    source=PREFLIGHT,
    example="WALLTIME=60 for three runs of 90 minutes; a WARNING where the slowest likely end of a run is later, or "
    "SAVE_CHECKPOINT lets another job go on; an INFO where nobody knows how long a step takes",
)
def walltime(plan: PlannedRuns) -> Iterator[Breach]:
    """The runs of a job end before its walltime does, with the step time of the planner or of `--step-seconds`."""
    job = plan.config.job
    if job.walltime is None or not plan.in_batch:
        return
    limit = job.walltime if job.save_checkpoint is None else job.walltime * job.allocations
    planned = None if plan.step_seconds else plan.expected
    if plan.step_seconds:
        minutes = wanted = ceil(expected_minutes(plan.config, plan.step_seconds))
        pace = f"{plan.step_seconds:g} s a step, from --step-seconds"
    elif planned is not None:
        minutes, wanted = ceil(planned.shortest), planned.walltime
        pace = f"{planned.pace.step:.2f} s a step, give or take {planned.pace.spread:.0%}, from `llama31 plan`"
    else:
        # The harness's own benchmark is for machines without one.
        if plan.config.benchmark_row.submittable:
            yield Breach(
                message=f"the planner knows no GPU in the name {plan.config.system}, so WALLTIME is not judged",
                expected="a name such as DGXH100_64x8x..., or --step-seconds",
                severity=Severity.INFO,
            )
        return
    if minutes > limit or wanted > limit:
        is_late = minutes > limit
        yield Breach(
            message=f"NEXP={job.experiments} {'takes' if is_late else 'may take'} longer than WALLTIME",
            expected=f"WALLTIME of {wanted} minutes or more for all runs: {pace}; or a chain of jobs (docs/slurm.md)",
            actual=f"WALLTIME={job.walltime}" + (f", NPAR={job.allocations}" if limit != job.walltime else ""),
            severity=Severity.ERROR if is_late and job.save_checkpoint is None else Severity.WARNING,
        )


@rule(
    "preflight.memory",
    source=PREFLIGHT,
    severity=Severity.WARNING,
    example="405B on 64 H100 with a copy on every 8",
)
def memory(plan: PlannedRuns) -> Iterator[Breach]:
    """The model fits into the GPUs' memory, as the planner counts it."""
    planned = plan.expected
    if planned is not None and not planned.fits:
        command = "llama31 plan" if plan.path is None else f"llama31 plan {plan.path}"
        yield Breach(
            message=f"the model does not fit: pipeline stage {planned.worst.stage} needs more than its GPU has",
            expected=f"a layout that fits; `{command}` names changes that do",
            actual=f"{planned.worst.total / 2**30:.1f} GiB",
        )


@rule("preflight.output", source=PREFLIGHT, example="LOGDIR in a folder that is read-only")
def output(plan: PlannedRuns) -> Iterator[Breach]:
    """Results can be written to LOGDIR."""
    folder = plan.config.job.log_dir
    if reason := why_unwritable(folder):
        yield Breach(message=f"LOGDIR={folder} cannot be written", actual=reason)


@rule("preflight.data", source=PREFLIGHT, example="DATADIR not set, for llama31_405b")
def data(plan: PlannedRuns) -> Iterator[Breach]:
    """The dataset is there; only the harness's own benchmark brings one."""
    folder, name = plan.config.data.data_dir, plan.config.benchmark
    published = plan.config.benchmark_row.dataset.files is not None
    expected = f"the folder of the dataset of {name}"
    if published:
        expected += f", as `llama31 data download {name} FOLDER` makes it"
    if folder is None and published:
        yield Breach(message="DATADIR is not set", expected=expected)
    elif folder is not None and not folder.is_dir():
        yield Breach(message=f"DATADIR={folder} is not a folder", expected=expected)


@rule("preflight.container", source=PREFLIGHT, example="CONTAINER_RUNTIME=docker for two nodes")
def container(plan: PlannedRuns) -> Iterator[Breach]:
    """The container back end can run such a job, and mount what it needs."""
    try:
        require_container(plan.config)
    except ConfigError as error:
        yield from (Breach(message=fault) for fault in error.faults)


def warnings(config: RunConfig) -> list[str]:
    """Return a line for each switch of a run on GPUs that has never been run on one; this breaks no rule."""
    switches = kernels.never_on_a_gpu(config.kernels, config.layout)
    return [f"never run on a GPU: {one.name} (only on {_where(one)})" for one in switches]


def _where(switch: Switch) -> str:
    places = {"a CPU": switch.cpu, "the null device": switch.null_device}
    return " and ".join(place for place, ran in places.items() if ran) or "paper"


def expected_minutes(config: RunConfig, step_seconds: float) -> float:
    """Return the minutes that all runs of a job take, by rehearsing one that converges as the reference does."""
    clock = VirtualClock(0.0)
    simulate(config.changed(SEED=0, RESULT_FILE=None), clock, SimulatedPace(step=step_seconds))
    return config.job.experiments * clock.now() / 60
