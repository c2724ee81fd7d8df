"""What libraries say that no one can act on."""

from __future__ import annotations

import warnings


def quieten_libraries() -> None:
    """Silence what Megatron-Core and torch say about optional packages that are absent and names that will change."""
    warnings.filterwarnings("ignore", module=r"megatron\.core")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
