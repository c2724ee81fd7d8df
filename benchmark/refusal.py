"""The base of all errors that a user can act on. A command line prints them and ends with status 2."""

from __future__ import annotations

from collections.abc import Sequence


class Refused(ValueError):
    """The request cannot be carried out. `faults` lists every reason."""

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join(self.faults))
