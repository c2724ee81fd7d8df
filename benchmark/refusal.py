"""What every floor raises where it cannot do what was asked for; a command line says it and ends with status 2."""

from __future__ import annotations

from collections.abc import Sequence


class Refused(ValueError):
    """What was asked for cannot be done; `faults` lists everything that is in the way."""

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join(self.faults))
