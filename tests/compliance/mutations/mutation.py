"""The kinds of mutations, and what a checker must say about each."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from compliance.debatable import DEBATABLE
from tests.compliance.mutations.trees import B8, B405, Tree
from tests.logs import LogFile


class Label(enum.Enum):
    """What a checker must say."""

    REJECT = "a rule is broken"
    OFFICIAL = "no rule's text is broken, but an official tool refuses it"
    PASS = "no ERROR"
    DEBATABLE = "the sources disagree or are silent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One change of something valid."""

    id: str
    about: str
    """What was changed, in one sentence."""
    label: Label
    source: str
    """Where the rule is written, with its words; or the official code that decides."""
    ruleset: str
    """The one to judge by."""

    def __post_init__(self) -> None:
        if (self.label is Label.DEBATABLE) != (self.id in DEBATABLE):
            raise ValueError(f"{self.id}: a debatable mutation, and no other, has its reason in compliance.debatable")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMutation(Mutation):
    """A change of one valid log, which is judged alone."""

    benchmark: str
    change: Callable[[LogFile], object]
    rewrite: Callable[[str], str] | None = None
    """What is done to the text of the log, after the change of its events."""
    made_for: str
    """The ruleset that the log was valid in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeMutation(Mutation):
    """A change of a valid submission, which is judged whole."""

    change: Callable[[Tree], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """A label that was changed after the first run."""

    id: str
    before: Label
    after: Label
    why: str


# Rows of the tables: an id, what was changed, the change, the label and its source.


def _of_log(
    benchmark: str,
    latest: str,
    id: str,
    about: str,
    change: Callable[[LogFile], object],
    label: Label,
    source: str,
    *,
    ruleset: str | None = None,
    made_for: str | None = None,
    rewrite: Callable[[str], str] | None = None,
) -> LogMutation:
    """A row of a benchmark, in its latest round unless another is named."""
    return LogMutation(
        id=f"{benchmark.removeprefix('llama31_')}.{id}",
        about=about,
        change=change,
        rewrite=rewrite,
        label=label,
        source=source,
        benchmark=benchmark,
        ruleset=ruleset or latest,
        made_for=made_for or ruleset or latest,
    )


of_405b = partial(_of_log, B405, "6.0.0")
of_8b = partial(_of_log, B8, "6.1.0")


def of_both(
    id: str,
    about: str,
    change: Callable[[LogFile], object],
    label: Label,
    source: str,
    *,
    rewrite: Callable[[str], str] | None = None,
) -> tuple[LogMutation, LogMutation]:
    """The same for both benchmarks, each in its latest round."""
    return (
        of_405b(id, about, change, label, source, rewrite=rewrite),
        of_8b(id, about, change, label, source, rewrite=rewrite),
    )


def of_tree(
    id: str,
    about: str,
    change: Callable[[Tree], object],
    label: Label,
    source: str,
    *,
    ruleset: str = "6.0.0",
) -> TreeMutation:
    return TreeMutation(id=f"tree.{id}", about=about, change=change, label=label, source=source, ruleset=ruleset)


def named(mutation: Mutation) -> str:
    return mutation.id
