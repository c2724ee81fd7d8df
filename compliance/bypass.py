"""Read package_checker_params, by which a submission turns off checks of the official package_checker.

The checker compares each line, including its line break, with the name of a switch. So only the last line of a file can
set one, and only without a line break at its end. The checker reads a file in the folder of a result and one in that of
its system.
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmark.decode import read_regular

PARAMETERS = "package_checker_params"

RCP_BYPASS, SEED_BYPASS = "rcp-bypass", "seed-checker-bypass"
SWITCHES = {
    RCP_BYPASS: "the comparison of the convergence with the reference",
    SEED_BYPASS: "the comparison of the seeds",
}
"""Name of a switch -> the check that it turns off."""

_MOST = 1 << 20
"""Bytes of a file that are read at most; the longest switch has 19."""


def lines(path: Path) -> list[str]:
    """Return the lines of a file of parameters; only the last one can be a switch.

    Raises:
        OSError, ValueError: the file cannot be read; the official checker cannot read it either.
    """
    return re.split("\r\n|\r|\n", read_regular(path, _MOST).decode())


def switch(path: Path) -> str:
    """Return the name of the switch that a file sets; empty if it sets none or does not exist."""
    try:
        last = lines(path)[-1]
    except (OSError, ValueError):
        return ""
    return last if last in SWITCHES else ""


def bypassed(result: Path) -> frozenset[str]:
    """Return the switches that are set for the result in a folder, in that folder or in that of its system."""
    return frozenset(switch(folder / PARAMETERS) for folder in (result, result.absolute().parent)) - {""}
