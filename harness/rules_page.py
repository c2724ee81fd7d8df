"""Writes docs/rules.md, every rule in words, from the rules themselves; or one rule for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from benchmark.errors import RefusedError
from compliance.checks.packages import PACKAGE_RULES
from compliance.checks.rule import Rule, Rulebook
from compliance.checks.systems import SYSTEM_RULES
from compliance.debatable import DEBATABLE
from compliance.result import RESULT_RULES
from compliance.run import RUN_RULES
from harness.here import HERE_RULES
from harness.preflight import PREFLIGHT_RULES

BOOKS: tuple[tuple[str, Rulebook[Any]], ...] = (
    ("A configuration, before it runs", PREFLIGHT_RULES),
    ("What a run would find on this machine (`llama31 preflight`)", HERE_RULES),
    ("One log", RUN_RULES),
    ("The runs of one result together", RESULT_RULES),
    ("A system of a submission", SYSTEM_RULES),
    ("The tree of a submission", PACKAGE_RULES),
)

_HEAD = """\
# Rules

This page is for looking up a rule of `llama31 check`, with its source and an example that breaks it. The rules are
the MLPerf Training policies that concern these benchmarks, and what a log must contain to be judged at all. A sample is
one sequence of tokens. `llama31 rules` prints this page, and `llama31 rules RULE` prints one rule.

- **ERROR**: a rule is broken or cannot be judged, or the official tools would refuse the log; the finding says which.
- **WARNING**: a rule is broken as accepted published logs break it, or an official tool asks for what the policy
  forbids. A rule that the official tools do not check is not a WARNING for that reason.
- **INFO**: something worth knowing; no rule is broken.

Each rule has its severity below. If some of its findings have another severity, the example says so. Every command
that judges prints the ruleset and where it comes from: `--ruleset`, else the run.json in the folder of the logs, else
the nearest folder that is named after a round (training_results_v5.1, v5.1), else the latest ruleset that has the
benchmark. A log of an earlier round is recognised by its times; see `run.resubmitted`.
"""


def rules_page() -> str:
    """Return the page, as Markdown."""
    return "\n".join([_HEAD, *(_section(title, book) for title, book in BOOKS), _debatable()])


def _debatable() -> str:
    """Return the cases that the rules' texts leave open, a line each."""
    entries = (
        f"- {one.what} *{', '.join(f'`{rule}`' for rule in one.rules) or 'Passes'}.* {one.why}"
        for one in DEBATABLE.values()
    )
    head = "Cases that no text decides, each with its judgement (the rules under which it is an ERROR) and the reasons."
    # Some cases concern both benchmarks.
    return "\n".join(["## What is debatable\n", head, "", *dict.fromkeys(entries), ""])


def rule_text(id: str) -> str:
    """Return one rule, for a terminal.

    Raises:
        RefusedError: there is no rule of this id; the message names similar ones.
    """
    rules = {rule.id: rule for _, book in BOOKS for rule in book.rules.values()}
    if id not in rules:
        close = get_close_matches(id, rules, cutoff=0.5) or [rule for rule in rules if id in rule]
        raise RefusedError(
            f"there is no rule {id!r}"
            + (f"; did you mean {' or '.join(close)}?" if close else "; `llama31 rules` has all")
        )
    rule = rules[id]
    facts = {"severity": _facts(rule), "source": rule.source, "broken by": rule.example}
    return "\n".join([rule.id, "", rule.explanation, "", *(f"{name:<9}  {text}" for name, text in facts.items()), ""])


def _section(title: str, book: Rulebook[Any]) -> str:
    # Sorted by file, then in the order of the file: registration follows whatever order modules are imported in.
    rules = sorted(book.rules.values(), key=lambda rule: rule.check.__module__)
    return "\n".join([f"## {title}\n", *map(_entry, rules)])


def _entry(rule: Rule[Any]) -> str:
    return (
        f"### `{rule.id}`\n\n{rule.explanation}\n\n"
        f"- {_facts(rule)}\n- Source: {rule.source}\n- Broken by: {rule.example}\n"
    )


def _facts(rule: Rule[Any]) -> str:
    return f"{rule.severity}, {', '.join(_scope(rule)) or 'all rulesets'}"


def _scope(rule: Rule[Any]) -> Iterator[str]:
    if rule.since is not None:
        yield f"since {rule.since}"
    if rule.until is not None:
        yield f"until {rule.until}"
    if rule.benchmarks is not None:
        yield f"only {', '.join(sorted(rule.benchmarks))}"
