"""Read scaling.json in the folder of a result, the factor by which result_summarizer multiplies its score.

By the rules, the training committee decides on the file. In mlcommons/logging, result_summarizer multiplies the olympic
mean by the factor of the file as it finds it, or by 1 without a file. But package_checker, and the summariser itself
after it has computed the score, delete the file of a closed result whose runs can be compared with the reference, and
write it anew if the runs were faster than the reference's mean. So the published score has the factor that we compute,
except in the open division and without a reference: there it has the factor of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compliance.checks.systems import read_description
from compliance.convergence.rcp import Convergence, compare
from compliance.findings import as_number, show
from compliance.result import Result

FILE = "scaling.json"
TOLERANCE = 1e-9
"""Relative difference of equal factors: one may be written with fewer digits than a double has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """The factor in a scaling.json, and the factor that the runs give."""

    path: str
    stated: float | None
    """The factor in the file; None if it cannot be read, on which the official summariser would crash."""
    fault: str
    """Why the file cannot be read; empty if it can."""
    own: float
    """The factor that the runs give; 1, the smallest factor, if they are not compared with a reference."""
    is_rewritten: bool
    """Whether the official tools write the file anew."""

    @property
    def too_small(self) -> bool:
        """Whether the file makes the score shorter than the runs do."""
        return self.stated is not None and self.stated < self.own * (1 - TOLERANCE)

    @property
    def too_large(self) -> bool:
        """Whether the file makes a score longer that the runs decide."""
        return self.is_rewritten and self.stated is not None and self.stated > self.own * (1 + TOLERANCE)


def scaling(result: Result, convergence: Convergence | None = None) -> Scaling | None:
    """Read the scaling.json of a result; None if there is none.

    Args:
        convergence: compare(result), if the caller has it.
    """
    path = result.directory / FILE
    if not path.exists() and not path.is_symlink():
        return None
    stated, fault = None, ""
    try:
        stated = stated_factor(path)
    except (OSError, ValueError) as error:
        fault = str(error)
    convergence = convergence or compare(result)
    is_rewritten = is_compared(result, convergence)
    own = convergence.factor if is_rewritten else 1.0
    return Scaling(path=str(path), stated=stated, fault=fault, own=own, is_rewritten=is_rewritten)


def stated_factor(path: Path) -> float:
    """Return the factor in a scaling.json.

    Raises:
        OSError, ValueError: the file cannot be read, or has no factor.
    """
    value = read_description(path).get("scaling_factor")
    factor = as_number(value)
    if factor is None:
        raise ValueError(f"expected a finite number as scaling_factor, read {show(value)}")
    return factor


def is_compared(result: Result, convergence: Convergence) -> bool:
    """Return whether the official tools compute the factor of a result themselves."""
    return not convergence.fault and not result.is_open
