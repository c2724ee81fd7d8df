"""python -m harness.launch.bind LOCAL_RANK LOCAL_WORLD_SIZE COMMAND: run a rank on the processors near its GPU.

Linux reports which processors are near which GPU (/sys). If it does not, a rank gets an equal share of the node's. If
there are fewer processors than ranks, or something else has already bound the process, the rank stays as it is. Each
case prints a line: an unknown node makes a run slower, not wrong.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SYS = Path("/sys")


@dataclass(frozen=True, kw_only=True)
class Binding:
    """The processors of a rank, and the reason for choosing them."""

    processors: tuple[int, ...]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Topology:
    """The layout that a node reports."""

    nodes: Mapping[int, tuple[int, ...]]
    """NUMA node -> its processors."""
    gpus: tuple[int, ...]
    """NUMA node of each GPU in the order of their PCI addresses, which is CUDA_DEVICE_ORDER=PCI_BUS_ID;
    -1 if unknown.
    """


def read_topology(root: Path = _SYS) -> Topology:
    """Return this machine's topology; empty if /sys does not report it."""
    folders = (root / "devices/system/node").glob("node[0-9]*")
    nodes = {int(folder.name.removeprefix("node")): _numbers((folder / "cpulist").read_text()) for folder in folders}
    devices = sorted((root / "bus/pci/drivers/nvidia").glob("*:*"))
    return Topology(nodes=nodes, gpus=tuple(int((device / "numa_node").read_text()) for device in devices))


def _numbers(text: str) -> tuple[int, ...]:
    """Parse a list as the kernel writes it: 0-3,8."""
    ranges = (part.partition("-") for part in text.strip().split(",") if part)
    return tuple(number for first, _, last in ranges for number in range(int(first), int(last or first) + 1))


def choose(topology: Topology, allowed: Sequence[int], local_rank: int, ranks: int) -> Binding:
    """Choose the processors of one of a node's ranks, out of those that it may use."""
    if not 0 <= local_rank < ranks:
        return Binding(processors=tuple(allowed), reason=f"LOCAL_RANK={local_rank} with {ranks} ranks: not bound")
    known = sorted(number for processors in topology.nodes.values() for number in processors)
    if known and set(allowed) < set(known):
        return Binding(processors=tuple(allowed), reason="already bound")
    if len(allowed) < ranks:
        return Binding(processors=tuple(allowed), reason=f"{len(allowed)} processors for {ranks} ranks: not bound")
    if len(topology.gpus) == ranks and all(node in topology.nodes for node in topology.gpus):
        node = topology.gpus[local_rank]
        near = [processor for processor in topology.nodes[node] if processor in allowed]
        sharing = [rank for rank, other in enumerate(topology.gpus) if other == node]
        if len(near) >= len(sharing):
            mine = _share(near, sharing.index(local_rank), len(sharing))
            return Binding(processors=mine, reason=f"NUMA node {node}, that of GPU {local_rank}")
    return Binding(processors=_share(allowed, local_rank, ranks), reason="an even share; no GPU's place is known")


def _share(processors: Sequence[int], index: int, count: int) -> tuple[int, ...]:
    """Return the index-th of `count` parts whose sizes differ by at most one."""
    first, last = (len(processors) * part // count for part in (index, index + 1))
    return tuple(processors[first:last])


def main(arguments: Sequence[str]) -> None:
    local_rank, ranks, *command = arguments
    binding = choose(read_topology(), sorted(os.sched_getaffinity(0)), int(local_rank), int(ranks))
    os.sched_setaffinity(0, binding.processors)
    print(f"rank {local_rank} of this node on processors {_text(binding.processors)}: {binding.reason}", flush=True)
    os.execvp(command[0], command)


def _text(processors: Sequence[int]) -> str:
    """Write a list as the kernel does: 0-3,8."""
    runs: list[list[int]] = []
    for processor in processors:
        if runs and processor == runs[-1][-1] + 1:
            runs[-1][1:] = [processor]
        else:
            runs.append([processor])
    return ",".join("-".join(map(str, run)) for run in runs)


if __name__ == "__main__":
    main(sys.argv[1:])
