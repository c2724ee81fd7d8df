"""A run's configuration and where each of its values came from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmark.config.run_config import LIBRARY_PREFIXES, NAMES, ConfigError, RunConfig, unknown_names
from benchmark.config.sourcing import source_config, sourced_file, unknown_exports

_FILE_NAME = "CONFIG_FILENAME"
"""The variable that names the config file; most config files export it themselves."""


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A configuration with the origin of each variable.

    An origin is a file's name, `environment`, `default`, `command line`, or `the job`, whose nodes decide DGXNNODES.
    """

    config: RunConfig
    origins: Mapping[str, str]
    """Shell name -> origin, for every variable."""
    overridden: Mapping[str, str] = field(default_factory=dict)
    """Variables of the environment that the config file overrides, with their values in the environment."""
    libraries: Mapping[str, str] = field(default_factory=dict)
    """The libraries' own variables that the config file exports. Ranks need them in their environment."""


def resolve(
    file: Path | None, environment: Mapping[str, str] = os.environ, *, values: Mapping[str, str] | None = None
) -> Resolved:
    """Return the run of a config file on top of the environment, or of the environment alone (a sourced config).

    Args:
        values: variables on top of both, as somebody typed them.

    Raises:
        ConfigError: the file cannot be sourced, or the run is impossible; it lists every fault.
    """
    exported: dict[str, str] = {}
    libraries: dict[str, str] = {}
    unknown: list[str] = []
    if file is not None:
        everything = source_config(file, environment)
        unknown = unknown_exports(file, everything)
        libraries = {name: value for name, value in everything.items() if name.startswith(LIBRARY_PREFIXES)}
        exported = {name: value for name, value in everything.items() if name in NAMES} | {_FILE_NAME: file.name}
    from_command_line = values or {}
    unknown += [fault for fault in unknown_names(from_command_line, complete=True) if fault not in unknown]
    merged = {**environment, **exported, **from_command_line}
    try:
        config = RunConfig.from_environment(merged)
    except ConfigError as error:
        raise ConfigError([*unknown, *error.faults]) from None
    if unknown:
        raise ConfigError(unknown)

    origins = _origins({**environment, **exported}, file or sourced_file(environment))
    return Resolved(
        config=config,
        origins=origins | dict.fromkeys(from_command_line, "command line"),
        overridden={name: environment[name] for name in exported if environment.get(name) and name != _FILE_NAME},
        libraries=libraries,
    )


def resolve_for_nodes(nodes: int, environment: Mapping[str, str] = os.environ) -> Resolved:
    """Return the run of the environment on the nodes that a job has.

    A config that was sourced there and leaves their number open (config_tiny.sh) is sourced again with that number.

    Raises:
        ConfigError: as for `resolve`.
    """
    resolved, file = resolve(None, environment), sourced_file(environment)
    if resolved.config.layout.nodes == nodes or file is None or resolved.origins["DGXNNODES"] != file.name:
        return resolved
    own = {name: value for name, value in environment.items() if resolved.origins.get(name) != file.name}
    again = resolve(file, own | {"DGXNNODES": str(nodes)})
    if again.config.layout.nodes != nodes:
        return resolved
    return replace(again, origins={**again.origins, "DGXNNODES": "the job"})


def _origins(environment: Mapping[str, str], file: Path | None) -> dict[str, str]:
    """Find where each variable of an environment came from, after the file was sourced into it.

    A job receives an environment that does not show who set what, so the file is sourced again without our variables. A
    value that it then does not set may depend on other variables, so it is sourced once more with those.
    """
    others = {name: value for name, value in environment.items() if name not in NAMES}
    says = _says(file, others)
    differing = {name: environment[name] for name in says if environment.get(name, "") not in ("", says[name])}

    def origin(name: str) -> str:
        if not environment.get(name):
            return "default"
        if file is None or name not in says:
            return "environment"
        if name in differing:
            others_differing = {other: value for other, value in differing.items() if other != name}
            return file.name if _says(file, others | others_differing).get(name) == differing[name] else "environment"
        return file.name

    return {name: origin(name) for name in NAMES}


def _says(file: Path | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Return those of our variables that a file sets; empty if the file can no longer be sourced."""
    if file is None:
        return {}
    try:
        exported = source_config(file, environment)
    except ConfigError:
        return {}
    return {name: value for name, value in exported.items() if name in NAMES} | {_FILE_NAME: file.name}


def overrides(resolved: Resolved) -> list[str]:
    """Return a line for each variable of the environment that the config file overrides."""
    values = resolved.config.values()
    return [
        f"{name}={value} of the environment has no effect: {resolved.origins[name]} sets {_text(values[name])}"
        for name, value in resolved.overridden.items()
    ]


def describe(resolved: Resolved) -> str:
    """Return the whole configuration as text: each variable with its origin, then the values that follow."""
    values = resolved.config.values()
    rows = [(name, _text(values[name]), _origin(resolved, name)) for name in NAMES]
    rows += [(name, value, origin) for name, value, origin in _derived(resolved.config)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}" for name, value, origin in rows)


def by_origin(resolved: Resolved) -> list[str]:
    """Return a line for each origin except the defaults, with the variables that it sets."""
    values, lines = resolved.config.values(), dict[str, list[str]]()
    for name, origin in resolved.origins.items():
        if origin != "default":
            lines.setdefault(origin, []).append(f"{name}={_text(values[name])}")
    return [f"{origin}: {' '.join(settings)}" for origin, settings in lines.items()]


def _origin(resolved: Resolved, name: str) -> str:
    instead = f", not the environment's {resolved.overridden[name]}" if name in resolved.overridden else ""
    return resolved.origins[name] + instead


def _text(value: object) -> str:
    return "-" if value is None or value == "" else str(value)


def _derived(config: RunConfig) -> Iterator[tuple[str, str, str]]:
    """Yield (name, value, equation) for each value that follows from the configuration."""
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
    for key, value, variable in (
        ("opt_base_learning_rate", schedule.base_learning_rate, "LEARNING_RATE"),
        ("opt_end_learning_rate", schedule.end_learning_rate, "END_LEARNING_RATE"),
        ("opt_learning_rate_warmup_steps", schedule.warmup_steps, "WARMUP_STEPS"),
        ("opt_learning_rate_decay_steps", schedule.decay_steps, "DECAY_STEPS"),
    ):
        chosen = config.values()[variable] is not None
        yield key, repr(value), variable if chosen else f"{source} at global batch size {gbs}"
    interval = f"CEIL({rules.eval_every_sequences} / {gbs}) steps, {schedule.eval_interval_steps * gbs} sequences"
    yield "eval_interval_steps", str(schedule.eval_interval_steps), interval
    skipped = f"({schedule.skipped_evals} skipped + 1) x {schedule.eval_interval_steps} steps"
    first = schedule.first_eval_step
    yield "first_eval_step", str(first), f"{skipped}, {first * gbs} sequences"
    yield "eval_sequences", str(rules.eval_sequences), source
    limit_origin = "MAX_STEPS" if config.hyperparameters.max_steps else "MAX_STEPS is not set"
    yield "last_step", str(config.step_limit), limit_origin
    parameters = config.size.parameters(config.vocabulary)
    yield "parameters", f"{parameters:,}", f"{config.size.name}, vocabulary {config.vocabulary:,}"
