"""Describe a system for systems/<system>.json, from the runs, from this machine, and from what only a person knows."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from benchmark.config import RunConfig
from benchmark.run_record import RunRecord
from compliance.checks.systems import FIELDS, STATUSES
from compliance.package import machine
from compliance.package.facts import STACK, Facts
from compliance.package.runs import NotPackageableError

FROM_THE_RUNS = ("submitter", "division", "status", "number_of_nodes", "accelerators_per_node")
"""Fields that the configuration decides; system.yaml may repeat them, but not change them."""

NEEDED = (
    *("system_name", "host_processor_model_name", "host_processors_per_node", "accelerator_model_name"),
    "framework",
)
"""Fields that must not be empty, because the official tools refuse them or nobody could know the system."""


def describe(record: RunRecord, config: RunConfig, submitter: str, facts: Facts) -> Facts:
    """Describe the system on which the runs of `config` were made.

    A person's facts come before those of a machine. This machine is asked only if it has the processor of the runs,
    because a package may be built on another one.

    Raises:
        NotPackageableError: the facts contradict the runs, or a needed field is empty.
    """
    decided = decided_by(config, submitter)
    here = machine.processor()
    if here.get("host_processor_model_name") != record.machine.get("processor"):
        here = {}
    description = merged(decided, facts, _recorded(record), here)
    faults = [*contradictions(decided, facts), *lacking(description)]
    if faults:
        raise NotPackageableError(faults)
    return description


def merged(decided: Facts, facts: Facts, *sources: Facts) -> Facts:
    """Return every field: by the configuration, else by a person, else by the first source that has it."""
    description: Facts = dict.fromkeys(FIELDS, "")
    for source in (*reversed(sources), facts, decided):
        description |= source
    stacks = [source[STACK] for source in (*reversed(sources), facts) if STACK in source]
    if stacks and isinstance(stacks[-1], dict):
        # A person adds what the runs do not know (the driver), and need not repeat what they do.
        description[STACK] = {
            name: value for stack in stacks if isinstance(stack, dict) for name, value in stack.items()
        }
    return description


def contradictions(decided: Facts, facts: Facts) -> Iterator[str]:
    """Yield where a person contradicts the configuration."""
    for name in FROM_THE_RUNS:
        if facts.get(name, decided[name]) != decided[name]:
            yield f"{name}: system.yaml states {facts[name]!r}, but the runs have {decided[name]!r}"


def lacking(description: Facts, *, without: Collection[str] = ()) -> Iterator[str]:
    """Yield a fault for each needed field that is empty, except those in `without`, which are filled later."""
    for name in NEEDED:
        if not description[name] and name not in without:
            yield f"{name} is empty; state it in system.yaml"


def decided_by(config: RunConfig, submitter: str) -> Facts:
    """Return the fields of FROM_THE_RUNS; a status that is not set yet is empty."""
    status = config.submission.status
    return {
        "submitter": submitter,
        "division": config.submission.division,
        "status": "" if status is None else STATUSES[status],
        "number_of_nodes": str(config.layout.nodes),
        "accelerators_per_node": str(config.layout.gpus_per_node),
    }


def _recorded(record: RunRecord) -> Facts:
    """Return the fields of the machine and the software of the runs that run.json holds."""
    seen, versions = record.machine, record.versions
    memory, engine = seen.get("memory_gib"), versions.get("megatron-core")
    kernel = seen.get("kernel")
    return {
        "host_processor_model_name": str(seen.get("processor") or ""),
        "host_memory_capacity": "" if memory is None else f"{memory} GiB",
        "framework": "" if engine is None else f"Megatron-Core {engine}",
        STACK: {**versions, **({} if kernel is None else {"kernel": str(kernel)})},
    }
