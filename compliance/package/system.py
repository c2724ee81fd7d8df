"""systems/<system>.json: what the runs recorded, what this machine says, and what only a person knows."""

from __future__ import annotations

import difflib
import subprocess
from pathlib import Path

import yaml

from benchmark.config import RunConfig
from benchmark.run_record import RunRecord, distribution, machine
from compliance.checks.systems import FIELDS, STATUSES
from compliance.package.runs import NotPackageable

FROM_THE_RUNS = ("submitter", "division", "status", "number_of_nodes", "accelerators_per_node")
"""Fields that the configuration decides; a file of facts may repeat them, not change them."""

NEEDED = (
    *("system_name", "host_processor_model_name", "host_processors_per_node", "accelerator_model_name"),
    "framework",
)
"""Fields that describe nothing, or are refused officially, when empty; the others may be."""

# Field -> the name that lscpu gives it.
_LSCPU = {
    "host_processors_per_node": "Socket(s)",
    "host_processor_core_count": "Core(s) per socket",
    "host_processor_vcpu_count": "CPU(s)",
    "host_processor_frequency": "CPU max MHz",
    "host_processor_caches": "L3 cache",
}
_LSCPU_TIMEOUT_S = 10

Facts = dict[str, object]


def describe(record: RunRecord, config: RunConfig, submitter: str, facts: Facts) -> dict[str, object]:
    """The description of the system that the runs of `config` were made on.

    What a person says comes before what a machine says. This machine is asked only if its processor is that of the
    runs: a package may be built on another one.

    Raises:
        NotPackageable: the facts contradict the runs, or a field that is needed is empty.
    """
    decided = _decided(config, submitter)
    stated = decided | {field: facts[field] for field in FROM_THE_RUNS if field in facts}
    faults = [
        f"{field}: the facts say {stated[field]!r}, the runs {decided[field]!r}"
        for field in FROM_THE_RUNS
        if stated[field] != decided[field]
    ]
    found = dict.fromkeys(FIELDS, "") | _recorded(record) | _of_this_machine(record) | facts | decided
    faults += [f"{field} is empty; state it in the file of facts" for field in NEEDED if not found[field]]
    if faults:
        raise NotPackageable(faults)
    return found


def read_facts(path: Path) -> Facts:
    """The fields in a YAML file; numbers become text, as the official checkers want them.

    Raises:
        NotPackageable: it cannot be read, or holds what is no field of a description.
    """
    try:
        facts = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise NotPackageable([f"{path} cannot be read: {error}"]) from None
    if not isinstance(facts, dict):
        raise NotPackageable([f"{path}: expected lines such as `system_name: DGX H100`, read {facts!r}"])
    faults = [f"{path}: {_misspelt(str(name))}" for name in facts if name not in FIELDS]
    faults += [
        f"{path}: {name} is {value!r}; expected text" for name, value in facts.items() if _is_nested(name, value)
    ]
    if faults:
        raise NotPackageable(faults)
    return {name: value if isinstance(value, dict) else _as_text(value) for name, value in facts.items()}


def _misspelt(name: str) -> str:
    near = difflib.get_close_matches(name, FIELDS, n=1)
    return f"{name} is no field of a system" + (f"; did you mean {near[0]}?" if near else f"; {', '.join(FIELDS)}")


def _is_nested(name: object, value: object) -> bool:
    return isinstance(value, list) or (isinstance(value, dict) and name != "other_software_stack")


def _as_text(value: object) -> str:
    return "" if value is None else str(value)


def _decided(config: RunConfig, submitter: str) -> dict[str, str]:
    values = (submitter, config.submission.division, STATUSES[config.submission.status])
    return dict(zip(FROM_THE_RUNS, (*values, str(config.layout.nodes), str(config.layout.gpus_per_node)), strict=True))


def _recorded(record: RunRecord) -> dict[str, object]:
    """What run.json holds of the machine and the software of the runs."""
    seen, versions = record.machine, record.versions
    memory, engine = seen.get("memory_gib"), versions.get("megatron-core")
    return {
        "host_processor_model_name": _as_text(seen.get("processor")),
        "host_memory_capacity": "" if memory is None else f"{memory} GiB",
        "framework": "" if engine is None else f"Megatron-Core {engine}",
        "other_software_stack": {**versions, "kernel": _as_text(seen.get("kernel"))},
    }


def _of_this_machine(record: RunRecord) -> dict[str, object]:
    if machine()["processor"] != record.machine.get("processor"):
        return {}
    topology = _lscpu()
    fields: dict[str, object] = {field: topology[name] for field, name in _LSCPU.items() if name in topology}
    name = distribution()
    return fields | ({"operating_system": name} if name else {})


def _lscpu() -> dict[str, str]:
    """What lscpu prints, by name; empty where there is none."""
    try:
        done = subprocess.run(["lscpu"], capture_output=True, text=True, check=True, timeout=_LSCPU_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return {}
    lines = (line.partition(":") for line in done.stdout.splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}
