"""systems/<system>.json: what the runs recorded, what this machine says, and what only a person knows."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from benchmark.config import RunConfig
from benchmark.run_record import RunRecord
from compliance.checks.systems import FIELDS, STATUSES
from compliance.package import machine
from compliance.package.facts import STACK, Facts
from compliance.package.runs import NotPackageable

FROM_THE_RUNS = ("submitter", "division", "status", "number_of_nodes", "accelerators_per_node")
"""Fields that the configuration decides; a file of facts may repeat them, not change them."""

NEEDED = (
    *("system_name", "host_processor_model_name", "host_processors_per_node", "accelerator_model_name"),
    "framework",
)
"""Fields that describe nothing, or are refused officially, when empty; the others may be."""


def describe(record: RunRecord, config: RunConfig, submitter: str, facts: Facts) -> Facts:
    """The description of the system that the runs of `config` were made on.

    What a person says comes before what a machine says. This machine is asked only if its processor is that of the
    runs: a package may be built on another one.

    Raises:
        NotPackageable: the facts contradict the runs, or a field that is needed is empty.
    """
    decided = decided_by(config, submitter)
    here = machine.processor()
    if here.get("host_processor_model_name") != record.machine.get("processor"):
        here = {}
    found = merged(decided, facts, _recorded(record), here)
    faults = [*contradictions(decided, facts), *lacking(found)]
    if faults:
        raise NotPackageable(faults)
    return found


def merged(decided: Facts, facts: Facts, *sources: Facts) -> Facts:
    """Every field: what the configuration decides, else what a person says, else what the first source does."""
    found: Facts = dict.fromkeys(FIELDS, "")
    for source in (*reversed(sources), facts, decided):
        found |= source
    stacks = [source[STACK] for source in (*reversed(sources), facts) if STACK in source]
    if stacks and isinstance(stacks[-1], dict):
        # A person names what the runs do not know (the driver), and need not repeat what they do.
        found[STACK] = {name: value for stack in stacks if isinstance(stack, dict) for name, value in stack.items()}
    return found


def contradictions(decided: Facts, facts: Facts) -> Iterator[str]:
    """What a person says otherwise than the configuration decides."""
    for name in FROM_THE_RUNS:
        if facts.get(name, decided[name]) != decided[name]:
            yield f"{name}: the facts say {facts[name]!r}, the runs {decided[name]!r}"


def lacking(found: Facts, *, without: Collection[str] = ()) -> Iterator[str]:
    """The needed fields that nobody has filled, `without` those that somebody will."""
    for name in NEEDED:
        if not found[name] and name not in without:
            yield f"{name} is empty; state it in system.yaml"


def decided_by(config: RunConfig, submitter: str) -> Facts:
    """The fields of FROM_THE_RUNS; a status that is not set yet is empty."""
    status = config.submission.status
    return {
        "submitter": submitter,
        "division": config.submission.division,
        "status": "" if status is None else STATUSES[status],
        "number_of_nodes": str(config.layout.nodes),
        "accelerators_per_node": str(config.layout.gpus_per_node),
    }


def _recorded(record: RunRecord) -> Facts:
    """What run.json holds of the machine and the software of the runs."""
    seen, versions = record.machine, record.versions
    memory, engine = seen.get("memory_gib"), versions.get("megatron-core")
    kernel = seen.get("kernel")
    return {
        "host_processor_model_name": str(seen.get("processor") or ""),
        "host_memory_capacity": "" if memory is None else f"{memory} GiB",
        "framework": "" if engine is None else f"Megatron-Core {engine}",
        STACK: {**versions, **({} if kernel is None else {"kernel": str(kernel)})},
    }
