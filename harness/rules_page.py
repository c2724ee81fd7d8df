"""docs/rules.md: every rule in words, from the rules themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compliance.checks.packages import PACKAGE_RULES
from compliance.checks.rule import Rule, Rulebook
from compliance.checks.systems import SYSTEM_RULES
from compliance.result import RESULT_RULES
from compliance.run import RUN_RULES
from harness.preflight import PREFLIGHT_RULES

BOOKS: tuple[tuple[str, Rulebook[Any]], ...] = (
    ("A configuration, before it runs", PREFLIGHT_RULES),
    ("One log", RUN_RULES),
    ("The runs of one result together", RESULT_RULES),
    ("A system of a submission", SYSTEM_RULES),
    ("The tree of a submission", PACKAGE_RULES),
)

_HEAD = """\
# Rules

What `llama31 check` judges by: the MLPerf Training policies as far as they concern these benchmarks, and what a log
must hold to be judged at all. Printed by `llama31 rules`; change a rule where it is written.

- **ERROR**: the rule is broken, or cannot be judged.
- **WARNING**: it is broken the way accepted published logs break it, or rule and official checker contradict.
- **INFO**: worth knowing; breaks no rule.

A rule's own severity is given; where one of its findings has another, the example says so.
"""


def rules_page() -> str:
    """The page, as Markdown."""
    return "\n".join([_HEAD, *(_section(title, book) for title, book in BOOKS)])


def _section(title: str, book: Rulebook[Any]) -> str:
    # By the file they are written in, then as written there: they are registered as modules happen to be imported.
    rules = sorted(book.rules.values(), key=lambda rule: rule.check.__module__)
    return "\n".join([f"## {title}\n", *map(_entry, rules)])


def _entry(rule: Rule[Any]) -> str:
    facts = f"{rule.severity}, {', '.join(_scope(rule)) or 'all rulesets'}"
    return f"### `{rule.id}`\n\n{rule.description}\n\n- {facts}\n- Source: {rule.source}\n- Broken by: {rule.example}\n"


def _scope(rule: Rule[Any]) -> Iterator[str]:
    if rule.since is not None:
        yield f"since {rule.since}"
    if rule.until is not None:
        yield f"until {rule.until}"
    if rule.benchmarks is not None:
        yield f"only {', '.join(sorted(rule.benchmarks))}"
