"""Telemetry of a run's nodes: the columns of its files, and their names."""

from __future__ import annotations

from pathlib import Path

COLUMNS = (
    "time_ms",  # since the epoch, as in the log
    "device",  # NODE for the node itself, or the index of a GPU
    "busy_percent",  # share of the time since the last line with a kernel running; for a node, its processors' mean
    "memory_used_mib",
    "memory_free_mib",  # for a node, what is available without swapping
    "power_w",
    "temperature_c",
    "sm_clock_mhz",
    "throttle_reasons",  # the bits of NVML's nvmlClocksThrottleReasons
    "load",  # for a node, its mean load over a minute
)
"""The columns of a file. A cell is empty if the device does not measure the value."""

HEADER = ",".join(COLUMNS)
NODE = "node"
"""The device of a line about the node itself."""


def file_of(result: Path, node: str) -> Path:
    """Return the path of the telemetry of a node in the run with this log."""
    return result.with_name(f"{_prefix(result)}{node}.csv")


def files_of(result: Path) -> dict[str, Path]:
    """Return the telemetry files of the run with this log: node -> path."""
    prefix = _prefix(result)
    paths = (path for path in sorted(result.parent.iterdir()) if path.name.startswith(prefix) and path.suffix == ".csv")
    return {path.stem.removeprefix(prefix): path for path in paths}


def _prefix(result: Path) -> str:
    return f"telemetry_{result.stem.removeprefix('result_')}_"
