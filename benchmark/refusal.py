"""The base of all errors that a user can act on. Commands print them and end with status 2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class Refused(ValueError):
    """The request cannot be carried out. `faults` lists every reason."""

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join(self.faults))


class Unwritable(Refused):
    """A file of a run's results cannot be written; `reason` is the system's."""

    def __init__(self, path: Path, error: OSError) -> None:
        self.reason = f"{path} cannot be written: {error.strerror}"
        super().__init__(self.reason)
