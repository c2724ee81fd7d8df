"""Reads what the nodes measured during a run, from the files that samplers left next to its log. They may be hostile.

A line of a file is a sample of a node or of one of its GPUs (`harness.launch.telemetry`). GPUs of a node that were
sampled together become one point of a curve: their mean, or the extreme that matters.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from benchmark.telemetry import COLUMNS, HEADER, NODE, files_of
from report.series import Point

MOST_OF_FILE = 8 << 20
"""Most bytes of a file that are read: two days of eight GPUs every ten seconds."""

MOST_BYTES = 64 << 20
"""Most bytes of all files of a run; if there are more, every second node is read, or every third, and so on."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A curve of a node."""

    title: str
    unit: str
    column: str
    over: Callable[[Sequence[float]], float] = fmean
    """Reduces the values of GPUs that were sampled together to one."""
    which: str = ""
    """The same in words."""
    scale: float = 1.0


OF_GPUS = (
    Quantity("GPUs busy", "% of the time", "busy_percent", fmean, "Mean of a node's GPUs."),
    Quantity("GPU memory", "GiB in use", "memory_used_mib", max, "Fullest of a node's GPUs.", 1 / 1024),
    Quantity("GPU power", "W", "power_w", fmean, "Mean of a node's GPUs."),
    Quantity("GPU temperature", "°C", "temperature_c", max, "Hottest of a node's GPUs."),
    Quantity("SM clock", "MHz", "sm_clock_mhz", min, "Slowest of a node's GPUs."),
)
OF_NODE = (
    Quantity("Processors busy", "% of the time", "busy_percent"),
    Quantity("Memory of the node", "GiB in use", "memory_used_mib", scale=1 / 1024),
    Quantity("Load", "processes", "load"),
)

REASONS = {"power cap": 0x04, "heat": 0x20 | 0x40, "hardware": 0x08 | 0x80}
"""Bits of NVML's nvmlClocksThrottleReasons that make a busy GPU slower than it could be."""

_MEASURED = COLUMNS[2:]
_NODE = NODE.encode()
_LINE = re.compile(rb"[0-9]{13},(?:node|[0-9]{1,3})(?:,(?:-?[0-9]{1,15}(?:\.[0-9]{1,9})?)?){%d}" % len(_MEASURED))


class _Sample(NamedTuple):
    """A line of a file."""

    time_ms: float
    gpu: int
    """-1 for the node."""
    values: list[float | None]
    """In the order of _MEASURED; None for a value that is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """One node during one run."""

    node: str
    gpus: int
    samples: int
    """Times that its GPUs were sampled, or the node itself if it has none."""
    curves: Mapping[str, list[Point]]
    """Title of a quantity -> its points (minutes from run_start, value), for each quantity that was measured."""
    throttled: Mapping[str, float]
    """One of REASONS -> share of the GPUs' samples; empty if the samples have no reasons."""
    refused: int
    """Lines that could not be read as samples."""
    cut: bool
    """Whether the file is longer than what was read of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """The nodes of one run."""

    nodes: tuple[NodeFacts, ...]
    files: int
    """Number of nodes that left a file, read or not."""


def read_telemetry(log: Path, started_ms: float | None) -> Telemetry:
    """Return what the nodes of a log's run measured.

    Args:
        started_ms: time of the log's run_start; if None, each node's time starts at its first sample.
    """
    files = {node: path for node, path in files_of(log).items() if path.is_file()}
    total = sum(min(path.stat().st_size, MOST_OF_FILE) for path in files.values())
    chosen = list(files.items())[:: max(1, -(-total // MOST_BYTES))]
    return Telemetry(nodes=tuple(_read(node, path, started_ms) for node, path in chosen), files=len(files))


def _read(node: str, path: Path, started_ms: float | None) -> NodeFacts:
    with path.open("rb") as stream:
        lines = stream.read(MOST_OF_FILE).split(b"\n")
        cut = bool(stream.read(1))
    samples = [_sample(line) for line in lines if _LINE.fullmatch(line)]
    of_node = [sample for sample in samples if sample.gpu < 0]
    of_gpus = [sample for sample in samples if sample.gpu >= 0]
    together = list(_together(of_gpus))
    origin = min((sample.time_ms for sample in samples), default=0.0) if started_ms is None else started_ms
    curves = {quantity.title: _curve(quantity, together, origin) for quantity in OF_GPUS}
    curves |= {quantity.title: _curve(quantity, [[sample] for sample in of_node], origin) for quantity in OF_NODE}
    return NodeFacts(
        node=node,
        gpus=len({sample.gpu for sample in of_gpus}),
        samples=len(together or of_node),
        curves={title: points for title, points in curves.items() if points},
        throttled=_throttled(of_gpus),
        refused=sum(line not in (b"", HEADER.encode()) for line in lines) - len(samples),
        cut=cut,
    )


def _sample(line: bytes) -> _Sample:
    time, device, *cells = line.split(b",")
    gpu = -1 if device == _NODE else int(device)
    return _Sample(float(time), gpu, [float(cell) if cell else None for cell in cells])


def _together(samples: Iterable[_Sample]) -> Iterator[list[_Sample]]:
    """Yield the samples of GPUs that were sampled together, which a file lists in ascending order."""
    group: list[_Sample] = []
    for sample in samples:
        if group and sample.gpu <= group[-1].gpu:
            yield group
            group = []
        group.append(sample)
    if group:
        yield group


def _curve(quantity: Quantity, groups: Iterable[Sequence[_Sample]], origin_ms: float) -> list[Point]:
    column, points = _MEASURED.index(quantity.column), []
    for group in groups:
        values = [value for sample in group if (value := sample.values[column]) is not None]
        if values:
            points.append(((group[0].time_ms - origin_ms) / 60_000, quantity.over(values) * quantity.scale))
    return points


def _throttled(samples: Sequence[_Sample]) -> dict[str, float]:
    column = _MEASURED.index("throttle_reasons")
    masks = Counter(int(mask) for sample in samples if (mask := sample.values[column]) is not None)
    number = masks.total()
    counts = {name: sum(times for mask, times in masks.items() if mask & bits) for name, bits in REASONS.items()}
    return {name: times / number for name, times in counts.items()} if number else {}
