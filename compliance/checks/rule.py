"""Write and run rules: `@rule("<id>", source=..., since=..., until=...)` makes one of a function that takes a view.

That function, the check, yields a `Breach` for each fault of its view (a run, a result). It asks the view for what it
needs. If that is not in the log, the view raises `AbsentError` and the check ends: the rule that requires the missing
thing reports it, so that one missing event makes one finding. A check that crashes becomes an ERROR finding under its
own id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from inspect import cleandoc
from typing import Generic, Protocol, TypeVar

from benchmark.errors import HarnessError
from benchmark.plurals import counted
from benchmark.rules import Rules
from compliance.findings import Finding, Severity

MOST_BREACHES = 10
"""Findings of one rule about one view that are listed. The rest are counted, so that no log floods its reader."""


class AbsentError(HarnessError):
    """Raised by a view for something that it lacks; the rule that requires it reports that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """One fault that a check found; its rule adds the rest of a Finding."""

    message: str
    line: int | None = None
    expected: str = ""
    actual: str = ""
    severity: Severity | None = None
    """The rule's own if None."""


class View(Protocol):
    """What rules judge: a run, a result, a system or a tree."""

    @property
    def file(self) -> str: ...

    @property
    def row(self) -> Rules | None:
        """The rules that apply, None where the benchmark is unknown."""
        ...


V = TypeVar("V", bound=View)
Check = Callable[[V], Iterable[Breach]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(Generic[V]):
    """One rule of the policies and the function that checks it."""

    id: str
    source: str
    """Document and section in which the rule is written."""
    severity: Severity
    since: str | None
    """First ruleset that has the rule; all if None."""
    until: str | None
    """Last ruleset that has it; all if None."""
    benchmarks: frozenset[str] | None
    """Benchmarks that have it; all if None."""
    example: str
    """Something that breaks the rule, in words."""
    check: Check[V]

    @property
    def description(self) -> str:
        """The rule in one sentence: the first line of the check's docstring."""
        return (self.check.__doc__ or "").strip().partition("\n")[0]

    @property
    def explanation(self) -> str:
        """The whole docstring: the rule and, if it is debatable, why it is judged as it is."""
        return cleandoc(self.check.__doc__ or "")

    def applies(self, row: Rules | None) -> bool:
        """Return whether the rule applies under `row`; without a row only one of all rulesets and benchmarks does."""
        if row is None:
            return self.since is None and self.until is None and self.benchmarks is None
        if self.benchmarks is not None and row.benchmark not in self.benchmarks:
            return False
        return in_force(row, since=self.since, until=self.until)

    def findings(self, view: V) -> Iterator[Finding]:
        """Yield the findings of the check about `view`; raises nothing."""
        listed, unlisted = 0, 0
        for breach in self._breaches(view):
            if listed < MOST_BREACHES:
                listed += 1
                yield self._finding(view, breach)
            else:
                unlisted += 1
        if unlisted:
            yield self._finding(view, Breach(message=f"not listed: {counted(unlisted, 'more finding')} of this rule"))

    def _breaches(self, view: V) -> Iterator[Breach]:
        try:
            yield from self.check(view)
        except AbsentError:
            return
        except Exception as error:  # noqa: BLE001 - a crash must become a finding
            name = type(error).__name__
            yield Breach(
                message=f"the check {self.id} crashed, so this rule was not judged: {name}: {error}",
                severity=Severity.ERROR,
            )

    def _finding(self, view: V, breach: Breach) -> Finding:
        return Finding(
            rule=self.id,
            severity=breach.severity or self.severity,
            file=view.file,
            line=breach.line,
            message=breach.message,
            expected=breach.expected,
            actual=breach.actual,
            source=self.source,
        )


class Rulebook(Generic[V]):
    """The rules about one kind of view, in the order in which they were registered."""

    def __init__(self) -> None:
        self.rules: dict[str, Rule[V]] = {}

    def rule(
        self,
        id: str,
        *,
        source: str,
        severity: Severity = Severity.ERROR,
        since: str | None = None,
        until: str | None = None,
        benchmarks: Iterable[str] | None = None,
        example: str = "",
    ) -> Callable[[Check[V]], Check[V]]:
        """Register the decorated function as a rule; the arguments are the fields of Rule.

        Raises:
            ValueError: another rule has the id.
        """

        def register(check: Check[V]) -> Check[V]:
            if id in self.rules:
                raise ValueError(f"two rules have the id {id!r}")
            self.rules[id] = Rule(
                id=id,
                source=source,
                severity=severity,
                since=since,
                until=until,
                benchmarks=None if benchmarks is None else frozenset(benchmarks),
                example=example,
                check=check,
            )
            return check

        return register

    def judge(self, view: V) -> tuple[Finding, ...]:
        """Return the findings of every rule that applies to `view`, sorted by line."""
        applying = (rule for rule in self.rules.values() if rule.applies(view.row))
        findings = [finding for rule in applying for finding in rule.findings(view)]
        return tuple(sorted(findings, key=lambda finding: finding.line or 0))


def in_force(row: Rules, *, since: str | None = None, until: str | None = None) -> bool:
    """Return whether the ruleset of `row` lies between `since` and `until`, both included."""
    here = _version(row.ruleset)
    return (since is None or _version(since) <= here) and (until is None or here <= _version(until))


def _version(ruleset: str) -> tuple[int, ...]:
    return tuple(int(part) for part in ruleset.split("."))
