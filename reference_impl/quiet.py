"""Library messages that nobody can act on, silenced."""

from __future__ import annotations

import warnings


def quieten_libraries() -> None:
    """Silence what Megatron-Core and torch report about absent optional packages and about names that will change."""
    warnings.filterwarnings("ignore", module=r"megatron\.core")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
