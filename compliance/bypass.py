"""package_checker_params: what a submission asks the official package_checker to leave out.

The checker compares whole lines, line break included, with the name of a switch. So only the last line of a file can be
one, and only where nothing follows it, not even a line break. It reads the file of a result and that of its system.
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmark.decode import read_regular

PARAMETERS = "package_checker_params"

RCP_BYPASS, SEED_BYPASS = "rcp-bypass", "seed-checker-bypass"
SWITCHES = {
    RCP_BYPASS: "the comparison of its convergence with the reference",
    SEED_BYPASS: "the comparison of its seeds",
}
"""Name of a switch -> what it leaves out."""

_MOST = 1 << 20
"""Bytes of a file; one that says something has 10."""


def lines(path: Path) -> list[str]:
    """The lines of a file of parameters, the last of which alone can be a switch.

    Raises:
        OSError, ValueError: it cannot be read, by the official checker neither.
    """
    return re.split("\r\n|\r|\n", read_regular(path, _MOST).decode())


def switch(path: Path) -> str:
    """The name of the switch that a file sets; empty where it sets none or there is no such file."""
    try:
        last = lines(path)[-1]
    except (OSError, ValueError):
        return ""
    return last if last in SWITCHES else ""


def bypassed(result: Path) -> frozenset[str]:
    """The switches that are set for the result in a folder, by itself or by its system."""
    return frozenset(switch(folder / PARAMETERS) for folder in (result, result.absolute().parent)) - {""}
