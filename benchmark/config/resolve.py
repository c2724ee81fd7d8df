"""A run's configuration and where each of its values came from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.config.run_config import LIBRARY_PREFIXES, NAMES, ConfigError, RunConfig, unknown_names
from benchmark.config.sourcing import source_config, unknown_exports


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A configuration with the origin of each variable: a file's name, `command line`, `environment` or `default`."""

    config: RunConfig
    origins: Mapping[str, str]
    """Shell name -> origin, for every variable of the table."""
    libraries: Mapping[str, str] = field(default_factory=dict)
    """The libraries' own variables that the config file exports. Ranks need them in their environment."""


def resolve(
    file: Path | None, environment: Mapping[str, str] = os.environ, *, values: Mapping[str, str] | None = None
) -> Resolved:
    """The run of a config file on top of the environment, or of the environment alone (a config sourced by hand).

    Args:
        values: variables on top of both, as somebody has typed them.

    Raises:
        ConfigError: the file cannot be sourced, or everything by which it and the run are impossible.
    """
    exported: dict[str, str] = {}
    libraries: dict[str, str] = {}
    unknown: list[str] = []
    if file is not None:
        everything = source_config(file, environment)
        unknown = unknown_exports(file, everything)
        libraries = {name: value for name, value in everything.items() if name.startswith(LIBRARY_PREFIXES)}
        exported = {name: value for name, value in everything.items() if name in NAMES} | {"CONFIG_FILENAME": file.name}
    given = values or {}
    unknown += [fault for fault in unknown_names(given, complete=True) if fault not in unknown]
    merged = {**environment, **exported, **given}
    try:
        config = RunConfig.from_environment(merged)
    except ConfigError as error:
        raise ConfigError([*unknown, *error.faults]) from None
    if unknown:
        raise ConfigError(unknown)

    def origin(name: str) -> str:
        if name in given:
            return "command line"
        if file is not None and name in exported:
            return file.name
        return "environment" if merged.get(name) else "default"

    return Resolved(config=config, origins={name: origin(name) for name in NAMES}, libraries=libraries)


def describe(resolved: Resolved) -> str:
    """The whole configuration as text: every variable with its origin, then everything that follows from them."""
    values = resolved.config.values()
    rows = [(name, _text(values[name]), resolved.origins[name]) for name in NAMES]
    rows += [(name, value, origin) for name, value, origin in _derived(resolved.config)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}" for name, value, origin in rows)


def _text(value: object) -> str:
    return "-" if value is None or value == "" else str(value)


def _derived(config: RunConfig) -> Iterator[tuple[str, str, str]]:
    """(name, value, equation) of what the configuration implies."""
    rules, schedule, layout = config.rules, config.schedule, config.layout
    gbs, replicas = layout.global_batch_size, layout.data_parallel
    source = f"rules {rules.benchmark} {rules.ruleset}"
    cut = f"TP {layout.tensor_model_parallel} x PP {layout.pipeline_model_parallel} x CP {layout.context_parallel}"
    yield "ranks", str(layout.world_size), f"DGXNNODES {layout.nodes} x DGXNGPU {layout.gpus_per_node}"
    yield "data_parallel", str(replicas), f"{layout.world_size} ranks / ({cut})"
    yield "global_batch_size", str(gbs), f"MINIBS {layout.minibatch} x data-parallel {replicas}"
    accumulation = f"MINIBS {layout.minibatch} / MICRO_BATCH_SIZE {layout.micro_batch_size}"
    yield "gradient_accumulation_steps", str(layout.gradient_accumulation_steps), accumulation
    yield "target_log_perplexity", str(rules.target_log_perplexity), source
    yield "sequence_length", str(rules.sequence_length), source
    yield "opt_base_learning_rate", repr(schedule.base_learning_rate), f"{source} at global batch size {gbs}"
    yield "opt_end_learning_rate", repr(schedule.end_learning_rate), source
    yield "opt_learning_rate_warmup_steps", str(schedule.warmup_steps), f"{source} at global batch size {gbs}"
    yield "opt_learning_rate_decay_steps", str(schedule.decay_steps), f"{source} at global batch size {gbs}"
    interval = f"CEIL({rules.eval_every_sequences} / {gbs}) steps, {schedule.eval_interval_steps * gbs} sequences"
    yield "eval_interval_steps", str(schedule.eval_interval_steps), interval
    skipped = f"({schedule.skipped_evals} skipped + 1) x {schedule.eval_interval_steps} steps"
    first = schedule.first_eval_step
    yield "first_eval_step", str(first), f"{skipped}, {first * gbs} sequences"
    yield "eval_sequences", str(rules.eval_sequences), source
    given = "MAX_STEPS" if config.hyperparameters.max_steps else "MAX_STEPS is not set"
    yield "last_step", str(config.step_limit), given
    row = config.benchmark_row
    yield "parameters", f"{row.parameters:,}", f"{row.size.name}, vocabulary {row.vocabulary:,}"
