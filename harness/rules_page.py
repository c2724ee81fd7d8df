"""docs/rules.md: every rule in words, from the rules themselves; and any one of them for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from benchmark.refusal import Refused
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

What `llama31 check` judges by: the MLPerf Training policies as far as they concern these benchmarks, and what a log
must hold to be judged at all. Printed by `llama31 rules`; change a rule where it is written.

- **ERROR**: a rule is broken or cannot be judged, or the official tools would refuse it; the finding says which.
- **WARNING**: a rule is broken the way accepted published logs break it, or an official tool demands what the policy's
  text forbids. That the official tools do not look at something lowers nothing.
- **INFO**: news; no rule is broken.

A rule's own severity is given; where one of its findings has another, the example says so. `llama31 rules RULE` prints
one rule, and every command that judges prints the ruleset and where it is from: `--ruleset`, else the run.json beside
the logs, else the nearest folder that is named after a round (training_results_v5.1, v5.1), else the latest ruleset
that has the benchmark. Logs of an earlier round are known by their times, see `run.resubmitted`.
"""


def rules_page() -> str:
    """The page, as Markdown."""
    return "\n".join([_HEAD, *(_section(title, book) for title, book in BOOKS), _debatable()])


def _debatable() -> str:
    """What the rules' texts leave open, a line each."""
    entries = (
        f"- {one.what} *{', '.join(f'`{rule}`' for rule in one.rules) or 'Passes'}.* {one.why}"
        for one in DEBATABLE.values()
    )
    head = "What no text decides, how it is judged (the rules of which it is an ERROR), and why."
    # Some are said of both benchmarks.
    return "\n".join(["## What is debatable\n", head, "", *dict.fromkeys(entries), ""])


def rule_text(id: str) -> str:
    """One rule, for a terminal.

    Raises:
        Refused: there is none of this id; those that it may have meant are named.
    """
    rules = {rule.id: rule for _, book in BOOKS for rule in book.rules.values()}
    if id not in rules:
        close = get_close_matches(id, rules, cutoff=0.5) or [rule for rule in rules if id in rule]
        raise Refused(
            f"there is no rule {id!r}"
            + (f"; did you mean {' or '.join(close)}?" if close else "; `llama31 rules` has all")
        )
    rule = rules[id]
    facts = {"severity": _facts(rule), "source": rule.source, "broken by": rule.example}
    return "\n".join([rule.id, "", rule.explanation, "", *(f"{name:<9}  {text}" for name, text in facts.items()), ""])


def _section(title: str, book: Rulebook[Any]) -> str:
    # By the file they are written in, then as written there: they are registered as modules happen to be imported.
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
