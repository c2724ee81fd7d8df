"""Rules about a system of a submission: its description in systems/, compared with its logs and their folders.

The tree of an organisation holds results/<system>/<benchmark>/result_*.txt and systems/<system>.json.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

from benchmark.benchmarks import BENCHMARKS
from benchmark.decode import from_json, read_regular
from benchmark.mllog import STRICT_JSON
from benchmark.rules import Rules
from compliance.checks.clock import DIVISIONS_WITH_LIMIT
from compliance.checks.rule import AbsentError, Breach, Rulebook
from compliance.checks.sources import DIVISIONS, HYPERPARAMETERS
from compliance.findings import Finding, Severity, as_count, show
from compliance.result import Result
from compliance.run import Run

SUBMISSION_STRUCTURE = 'submission_rules.adoc, "Submission content"'
SYSTEM_CHECKER = "mlcommons/logging, system_desc_checker"
SUMMARIZER = "mlcommons/logging, result_summarizer"

MAX_DESCRIPTION = 1 << 20
"""Bytes of a description that are read at most; published ones have about 2000."""

FIELDS = (
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
"""The fields of every description. Source: system_desc_checker.py (compared in a test)."""

TEXTS = (
    *("submitter", "system_name", "host_processor_model_name", "host_processor_core_count"),
    *("accelerator_model_name", "accelerators_per_node", "framework"),
)
"""Fields that the official checker concatenates as text: a number there ends it with a traceback."""

NOTES = ("hw_notes", "sw_notes")
"""Fields that the official summariser concatenates as text unless they are empty."""

COUNTS = ("number_of_nodes", "host_processors_per_node", "accelerators_per_node")
"""Fields that the official summariser converts with int() and multiplies."""

REHEARSAL = "REHEARSAL-"
"""The prefix of the submitter in a rehearsed package."""

STATUSES = {
    "onprem": "Available on-premise",
    "cloud": "Available cloud",
    "research": "Research, Development, or Internal (RDI)",
    "preview": "Preview",
}
"""submission_status of a log -> status of its system. Source: system_desc_checker.py (compared in a test)."""

_MOST = 999_999_999
"""The largest number of nodes, processors or accelerators that is taken for one."""
_DIGITS = re.compile(r"\s*[0-9]{1,9}\s*", re.ASCII)
_MODEL = re.compile(r"[A-Za-z]+[0-9]+[A-Za-z]*")
"""The names of accelerator models, such as H100, GB200, MI300X."""


@dataclass(frozen=True)
class System:
    """One system of an organisation: its description and its results."""

    path: Path
    """systems/<system>.json, whether it exists or not."""
    results: tuple[Result, ...]
    given: Mapping[str, object] | None = None
    """The description, for a system whose file is not written yet."""

    @property
    def file(self) -> str:
        return str(self.path)

    @property
    def row(self) -> Rules | None:
        return next((result.row for result in self.results if result.row is not None), None)

    @property
    def runs(self) -> Iterator[Run]:
        return (run for result in self.results for run in result.runs)

    @cached_property
    def description(self) -> Mapping[str, object] | str:
        """The fields of the file or, as text, why it cannot be read."""
        if self.given is not None:
            return self.given
        try:
            return read_description(self.path)
        except (OSError, ValueError) as error:
            return f"{type(error).__name__}: {error}"

    def field(self, name: str) -> object:
        """Return a field of the description.

        Raises:
            AbsentError: the description cannot be read, or lacks the field.
        """
        if isinstance(self.description, str) or name not in self.description:
            raise AbsentError(name)
        return self.description[name]

    def text(self, name: str) -> str:
        """Return a field that is text.

        Raises:
            AbsentError: as `field` does, or the field is not text.
        """
        value = self.field(name)
        if not isinstance(value, str):
            raise AbsentError(name)
        return value

    def count(self, name: str) -> int:
        """Return the whole number that a field holds, as text or as a number.

        Raises:
            AbsentError: as `field` does, or the field is not a whole number.
        """
        number = _whole(self.field(name))
        if number is None:
            raise AbsentError(name)
        return number

    @property
    def accelerators(self) -> int:
        """Accelerators of all nodes together; raises AbsentError as `count` does, and if there are none."""
        accelerators = self.count("number_of_nodes") * self.count("accelerators_per_node")
        if not accelerators:
            raise AbsentError("accelerators")
        return accelerators


def read_description(path: Path) -> Mapping[str, object]:
    """Read a small file that holds one object of strict JSON.

    Raises:
        OSError, ValueError: the file cannot be read, or holds anything else.
    """
    description = from_json(read_regular(path, MAX_DESCRIPTION), STRICT_JSON)
    if not isinstance(description, dict):
        raise ValueError(f"expected a JSON object, read {show(description)}")
    return description


def _whole(value: object) -> int | None:
    """Return the whole number from 0 to _MOST that a value is, as text or as a number; None for anything else."""
    number = int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else as_count(value)
    return number if number is not None and number <= _MOST else None


def _is_refused(value: object) -> bool:
    """Return whether int(), and so the official summariser, refuses a value."""
    try:
        int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        return True
    return False


@dataclass(frozen=True, slots=True)
class TreePlace:
    """The place of a folder in the tree of an organisation."""

    tree: Path
    below: tuple[str, ...]
    """The names of the folders below results/ that lead to it: for a result, its system and its benchmark."""

    @property
    def system(self) -> Path | None:
        """The description of the system whose result lies here; None for a folder where no checker looks."""
        return self.tree / "systems" / f"{self.below[0]}.json" if len(self.below) == 2 else None


def place_of(directory: Path) -> TreePlace | None:
    """Return the place of a folder below the nearest results/ of a submission; None for a folder outside one.

    A tree is a submission if it has a folder systems/, or a benchmark's name in results/<system>/<benchmark>.
    """
    for here in (directory, Path(os.path.abspath(directory))):
        for depth, folder in enumerate((here, *here.parents)):
            below = here.parts[len(here.parts) - depth :]
            if folder.name == "results" and ".." not in below and _is_tree(folder.parent, below):
                return TreePlace(folder.parent, below)
    return None


def _is_tree(tree: Path, below: Sequence[str]) -> bool:
    return (len(below) > 1 and below[1] in BENCHMARKS) or (tree / "systems").is_dir()


SYSTEM_RULES: Rulebook[System] = Rulebook()
rule = SYSTEM_RULES.rule


def check_system(path: Path, results: Sequence[Result]) -> tuple[Finding, ...]:
    """Return every finding about a system, described in `path`, and its results; raises nothing."""
    return SYSTEM_RULES.judge(System(path, tuple(results)))


# The description alone.


@rule("system.missing", source=SUBMISSION_STRUCTURE, example="results/A/llama31_405b/ without systems/A.json")
def missing(system: System) -> Iterator[Breach]:
    """Every system with results is described in systems/<system>.json."""
    if not system.path.exists():
        yield Breach(
            message="these results have no description of their system, which would be refused officially",
            expected=f"a file {system.path.name}",
            actual=", ".join(_alike(system.path)),
        )


def _alike(path: Path) -> list[str]:
    """Return the files of its folder whose names differ from its own in case only."""
    names = os.listdir(path.parent) if path.parent.is_dir() else []
    return sorted(name for name in names if name.casefold() == path.name.casefold())


@rule("system.unreadable", source=SYSTEM_CHECKER, example="a field given twice; JSON that is cut off")
def unreadable(system: System) -> Iterator[Breach]:
    """The description is one object of strict JSON."""
    if isinstance(system.description, str) and system.path.exists():
        yield Breach(
            message="the description cannot be read", expected="a JSON object", actual=show(system.description)
        )


@rule("system.fields", source=SYSTEM_CHECKER, example="a description without `cooling`")
def fields(system: System) -> Iterator[Breach]:
    """The description has every field; a field may be empty."""
    description = system.description
    absent = [] if isinstance(description, str) else [name for name in FIELDS if name not in description]
    if absent:
        yield Breach(message="fields are missing", expected=f"{len(FIELDS)} fields", actual=f"no {', '.join(absent)}")


@rule(
    "system.text",
    source=f"{SYSTEM_CHECKER}; {SUMMARIZER}",
    example='`"accelerators_per_node": 8`, not "8"; a list in `hw_notes`',
)
def text(system: System) -> Iterator[Breach]:
    """Fields that the official tools concatenate as text are text; otherwise those tools end with a TypeError."""
    for name in _present(system, (*TEXTS, *NOTES)):
        value = system.field(name)
        if not isinstance(value, str) and (value or name in TEXTS):
            yield _wrong(system, name, "text", "is not text, which would be refused officially")


@rule("system.counts", source=SUMMARIZER, example='`"number_of_nodes": "eight"`, `"host_processors_per_node": ""`')
def counts(system: System) -> Iterator[Breach]:
    """The numbers of nodes, processors and accelerators are whole numbers, written as numbers or as text."""
    for name in _present(system, COUNTS):
        value = system.field(name)
        if _whole(value) is None:
            fault = "is not a number, which would be refused officially" if _is_refused(value) else ""
            yield _wrong(system, name, "a whole number", fault)


@rule("system.status", source=SYSTEM_CHECKER, example='`"status": "onprem"`')
def status(system: System) -> Iterator[Breach]:
    """The status is one of those that the rules name."""
    if system.field("status") not in STATUSES.values():
        yield _wrong(system, "status", f"one of {'; '.join(STATUSES.values())}")


@rule("system.division", source=DIVISIONS, example='`"division": "Closed"`; an open system whose logs say closed')
def division(system: System) -> Iterator[Breach]:
    """The division is closed or open, in lower case, as in the logs."""
    # The official checkers compare with "closed": "Closed" passes and silently turns off the checks of seeds and RCPs.
    stated = system.field("division")
    if stated not in DIVISIONS_WITH_LIMIT:
        yield _wrong(system, "division", f"{' or '.join(DIVISIONS_WITH_LIMIT)}, in lower case")
    yield from _other_in_logs(system, "submission_division", lambda value: value == stated, show(stated))


# The description compared with the logs.


@rule(
    "system.submitter",
    source=SUBMISSION_STRUCTURE,
    severity=Severity.WARNING,
    example="logs of another organisation; A + B and B+A count as one",
)
def submitter(system: System) -> Iterator[Breach]:
    """The submitter is the organisation that the logs name."""
    stated = system.text("submitter")
    yield from _other_in_logs(
        system,
        "submission_org",
        lambda value: isinstance(value, str) and organisations(value) == organisations(stated),
        show(stated),
    )


def organisations(text: str) -> list[str]:
    """Return the organisations that submit together, sorted, without the prefix of a rehearsal."""
    return sorted(name.strip() for name in text.removeprefix(REHEARSAL).split("+"))


@rule(
    "system.availability",
    source=SUBMISSION_STRUCTURE,
    severity=Severity.WARNING,
    example="`submission_status` onprem in the logs of a system in the cloud, as in accepted results",
)
def availability(system: System) -> Iterator[Breach]:
    """The status of the system is the one that the logs state."""
    stated = next((short for short, long in STATUSES.items() if long == system.field("status")), None)
    if stated is not None:
        yield from _other_in_logs(system, "submission_status", lambda value: value == stated, show(stated))


@rule(
    "system.platform",
    source=SUBMISSION_STRUCTURE,
    severity=Severity.WARNING,
    example="`submission_platform` 128xNVIDIA GB200 for 128 nodes of GB300, as in accepted results",
)
def platform(system: System) -> Iterator[Breach]:
    """If submission_platform states nodes and an accelerator, they are those of the system."""
    nodes, models = system.count("number_of_nodes"), _MODEL.findall(system.text("accelerator_model_name"))

    def fits(value: object) -> bool:
        number, times, name = str(value).partition("x")
        if times and number.isdecimal() and _whole(number) != nodes:
            return False
        return not models or not _MODEL.search(name) or any(model in name for model in models)

    yield from _other_in_logs(system, "submission_platform", fits, f"{nodes}x{' '.join(models)}")


def _other_in_logs(system: System, key: str, fits: Callable[[object], bool], expected: str) -> Iterator[Breach]:
    """Yield one breach for each value of a key that does not fit the description, however many logs have it."""
    first: dict[str, Run] = {}
    for run in system.runs:
        if run.has(key) and not fits(run.value(key)):
            first.setdefault(show(run.value(key)), run)
    for value, run in first.items():
        yield Breach(
            message=f"{key} in the logs contradicts the description",
            expected=expected,
            actual=f"{value} in {_place(run)}",
        )


# The folders.


@rule("system.benchmark", source=SUBMISSION_STRUCTURE, example="logs of llama31_8b in results/A/llama31_405b/")
def benchmark(system: System) -> Iterator[Breach]:
    """Logs lie in the folder of their benchmark, because the official checkers judge by the folder's name."""
    for run in system.runs:
        folder = run.log.path.absolute().parent.name
        if run.has("submission_benchmark") and run.value("submission_benchmark") != folder:
            yield Breach(
                message=f"{_place(run)} is in the folder of another benchmark",
                expected=f"submission_benchmark {folder}",
                actual=show(run.value("submission_benchmark")),
            )


# The layout of the model on the accelerators.


@rule(
    "system.layout",
    source=HYPERPARAMETERS,
    example="tensor_parallelism 8 and pipeline_parallelism 8 on 96 accelerators",
)
def layout(system: System) -> Iterator[Breach]:
    """The number of accelerators is a multiple of tensor times pipeline times context parallelism."""
    accelerators = system.accelerators
    for run in system.runs:
        size = _model_parallel(run)
        if size and accelerators % size:
            yield Breach(
                message=f"the parallelism of {_place(run)} does not fit the system",
                expected=f"a divisor of {accelerators} accelerators",
                actual=f"{size} = tensor x pipeline x context parallelism",
            )


@rule(
    "system.batch",
    source=HYPERPARAMETERS,
    example="global_batch_size 1152 on 8 replicas that each accumulate 72 micro batches of 1 sample",
)
def batch(system: System) -> Iterator[Breach]:
    """The global batch size is micro batch size times accumulation steps times replicas."""
    accelerators = system.accelerators
    for run in system.runs:
        size, micro, steps = _model_parallel(run), *(_logged(run, key) for key in _BATCH)
        if not (size and micro and steps) or accelerators % size:
            continue
        product = micro * steps * (accelerators // size)
        if product != run.global_batch_size:
            yield Breach(
                message=f"the global batch size of {_place(run)} does not fit the system",
                expected=f"{product} = {micro} x {steps} x {accelerators // size} (micro batch x steps x replicas)",
                actual=f"global_batch_size {run.global_batch_size}",
            )


_MODEL_PARALLEL = ("tensor_parallelism", "pipeline_parallelism", "context_parallelism")
_BATCH = ("micro_batch_size", "gradient_accumulation_steps")


def _model_parallel(run: Run) -> int:
    """Return the accelerators of one replica; 0 if the log does not say."""
    return prod(_logged(run, key) for key in _MODEL_PARALLEL)


def _logged(run: Run, key: str) -> int:
    """Return the whole number that a log has under a key; 0 if it has none."""
    return (as_count(run.value(key)) or 0) if run.has(key) else 0


def _present(system: System, names: Sequence[str]) -> Iterator[str]:
    """Yield the names that the description has; system.fields reports the others."""
    return (name for name in names if not isinstance(system.description, str) and name in system.description)


def _wrong(system: System, name: str, expected: str, fault: str = "") -> Breach:
    message = f"{name} {fault or 'has a wrong value'}"
    return Breach(message=message, expected=expected, actual=show(system.field(name)))


def _place(run: Run) -> str:
    return f"{run.log.path.absolute().parent.name}/{run.log.path.name}"
