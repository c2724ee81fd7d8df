"""scaling.json beside the logs of a result: by what the official result_summarizer multiplies its score.

Who writes it, by mlcommons/logging: result_summarizer multiplies the olympic mean by the file as it finds it, by 1
without one. By the rules, the training committee decides on the file. But the convergence check of package_checker, and
the summariser's own, which comes after the score, delete the file of a closed result whose runs can be compared with
the reference, and write it anew where the runs were faster than the reference's mean. So what is published is our own
factor there, and what the file says elsewhere: in the open division, and where there is no reference.
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
"""Relative; a factor may have been written with fewer digits than a double has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """What a scaling.json says, and what the runs beside it say."""

    path: str
    stated: float | None
    """None where the file cannot be read: the official summariser would crash."""
    fault: str
    """Why not."""
    own: float
    """1 where the runs are not compared with a reference: no factor is below that."""
    is_rewritten: bool
    """Whether the official tools write the file anew."""

    @property
    def too_small(self) -> bool:
        """Whether the file makes a score shorter than the runs do."""
        return self.stated is not None and self.stated < self.own * (1 - TOLERANCE)

    @property
    def too_large(self) -> bool:
        """Whether it makes one longer that the runs decide."""
        return self.is_rewritten and self.stated is not None and self.stated > self.own * (1 + TOLERANCE)


def scaling(result: Result, convergence: Convergence | None = None) -> Scaling | None:
    """Read the file beside the logs of a result; None where there is none.

    Args:
        convergence: what compare(result) gives, for a caller that has it.
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
    """What a scaling.json says.

    Raises:
        OSError, ValueError: it says nothing.
    """
    value = read_description(path).get("scaling_factor")
    factor = as_number(value)
    if factor is None:
        raise ValueError(f"expected a finite number as scaling_factor, read {show(value)}")
    return factor


def is_compared(result: Result, convergence: Convergence) -> bool:
    """Whether the official tools make a factor of their own for a result."""
    return not convergence.fault and not result.is_open
