"""How rules are registered, selected and run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from benchmark.benchmarks import find
from benchmark.rules import Rules
from compliance.checks.rule import MOST_BREACHES, AbsentError, Breach, Rule, Rulebook
from compliance.findings import Severity
from compliance.result import RESULT_RULES
from compliance.run import RUN_RULES


@dataclass(frozen=True)
class FakeView:
    """A view of nothing, under the rules of one row."""

    row: Rules | None = None
    file: str = "a file"


def test_every_rule_is_unique_and_has_a_source_and_a_sentence() -> None:
    """A finding can be traced: its rule's id is its own, with a source and a description."""
    rules: list[Rule[Any]] = [*RUN_RULES.rules.values(), *RESULT_RULES.rules.values()]
    assert len({rule.id for rule in rules}) == len(rules)
    assert all(rule.source and rule.description.endswith(".") for rule in rules)


def test_two_rules_cannot_share_an_id() -> None:
    """A second rule with the id of another is refused when it is written."""
    book: Rulebook[FakeView] = Rulebook()
    book.rule("a.rule", source="here")(lambda view: ())
    with pytest.raises(ValueError, match=r"a\.rule"):
        book.rule("a.rule", source="here")(lambda view: ())


def test_crash_of_a_check_is_an_error_finding() -> None:
    """A check that crashes is an ERROR with the check's name; what it found before, and other checks, stay."""
    book: Rulebook[FakeView] = Rulebook()

    @book.rule("bad.check", source="here", severity=Severity.WARNING)
    def crashes(view: FakeView) -> Iterator[Breach]:
        yield Breach(message="found before")
        raise ZeroDivisionError("oops")

    @book.rule("good.check", source="here")
    def finds(view: FakeView) -> Iterator[Breach]:
        yield Breach(message="found after")

    before, crash, after = book.judge(FakeView())
    assert (before.message, before.severity) == ("found before", Severity.WARNING)
    assert (crash.rule, crash.severity) == ("bad.check", Severity.ERROR)
    assert "bad.check" in crash.message
    assert "ZeroDivisionError: oops" in crash.message
    assert after.message == "found after"


def test_check_ends_where_something_is_absent() -> None:
    """A check that asks for what is not there ends without a finding of its own."""
    book: Rulebook[FakeView] = Rulebook()

    @book.rule("a.rule", source="here")
    def asks(view: FakeView) -> Iterator[Breach]:
        if view.row is None:
            raise AbsentError("seed")
        yield Breach(message="never")

    assert book.judge(FakeView()) == ()


def test_findings_of_one_rule_are_capped() -> None:
    """A rule lists a few findings and counts the rest."""
    book: Rulebook[FakeView] = Rulebook()
    book.rule("a.rule", source="here")(lambda view: (Breach(message="again") for _ in range(10**5)))
    found = book.judge(FakeView())
    assert len(found) == MOST_BREACHES + 1
    assert str(10**5 - MOST_BREACHES) in found[-1].message


@pytest.mark.parametrize(
    ("since", "until", "benchmarks", "applies"),
    [
        (None, None, None, True),
        ("5.1.0", None, None, True),
        ("5.1.1", None, None, False),
        ("5.0.0", "5.0.9", None, False),
        (None, "5.10.0", None, True),
        (None, None, ["llama31_405b"], True),
        (None, None, ["llama31_8b"], False),
    ],
)
def test_rule_applies_within_its_rulesets_and_benchmarks(
    since: str | None, until: str | None, benchmarks: list[str] | None, applies: bool
) -> None:
    """A rule is asked only under the rulesets and benchmarks that have it, both ends included."""
    book: Rulebook[FakeView] = Rulebook()
    check = book.rule("a.rule", source="here", since=since, until=until, benchmarks=benchmarks)
    check(lambda view: [Breach(message="asked")])
    assert bool(book.judge(FakeView(find("llama31_405b", "5.1.0")))) == applies


def test_rule_of_some_rulesets_is_not_asked_without_rules() -> None:
    """Where the benchmark is unknown, only rules of every ruleset are asked."""
    book: Rulebook[FakeView] = Rulebook()
    book.rule("some.rule", source="here", since="5.0.0")(lambda view: [Breach(message="asked")])
    assert book.judge(FakeView()) == ()
