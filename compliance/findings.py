"""What a check says, as values. Nothing here prints, and nothing raises at its reader."""

from __future__ import annotations

import enum
import math
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass


class Severity(enum.StrEnum):
    """How bad a finding is."""

    ERROR = "ERROR"
    """A rule is broken or cannot be judged, or the official tools would refuse it; the finding says which."""
    WARNING = "WARNING"
    """A rule is broken the way accepted published logs break it, or an official tool demands what the policy's text
    forbids."""
    INFO = "INFO"
    """News; no rule is broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One broken rule, at one place."""

    rule: str
    """Id of the rule."""
    severity: Severity
    file: str
    """The log, or the directory where the finding is about several."""
    line: int | None = None
    """Counted from 1; None where the finding is about the whole file."""
    message: str
    expected: str = ""
    actual: str = ""
    source: str = ""
    """Where the rule is written."""


def count(findings: Iterable[Finding], severity: Severity) -> int:
    return sum(finding.severity is severity for finding in findings)


def counted(number: int, noun: str) -> str:
    """1 log, 2 logs."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlong = 40


def show(value: object) -> str:
    """A value of a log, short and safe to print: control characters escaped, long and nested values cut."""
    return _SHORT.repr(value)


def as_number(value: object) -> float | None:
    """The finite number that a value of a log is, None for anything else; true and false are no numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def as_count(value: object) -> int | None:
    """The whole number >= 0 that a value of a log is, None for anything else; 8000.0 counts as 8000."""
    number = as_number(value)
    return int(number) if number is not None and number >= 0 and number.is_integer() else None
