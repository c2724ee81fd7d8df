"""A config for a system that nobody has written one for: the layout that worked on such GPUs, fitted to their number.

Every candidate is judged by RunConfig itself, so that what is written down can run. Whether it fits into memory and how
fast it is, is the planner's business (`python -m benchmark plan`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmark.config import ConfigError, RunConfig
from benchmark.rules import find


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one copy of the model is cut."""

    tensor: int
    pipeline: int
    interleaved: int
    context: int

    @property
    def ranks(self) -> int:
        return self.tensor * self.pipeline * self.context


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of system: GPUs a node, and the layout and precision of the published submissions on it."""

    name: str
    gpus_per_node: int
    layout: Layout
    precision: str


_TP8, _TP4, _TP2 = (Layout(tensor=tensor, pipeline=8, interleaved=8, context=2) for tensor in (8, 4, 2))

KINDS: dict[str, Kind] = {
    "H100": Kind(name="DGXH100", gpus_per_node=8, layout=_TP8, precision="fp8"),
    "H200": Kind(name="DGXH200", gpus_per_node=8, layout=_TP4, precision="fp8"),
    "B200": Kind(name="DGXB200", gpus_per_node=8, layout=_TP4, precision="fp8"),
    "GB200": Kind(name="GB200", gpus_per_node=4, layout=_TP4, precision="nvfp4"),
    "GB300": Kind(name="GB300", gpus_per_node=4, layout=_TP2, precision="nvfp4"),
}
"""GPU -> what llama31_405b was submitted with: MLPerf Training v5.0 (H100, H200) and v5.1."""


def new_config(gpu: str, nodes: int, *, global_batch_size: int, benchmark: str = "llama31_405b") -> dict[str, str]:
    """The variables of a config: shell name -> value, with a batch size as near to the wanted one as can be had.

    The published layout if the number of GPUs is a multiple of it; then other pipelines and context-parallel sizes.

    Raises:
        ConfigError: no layout has an equal share of these GPUs, with the number of nodes that would do.
    """
    kind = KINDS[gpu]
    for layout in _layouts(kind.layout):
        possible = list(_candidates(kind, nodes, layout, benchmark))
        if possible:
            chosen = min(possible, key=lambda config: abs(config.global_batch_size - global_batch_size))
            return _variables(chosen)
    unit = kind.layout.ranks // kind.gpus_per_node
    raise ConfigError(
        [
            f"--nodes {nodes}: {nodes} x {kind.gpus_per_node} {gpu} can be cut by no layout near the published one "
            f"({kind.layout.ranks} GPUs a copy); numbers of nodes that can: multiples of {unit}"
        ]
    )


def _layouts(published: Layout) -> Iterator[Layout]:
    """The published one first, then its neighbours, the least changed first."""
    yield published
    for context in (published.context, 1, 2 * published.context):
        for pipeline, interleaved in ((8, 8), (4, 8), (16, 8), (9, 7), (7, 9), (6, 7), (3, 7)):
            layout = Layout(tensor=published.tensor, pipeline=pipeline, interleaved=interleaved, context=context)
            if layout != published:
                yield layout


def _candidates(kind: Kind, nodes: int, layout: Layout, benchmark: str) -> Iterator[RunConfig]:
    """Every batch size that this layout can run, of those that an interleaved pipeline takes."""
    ranks = nodes * kind.gpus_per_node
    if ranks % layout.ranks:
        return
    replicas = ranks // layout.ranks
    largest = find(benchmark, None).max_global_batch_size or 0
    for minibatch in range(layout.pipeline, largest // replicas + 1, layout.pipeline):
        values = {
            "BENCHMARK": benchmark,
            "DGXSYSTEM": kind.name,
            "DGXNNODES": nodes,
            "DGXNGPU": kind.gpus_per_node,
            "TENSOR_MODEL_PARALLEL": layout.tensor,
            "PIPELINE_MODEL_PARALLEL": layout.pipeline,
            "INTERLEAVED_PIPELINE": layout.interleaved,
            "CONTEXT_PARALLEL": layout.context,
            "MINIBS": minibatch,
            "PRECISION": kind.precision,
        }
        try:
            yield RunConfig.from_environment({name: str(value) for name, value in values.items()})
        except ConfigError:
            continue


def _variables(config: RunConfig) -> dict[str, str]:
    names = (
        "BENCHMARK",
        "DGXNNODES",
        "DGXNGPU",
        "TENSOR_MODEL_PARALLEL",
        "PIPELINE_MODEL_PARALLEL",
        "INTERLEAVED_PIPELINE",
        "CONTEXT_PARALLEL",
        "MINIBS",
        "MICRO_BATCH_SIZE",
        "PRECISION",
    )
    values = config.to_environment()
    return {name: values[name] for name in names}
