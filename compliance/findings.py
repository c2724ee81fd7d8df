"""Findings as values, and helpers that read and show the values of a log. Nothing here prints or raises."""

from __future__ import annotations

import enum
import math
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass


class Severity(enum.StrEnum):
    """How bad a finding is."""

    ERROR = "ERROR"
    """A rule is broken or cannot be judged, or the official tools would refuse the log; the finding says which."""
    WARNING = "WARNING"
    """A rule is broken as accepted published logs break it, or an official tool asks for what the policy forbids."""
    INFO = "INFO"
    """Something worth knowing; no rule is broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A broken rule at one place."""

    rule: str
    """Id of the rule."""
    severity: Severity
    file: str
    """The log; for a finding about several logs, their folder."""
    line: int | None = None
    """Counted from 1; None if the finding is about the whole file."""
    message: str
    expected: str = ""
    actual: str = ""
    source: str = ""
    """The document and section in which the rule is written."""


def count(findings: Iterable[Finding], severity: Severity) -> int:
    """Count the findings of a severity."""
    return sum(finding.severity is severity for finding in findings)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlong = 40


def show(value: object) -> str:
    """Return a value of a log as text that is short and safe to print: control characters escaped, long values cut."""
    return _SHORT.repr(value)


def as_number(value: object) -> float | None:
    """Return a value of a log that is a finite number; None for anything else, true and false included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def as_count(value: object) -> int | None:
    """Return a value of a log that is a whole number >= 0, with 8000.0 as 8000; None for anything else."""
    number = as_number(value)
    return int(number) if number is not None and number >= 0 and number.is_integer() else None
