"""One run: its variables in groups, the values that follow from them, and how they are read.

Impossible combinations are refused here, all faults at once, each with its equation and the valid choices. The
environment is read in `RunConfig.from_environment` and nowhere else.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmark.benchmarks import Benchmark, UnknownRulesError, benchmark_named, find
from benchmark.config import impossible, kernels
from benchmark.config.groups import Data, Group, Hyperparameters, Job, Kernels, Layout, Process, Submission
from benchmark.errors import RefusedError
from benchmark.rules import AdamW, Rules, RuleViolationError, Schedule
from benchmark.seeds import SEED_LIMIT, draw_seeds
from benchmark.sizes import SIZES, ModelSize

# Prefixes of other names that a config file may export: settings of the libraries underneath, which read them.
LIBRARY_PREFIXES = ("NCCL_", "CUDA_", "NVTE_", "TORCH_", "PYTORCH_", "GLOO_", "UCX_", "OMP_", "MKL_")

WINDOWS_LINES = "Windows line ends, which bash reads as part of each value; sed -i 's/\\r$//' FILE removes them"
_BATCH_PREFIX = "SBATCH_"
"""Options of sbatch, which reads them itself; a config may export them too."""


class ConfigError(RefusedError):
    """A configuration that cannot run; `faults` lists everything that is wrong with it."""


class RunConfig(BaseModel):
    """One run, frozen. Fields are ours, aliases the shell names that submitters know."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    benchmark: str = Field(alias="BENCHMARK")
    """Name of the benchmark."""
    ruleset: str | None = Field(None, alias="RULESET")
    """Version of the rules. Benchmarks that can be submitted require it; for others the latest is used if unset."""
    system: str = Field(alias="DGXSYSTEM")
    """Name of the configuration. It comes from the file's name: config_<DGXSYSTEM>.sh."""

    layout: Layout
    kernels: Kernels
    hyperparameters: Hyperparameters
    job: Job
    data: Data
    submission: Submission
    process: Process

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] = os.environ, *, complete: bool = False, made: bool = False
    ) -> RunConfig:
        """Return the run that the environment's variables describe; other variables are ignored.

        Args:
            complete: every variable of `environment` was meant for us (a config file's exports), so an unknown one is a
                fault; otherwise only one that looks like a misspelling of ours is.
            made: the run has already been made, so its switches for kernels are not checked against each other.

        Raises:
            ConfigError: with every fault found.
        """
        # An empty variable counts as unset, as in the shell's ${X:-default}.
        ours = {name: value for name, value in environment.items() if name in NAMES and value != ""}
        if returned := [name for name, value in ours.items() if value.endswith("\r")]:
            raise ConfigError([f"{', '.join(returned)}: the file that exported this has {WINDOWS_LINES}"])
        faults = list(unknown_names(environment, complete=complete))
        try:
            config = cls._of(ours)
        except ValidationError as error:
            raise ConfigError(faults + [_describe(fault) for fault in error.errors()]) from None
        faults += config._faults(made=made)
        if faults:
            raise ConfigError(faults)
        return config

    @classmethod
    def _of(cls, values: Mapping[str, Any]) -> RunConfig:
        """Return the run with these values, by shell name."""
        nested: dict[str, Any] = {group: {} for group in _GROUPS}
        for name, value in values.items():
            group = NAMES[name].partition(".")[0]
            (nested[group] if group in _GROUPS else nested)[name] = value
        return cls.model_validate(nested)

    def values(self, *, as_json: bool = False) -> dict[str, Any]:
        """Return every variable by its shell name, in the order of NAMES; None for one without a value."""
        nested = self.model_dump(by_alias=True, mode="json" if as_json else "python")
        flat = nested | {name: value for group in _GROUPS for name, value in nested[group].items()}
        return {name: flat[name] for name in NAMES}

    def changed(self, **values: Any) -> RunConfig:
        """Return an unchecked copy of this run with other values, by shell name; None unsets one."""
        changed = {name: value for name, value in (self.values() | values).items() if value is not None}
        return self._of(changed)

    def to_environment(self) -> dict[str, str]:
        """Return the variables from which `from_environment` makes this run again."""
        return {name: str(value) for name, value in self.values().items() if value is not None}

    def for_experiment(self, *, seed: int, result_file: Path) -> RunConfig:
        """Return one of the NEXP runs as a run of its own."""
        return self.changed(NEXP=1, SEED=seed, SEED_BASE=None, RESULT_FILE=result_file)

    # Values that follow from the variables.

    @cached_property
    def benchmark_row(self) -> Benchmark:
        """The row of the benchmark."""
        return benchmark_named(self.benchmark)

    @cached_property
    def rules(self) -> Rules:
        return find(self.benchmark, self.ruleset)

    @property
    def is_open(self) -> bool:
        """Whether the run is in the open division, whose rules leave model, optimizer and schedule free."""
        return self.submission.division == "open"

    @property
    def size(self) -> ModelSize:
        """The benchmark's size, or the one chosen in the open division."""
        chosen = self.hyperparameters.model_size
        return SIZES[chosen] if chosen is not None else self.benchmark_row.size

    @cached_property
    def optimizer(self) -> AdamW:
        """The rules' hyperparameters, with those chosen in the open division."""
        hyperparameters, fixed = self.hyperparameters, self.rules.optimizer
        chosen = {
            "beta_1": hyperparameters.adam_beta_1,
            "beta_2": hyperparameters.adam_beta_2,
            "epsilon": hyperparameters.adam_epsilon,
            "weight_decay": hyperparameters.weight_decay,
            "gradient_clip_norm": hyperparameters.gradient_clip_norm,
        }
        return replace(fixed, **{name: value for name, value in chosen.items() if value is not None})

    @property
    def vocabulary(self) -> int:
        """Rows of the model's embedding and output layer."""
        return self.benchmark_row.vocabulary

    @cached_property
    def schedule(self) -> Schedule:
        hyperparameters, gbs = self.hyperparameters, self.layout.global_batch_size
        rate, warmup = hyperparameters.learning_rate, hyperparameters.warmup_steps
        if not self.is_open:
            return self.rules.schedule(gbs, learning_rate=rate, warmup_steps=warmup)
        return self.rules.open_schedule(
            gbs,
            learning_rate=rate,
            warmup_steps=warmup,
            end_learning_rate=hyperparameters.end_learning_rate,
            decay_steps=hyperparameters.decay_steps,
        )

    @property
    def step_limit(self) -> int:
        """Most steps that the run takes: MAX_STEPS, or where the benchmark gives up, within the schedule."""
        patience, end = self.benchmark_row.give_up_samples, self.schedule.max_steps
        given_up = end if patience is None else patience // self.layout.global_batch_size
        return min(self.hyperparameters.max_steps or given_up, end)

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the NEXP runs; drawn once if none is given."""
        return draw_seeds(self.job.experiments, seed=self.job.seed, seed_base=self.job.seed_base)

    # Impossible combinations.

    def _faults(self, *, made: bool) -> list[str]:
        try:
            rules = self.rules
        except UnknownRulesError as error:
            return [f"BENCHMARK={self.benchmark} RULESET={self.ruleset}: {error}"]
        layout = self.layout
        faults = [
            *impossible.ruleset_faults(self.benchmark_row, self.ruleset),
            *impossible.layout_faults(layout, self.size, self.vocabulary, rules.sequence_length),
            *(() if made else kernels.contradictions(self.kernels, layout, self.size)),
            *impossible.name_faults(self.system, layout),
            *self._seed_faults(),
            *impossible.job_faults(self.job),
            *impossible.process_faults(self.process, layout),
            *impossible.profile_faults(
                self.job, layout, self.submission.org, submittable=self.benchmark_row.submittable
            ),
            *(() if self.is_open else impossible.closed_faults(self.hyperparameters)),
        ]
        # The schedule is computed from the batch size, which only a possible layout has.
        return faults or [
            *(() if self.is_open else impossible.batch_faults(layout, rules)),
            *self._schedule_faults(),
        ]

    def _schedule_faults(self) -> Iterator[str]:
        try:
            schedule = self.schedule
        except RuleViolationError as error:
            yield str(error)
            return
        yield from impossible.schedule_faults(schedule)
        if self.job.save_interval is not None and self.job.save_interval > self.step_limit:
            yield (
                f"SAVE_INTERVAL({self.job.save_interval}) is above the {self.step_limit} steps that the run can take: "
                "nothing would be saved"
            )
        if self.step_limit < schedule.first_eval_step:
            limit = (
                "the run" if self.hyperparameters.max_steps is None else f"MAX_STEPS({self.hyperparameters.max_steps})"
            )
            first = schedule.first_eval_step
            yield (
                f"{limit} ends after {self.step_limit} steps, before the first evaluation at "
                f"step ({schedule.skipped_evals} skipped + 1) x {schedule.eval_interval_steps} = {first}; "
                "a run without an evaluation has no result"
            )

    def _seed_faults(self) -> Iterator[str]:
        try:
            seeds = self.seeds
        except ValueError as error:
            yield str(error)
            return
        if max(seeds) >= SEED_LIMIT:
            base, runs = self.job.seed_base, self.job.experiments
            yield f"SEED_BASE({base}) + NEXP({runs}) - 1 = {max(seeds)} is not below {SEED_LIMIT}"


_GROUPS: dict[str, type[Group]] = {
    name: info.annotation
    for name, info in RunConfig.model_fields.items()
    if isinstance(info.annotation, type) and issubclass(info.annotation, Group)
}


def _names() -> Iterator[tuple[str, str]]:
    for name, info in RunConfig.model_fields.items():
        if name not in _GROUPS:
            yield str(info.alias), name
        else:
            yield from ((str(inner.alias), f"{name}.{field}") for field, inner in _GROUPS[name].model_fields.items())


NAMES: dict[str, str] = dict(_names())
"""Shell name -> field, such as layout.nodes; in the order of the classes."""


def _describe(fault: Mapping[str, object]) -> str:
    """Return a pydantic fault in terms of the variable."""
    location = fault["loc"]
    name = location[-1] if isinstance(location, tuple) and location else "?"
    if fault["type"] == "missing":
        return f"{name} is not set; a config file exports it (source configs/config_<SYSTEM>.sh)"
    return f"{name}={fault['input']}: {fault['msg']}"


def unknown_names(environment: Mapping[str, str], *, complete: bool) -> Iterator[str]:
    for name in environment:
        if name in NAMES or name.startswith((*LIBRARY_PREFIXES, _BATCH_PREFIX)):
            continue
        near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.88)
        if near:
            yield f"{name} is not a variable of the harness; did you mean {near[0]}? (if {name} is another's, unset it)"
        elif complete:
            yield f"{name} is not a variable of the harness; known: {', '.join(NAMES)}"
