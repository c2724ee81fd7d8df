"""List what the policies ask of a submitter besides valid results, each item with its state after packaging.

The section "Submission checklist" of submission_rules.adoc is empty ("in progress"). So the items come from its other
sections and from training_rules.adoc.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmark.benchmarks import BENCHMARKS
from benchmark.config import RunConfig
from benchmark.run_record import Scalar
from compliance.checks.systems import FIELDS
from compliance.package.facts import Facts
from compliance.package.runs import ChosenRuns


class State(enum.StrEnum):
    """The state of an item."""

    DONE = "done"
    """The harness has done it, as the tree shows."""
    TO_DO = "to do"
    """The submitter has to do it."""
    NOT_APPLICABLE = "n/a"
    """It does not apply to this submission."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that the policies ask for."""

    what: str
    """Its name."""
    state: State
    said: str
    """What was done, what is left to do, or why it does not apply."""
    source: str
    """The document and section that ask for it."""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A submission as the items see it."""

    chosen: Sequence[ChosenRuns]
    descriptions: Mapping[str, Facts]
    """Name of a system -> its description."""
    code: Mapping[str, Scalar]
    """Revision of the packaged code and whether it was modified, as in run.json."""

    @property
    def configs(self) -> list[RunConfig]:
        return [chosen.launch.config for chosen in self.chosen]


_UNASKED = frozenset(
    {
        *("host_processor_frequency", "host_processor_caches", "host_processor_interconnect"),
        *("accelerator_frequency", "accelerator_on-chip_memories", "accelerator_interconnect_topology"),
        *("hw_notes", "sw_notes"),
    }
)
"""Fields for which the rules do not ask for a "meaningful response"."""

_EITHER = ("host_processor_core_count", "host_processor_vcpu_count")
"""Fields of which one is enough."""

_EVIDENCE = {
    "onprem": "show that the system can be bought: prices, a third party that has one, a public page",
    "cloud": "show that the system can be rented: prices, a third party that did, a public page",
    "preview": "submit the system as available in the next round after 140 days, or this result becomes void",
    "research": "do not submit any part of it as available before the round after next, or 221 days",
}
"""Status of a system -> what its category asks for."""

Rule = Callable[[Packed], tuple[State, str]]

_ITEMS: list[tuple[str, str, Rule]] = []


def _item(what: str, source: str) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        _ITEMS.append((what, source, rule))
        return rule

    return add


def checklist(packed: Packed) -> tuple[Item, ...]:
    """Return every item, in the order in which they come up."""
    return tuple(Item(what, *rule(packed), source) for what, source, rule in _ITEMS)


def names() -> tuple[str, ...]:
    """Return the names of the items, which are the same for every submission."""
    return tuple(what for what, _, _ in _ITEMS)


@_item("registration", 'submission_rules.adoc, "Registration"')
def _registration(_packed: Packed) -> tuple[State, str]:
    return State.TO_DO, "sign the CLA and register with the working group, eight weeks before the deadline"


@_item("round", 'submission_rules.adoc, "Schedule"')
def _round(packed: Packed) -> tuple[State, str]:
    latest = max(row.rulesets[-1] for row in BENCHMARKS.values() if row.submittable)
    old = {f"{config.benchmark} {config.rules.ruleset}" for config in packed.configs if config.rules.ruleset != latest}
    if old:
        return (
            State.TO_DO,
            f"ask the working group whether a round takes {', '.join(sorted(old))}; the latest is {latest}",
        )
    return State.TO_DO, f"submit to the round of {latest} before its deadline"


@_item("layout", 'submission_rules.adoc, "Directory structure"')
def _layout(_packed: Packed) -> tuple[State, str]:
    return State.DONE, "systems/, results/, benchmarks/; every check of this harness and of the official tools passes"


@_item("runs", 'training_rules.adoc, "Scoring"')
def _runs(packed: Packed) -> tuple[State, str]:
    sets = (f"{len(chosen.runs)} of {chosen.launched} of {chosen.launch.record.system}" for chosen in packed.chosen)
    return State.DONE, f"the median set: {', '.join(sets)}; if you made more runs with these, package them together"


@_item("system description", 'submission_rules.adoc, "<system_desc_id>.json metadata"')
def _description(packed: Packed) -> tuple[State, str]:
    blank = [
        f"{', '.join(fields)} of systems/{system}.json"
        for system, facts in packed.descriptions.items()
        if (fields := list(_blank(facts)))
    ]
    if blank:
        return State.TO_DO, f"fill in system.yaml and package again: {'; '.join(blank)}"
    return State.DONE, "every field that needs a meaningful value has one"


def _blank(facts: Facts) -> Iterator[str]:
    yield from (field for field in FIELDS if field not in {*_UNASKED, *_EITHER} and not facts.get(field))
    if not any(facts.get(field) for field in _EITHER):
        yield " or ".join(_EITHER)


@_item("category", 'submission_rules.adoc, "Results categories"')
def _category(packed: Packed) -> tuple[State, str]:
    statuses = dict.fromkeys(str(config.submission.status) for config in packed.configs)
    return State.TO_DO, "; ".join(f"{status}: {_EVIDENCE[status]}" for status in statuses)


@_item("code", 'submission_rules.adoc, "Source code requirements for replication"')
def _code(packed: Packed) -> tuple[State, str]:
    ran = {chosen.launch.record.code.get("revision") for chosen in packed.chosen}
    changed = any(chosen.launch.record.code.get("modified") is not False for chosen in packed.chosen)
    here = packed.code
    if changed or None in ran or ran != {here.get("revision")} or here.get("modified") is not False:
        revisions = ", ".join(sorted(f"{revision or 'unknown'}"[:12] for revision in ran))
        of_runs = f"revision {revisions}{' with changes' if changed else ''}"
        packs = f"{here.get('revision') or 'unknown'}"[:12] + ("" if here.get("modified") is False else " with changes")
        return (
            State.TO_DO,
            f"make sure that the packaged code is what ran: the runs had {of_runs}, the package has {packs}",
        )
    return State.DONE, f"the code of the runs, revision {here['revision']}, in benchmarks/, under Apache 2.0 (LICENSE)"


@_item("software", 'submission_rules.adoc, "Source code requirements for replication"')
def _software(packed: Packed) -> tuple[State, str]:
    if images := {config.job.container_image for config in packed.configs if config.job.container_image}:
        return State.TO_DO, f"publish the image or describe how it is built: {', '.join(sorted(images))}"
    return State.DONE, "versions are in README.md; the lock files in its folder say where each package is from"


@_item("README", 'submission_rules.adoc, "Source code requirements for training inspection"')
def _readme(_packed: Packed) -> tuple[State, str]:
    return State.DONE, "in each implementation: steps, data, hyperparameters, files of each part; read it once"


@_item("batch size", 'training_rules.adoc, "Reference Convergence Points"')
def _batch_size(packed: Packed) -> tuple[State, str]:
    small = {
        f"{config.layout.global_batch_size} of {config.benchmark}"
        for config in packed.configs
        if not config.is_open and config.layout.global_batch_size < config.rules.reference_points[0].global_batch_size
    }
    if small:
        return State.TO_DO, f"ask the working group for a reference point at {', '.join(sorted(small))}"
    return State.NOT_APPLICABLE, "it lies within the reference points, or the division is open and needs none"


@_item("seeds", 'training_rules.adoc, "Random numbers"')
def _seeds(packed: Packed) -> tuple[State, str]:
    if all(config.is_open for config in packed.configs):
        return State.NOT_APPLICABLE, "the open division does not ask for seeds"
    return State.DONE, "each run has its own, from the system's entropy or as the README states"


@_item("power", 'submission_rules.adoc, "Directory structure"')
def _power(_packed: Packed) -> tuple[State, str]:
    return (
        State.NOT_APPLICABLE,
        "optional and not measured; add power/result_<n>/ to the folder of the logs if you have it",
    )


@_item("upload", 'submission_rules.adoc, "How to Submit"')
def _upload(_packed: Packed) -> tuple[State, str]:
    return State.TO_DO, "encrypt a tarball of the folder, upload it to MLCommons' bucket, confirm it on the web page"


@_item("review", 'submission_rules.adoc, "Required reviews", "Filing objections"')
def _review(_packed: Packed) -> tuple[State, str]:
    return State.TO_DO, "review another submission, answer objections to yours, declare borrowed hyperparameters"


@_item("publication", 'training_rules.adoc, "Divisions"; submission_rules.adoc, "Terms of use"')
def _publication(packed: Packed) -> tuple[State, str]:
    named = ", ".join(sorted({f"{config.benchmark} {config.submission.division}" for config in packed.configs}))
    return State.TO_DO, f"once it is public, cite it with its division ({named}) and by the messaging guidelines"
