"""The exceptions that all floors share, and the one form in which commands print them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path


class HarnessError(Exception):
    """The base of every exception that this project raises by a name of its own."""


class RefusedError(HarnessError, ValueError):
    """The request cannot be carried out. `faults` lists every reason.

    The base of all errors that a user can act on. Commands print them and end with status 2. It is a ValueError too,
    because those who read untrusted input take any ValueError for a fault of that input.
    """

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join(self.faults))


class UnwritableError(RefusedError):
    """A file of a run's results cannot be written; `reason` is the system's."""

    def __init__(self, path: Path, error: OSError) -> None:
        self.reason = f"{path} cannot be written: {error.strerror}"
        super().__init__(self.reason)


class RunFailedError(HarnessError):
    """The run failed by itself. Continuing it from a checkpoint would fail in the same way."""


def error_lines(faults: Iterable[str]) -> str:
    """Return the lines that a command prints for its faults. Each line begins with `error: `, also within a fault."""
    return "".join(f"error: {line}\n" for fault in faults for line in fault.splitlines() or [""])
