"""What is sampled of a run's nodes: the columns of a file, and the files beside a log."""

from __future__ import annotations

from pathlib import Path

COLUMNS = (
    "time_ms",  # since the epoch, as in the log
    "device",  # NODE, or the index of a GPU
    "busy_percent",  # of the time since the last line: a kernel ran; of a node, its processors' mean
    "memory_used_mib",
    "memory_free_mib",  # of a node, what can be had without swapping
    "power_w",
    "temperature_c",
    "sm_clock_mhz",
    "throttle_reasons",  # NVML's nvmlClocksThrottleReasons, a sum of bits
    "load",  # of a node, over a minute
)
"""Of a file; a cell is empty where the device does not measure it."""

HEADER = ",".join(COLUMNS)
NODE = "node"


def file_of(result: Path, node: str) -> Path:
    """Where the samples of a run's node are."""
    return result.with_name(f"{_prefix(result)}{node}.csv")


def files_of(result: Path) -> dict[str, Path]:
    """Node -> the samples that a run has of it."""
    prefix = _prefix(result)
    found = (path for path in sorted(result.parent.iterdir()) if path.name.startswith(prefix) and path.suffix == ".csv")
    return {path.stem.removeprefix(prefix): path for path in found}


def _prefix(result: Path) -> str:
    return f"telemetry_{result.stem.removeprefix('result_')}_"
