"""The tree of an organisation: systems/, results/ and benchmarks/ as a submission has them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmark.rules import BENCHMARKS, TABLE, Rules
from compliance.check import find_logs, open_result
from compliance.clock_checks import DIVISIONS_WITH_LIMIT
from compliance.findings import Finding, Severity, show
from compliance.log import load
from compliance.result_checks import Result
from compliance.rule import Breach, Rulebook
from compliance.run import Run

SUBMISSION_STRUCTURE = 'submission_rules.adoc, "Submission content"'
PACKAGE_CHECKER = "mlcommons/logging, package_checker"
SYSTEM_CHECKER = "mlcommons/logging, system_desc_checker"
REPOSITORY_CHECKER = "mlcommons/logging, repo_checker"

NOT_A_RUN = ("simulated", "proxy", "mock_data", "forced_success")
"""Names in the value of an event by which a log says that it is not of a run that counts."""

STATUSES = {
    "onprem": "Available on-premise",
    "cloud": "Available cloud",
    "preview": "Preview",
    "research": "Research, Development, or Internal (RDI)",
}
"""submission_status of a log -> status of the system."""

SYSTEM_FIELDS = (
    *("submitter", "division", "status", "system_name", "number_of_nodes", "host_processors_per_node"),
    *("host_processor_model_name", "host_processor_core_count", "host_processor_vcpu_count"),
    *("host_processor_frequency", "host_processor_caches", "host_processor_interconnect", "host_memory_capacity"),
    *("host_storage_type", "host_storage_capacity", "host_networking", "host_networking_topology"),
    *("host_memory_configuration", "accelerators_per_node", "accelerator_model_name"),
    *("accelerator_host_interconnect", "accelerator_frequency", "accelerator_on-chip_memories"),
    *("accelerator_memory_configuration", "accelerator_memory_capacity", "accelerator_interconnect"),
    *("accelerator_interconnect_topology", "cooling", "hw_notes", "framework", "other_software_stack"),
    *("operating_system", "sw_notes"),
)
"""What every system description has."""
COUNTS = ("number_of_nodes", "host_processors_per_node", "accelerators_per_node")
"""Fields that are whole numbers, written as strings."""
NAMED = ("submitter", "system_name", "host_processor_model_name", "accelerator_model_name", "framework")
"""Fields that are never empty."""

LARGEST_FILE = 50 << 20
"""Bytes."""
_DESCRIPTION_LIMIT = 1 << 20
_LOG_NAME = re.compile(r"result_.*\.txt")

System = Mapping[str, object]


@dataclass(frozen=True)
class Package:
    """The tree of one organisation."""

    directory: Path
    ruleset: str | None = None
    """As in compliance.check.check_paths."""

    @property
    def file(self) -> str:
        return str(self.directory)

    @property
    def row(self) -> Rules | None:
        return next((result.row for result in self.results if result.row is not None), None)

    @cached_property
    def results(self) -> tuple[Result, ...]:
        """The results in results/<system>/<benchmark>."""
        folders = [folder for folder in self.result_folders if any(map(_is_log, folder.iterdir()))]
        groups = [group for folder in folders for group in find_logs([folder]) if group.paths[0].parent == folder]
        return tuple(open_result(group, self.ruleset) for group in groups)

    @cached_property
    def result_folders(self) -> tuple[Path, ...]:
        """Each results/<system>/<benchmark>, with logs or without."""
        return tuple(sorted(path for path in self.directory.glob("results/*/*") if path.is_dir()))

    @cached_property
    def systems(self) -> Mapping[Path, System | str]:
        """Each systems/<system>.json, or why it cannot be read."""
        return {path: _read_system(path) for path in sorted(self.directory.glob("systems/*.json"))}

    @property
    def readable_systems(self) -> Mapping[Path, System]:
        return {path: system for path, system in self.systems.items() if not isinstance(system, str)}

    def description(self, system: str) -> Path:
        """Where the description of a system is to be."""
        return self.directory / "systems" / f"{system}.json"


def _is_log(path: Path) -> bool:
    return bool(_LOG_NAME.fullmatch(path.name))


def _read_system(path: Path) -> System | str:
    try:
        with path.open("rb") as stream:
            system = json.loads(stream.read(_DESCRIPTION_LIMIT))
    except (OSError, ValueError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"
    return system if isinstance(system, dict) else f"no object: {show(system)}"


PACKAGE_RULES: Rulebook[Package] = Rulebook()
rule = PACKAGE_RULES.rule


def check_package(package: Package) -> tuple[Finding, ...]:
    """Every finding about an organisation's tree as a whole; raises nothing."""
    return PACKAGE_RULES.judge(package)


# What is no run.


def disqualifications(path: Path) -> list[str]:
    """Why a log, by what it says itself, is not of a run that counts; empty if it says nothing like that."""
    found = {
        f"line {item.line} says that the run is {mark}": None
        for events in load(path).events.values()
        for item in events
        if isinstance(item.event.value, dict)
        for mark in NOT_A_RUN
        if item.event.value.get(mark)
    }
    return list(found)


@rule("package.real_runs", source=SUBMISSION_STRUCTURE, example="a log of `python -m benchmark simulate`")
def real_runs(package: Package) -> Iterator[Breach]:
    """No log in a submission is of a run that was simulated, shortened, fed with mock data or forced to succeed."""
    for run in _runs(package):
        for reason in disqualifications(run.log.path):
            yield Breach(message="a log that cannot be submitted", expected="a run that trained", actual=reason)


def _runs(package: Package) -> Iterator[Run]:
    return (run for result in package.results for run in result.runs)


# The folders.


@rule("package.benchmark", source=PACKAGE_CHECKER, example="logs in results/SYSTEM/llama405b")
def benchmark(package: Package) -> Iterator[Breach]:
    """A result lies in the folder of its benchmark; the official checker skips a folder whose name it does not know."""
    for folder in package.result_folders:
        if folder.name not in BENCHMARKS and any(map(_is_log, folder.iterdir())):
            yield Breach(
                message="logs in a folder that is no benchmark's",
                expected=f"results/<system>/ with one of {', '.join(BENCHMARKS)}",
                actual=_relative(package, folder),
            )
    for result in package.results:
        row = result.row
        if row is not None and result.directory.name in BENCHMARKS and row.benchmark != result.directory.name:
            yield _differs(package, result.directory, "submission_benchmark of the logs", row.benchmark)


@rule("package.file_count", source=PACKAGE_CHECKER, example="four logs in results/SYSTEM/llama31_405b")
def file_count(package: Package) -> Iterator[Breach]:
    """A result has exactly as many logs as the rules ask for."""
    for folder in package.result_folders:
        needed = next((row.runs for row in TABLE if row.benchmark == folder.name), None)
        found = sum(map(_is_log, folder.iterdir()))
        if needed is not None and found != needed:
            yield Breach(
                message="a result with another number of logs than the rules ask for",
                expected=f"{needed} files result_*.txt in {_relative(package, folder)}",
                actual=str(found),
            )


@rule("package.names", source=REPOSITORY_CHECKER, example="a folder .git; `config 1.sh`")
def names(package: Package) -> Iterator[Breach]:
    """No name begins with a dot or holds a space, no link is broken, no file is above 50 MB."""
    for here, folders, files in os.walk(package.directory):
        for name in [*folders, *files]:
            fault = _name_fault(Path(here, name))
            if fault:
                yield Breach(message=fault, actual=show(_relative(package, Path(here, name))))


def _name_fault(path: Path) -> str:
    if path.name.startswith(".") or " " in path.name:
        return "a name with a space, or a dot at its beginning"
    if not path.exists():
        return "a broken link"
    return "a file above 50 MB" if path.is_file() and path.stat().st_size > LARGEST_FILE else ""


@rule(
    "package.implementation",
    source=SUBMISSION_STRUCTURE,
    severity=Severity.WARNING,
    example="no benchmarks/llama31_405b/implementations",
)
def implementation(package: Package) -> Iterator[Breach]:
    """What ran is there: benchmarks/<benchmark>/implementations/ holds it."""
    for name in sorted({result.directory.name for result in package.results}):
        folder = package.directory / "benchmarks" / name / "implementations"
        if not folder.is_dir() or not any(folder.iterdir()):
            yield Breach(message=f"no implementation of {name}", expected=f"files in {_relative(package, folder)}")


# The system descriptions.


@rule("package.system_missing", source=PACKAGE_CHECKER, example="results/SYSTEM without systems/SYSTEM.json")
def system_missing(package: Package) -> Iterator[Breach]:
    """Every system with results has a description of its name."""
    for system in sorted({folder.parent.name for folder in package.result_folders}):
        if not package.description(system).is_file():
            yield Breach(
                message=f"no description of system {show(system)}",
                expected=_relative(package, package.description(system)),
            )


@rule("package.system_unreadable", source=SYSTEM_CHECKER, example="a description that is a JSON list")
def system_unreadable(package: Package) -> Iterator[Breach]:
    """A description is one JSON object."""
    for path, system in package.systems.items():
        if isinstance(system, str):
            yield Breach(message=f"{_relative(package, path)} cannot be read", expected="a JSON object", actual=system)


@rule(
    "package.system_fields",
    source=SYSTEM_CHECKER,
    example="no `host_memory_capacity`; `accelerators_per_node` 8, a number",
)
def system_fields(package: Package) -> Iterator[Breach]:
    """A description has every field, as text; only other_software_stack may be an object."""
    for path, system in package.readable_systems.items():
        missing = [field for field in SYSTEM_FIELDS if field not in system]
        if missing:
            yield Breach(
                message=f"fields are missing in {_relative(package, path)}",
                expected=f"{len(SYSTEM_FIELDS)} fields",
                actual=f"without {', '.join(missing)}",
            )
        for field in SYSTEM_FIELDS:
            value = system.get(field, "")
            if not isinstance(value, str) and field != "other_software_stack":
                yield _wrong(package, path, field, value, "text")


@rule("package.system_values", source=SYSTEM_CHECKER, example='`division` "Closed"; `status` "onprem"')
def system_values(package: Package) -> Iterator[Breach]:
    """A description has a known status and division, whole numbers where they count things, and names."""
    for path, system in package.readable_systems.items():
        for field, (accepts, expected) in _ACCEPTED.items():
            value = system.get(field)
            if isinstance(value, str) and not accepts(value):
                yield _wrong(package, path, field, value, expected)


_ACCEPTED: dict[str, tuple[Callable[[str], bool], str]] = {
    "status": (lambda text: text in STATUSES.values(), f"one of {'; '.join(STATUSES.values())}"),
    # The official checker compares with "closed"; "Closed" passes and silently switches off its seed and RCP checks.
    "division": (lambda text: text in DIVISIONS_WITH_LIMIT, f"{' or '.join(DIVISIONS_WITH_LIMIT)}, in lower case"),
    **dict.fromkeys(COUNTS, (lambda text: text.isascii() and text.isdecimal(), "a whole number")),
    **dict.fromkeys(NAMED, (lambda text: bool(text.strip()), "a name")),
}


@rule("package.division", source=SUBMISSION_STRUCTURE, example="logs that say open for a system that says closed")
def division(package: Package) -> Iterator[Breach]:
    """The division of the logs is that of their system."""
    for result in package.results:
        path = package.description(result.directory.parent.name)
        stated = package.readable_systems.get(path, {}).get("division")
        for run in result.runs:
            if stated is not None and run.has("submission_division") and run.value("submission_division") != stated:
                yield _differs(package, run.log.path, f"division of {_relative(package, path)}", stated)


@rule(
    "package.submitter",
    source=SUBMISSION_STRUCTURE,
    severity=Severity.WARNING,
    example="`submitter` ORG in a folder org-v6.0",
)
def submitter(package: Package) -> Iterator[Breach]:
    """The folder of a submission has the name of its submitter."""
    for path, system in package.readable_systems.items():
        if "submitter" in system and system["submitter"] != package.directory.resolve().name:
            yield _wrong(package, path, "submitter", system["submitter"], package.directory.resolve().name)


def _wrong(package: Package, path: Path, field: str, value: object, expected: str) -> Breach:
    message = f"{field} in {_relative(package, path)} is not what it should be"
    return Breach(message=message, expected=expected, actual=show(value))


def _differs(package: Package, path: Path, what: str, value: object) -> Breach:
    return Breach(message=f"{_relative(package, path)} differs from the {what}", expected=show(value))


def _relative(package: Package, path: Path) -> str:
    return path.relative_to(package.directory).as_posix()
