"""A config for a system that nobody has written one for: the layout that worked on such GPUs, fitted to their number.

Every candidate is judged by RunConfig itself, so that what is written down can run. Whether it fits into memory and how
fast it is, is the planner's business (`python -m benchmark plan`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmark.config import ConfigError, RunConfig
from benchmark.plan.hardware import GPUS, Gpu
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


@dataclass(frozen=True)
class Published:
    """What submissions on a GPU had."""

    layout: Layout
    precision: str


_TP8, _TP4, _TP2 = (Layout(tensor=tensor, pipeline=8, interleaved=8, context=2) for tensor in (8, 4, 2))

PUBLISHED: dict[str, Published] = {
    "H100": Published(_TP8, "fp8"),
    "H200": Published(_TP4, "fp8"),
    "B200": Published(_TP4, "fp8"),
    "GB200": Published(_TP4, "nvfp4"),
    "GB300": Published(_TP2, "nvfp4"),
}
"""GPU -> what llama31_405b was submitted with: MLPerf Training v5.0 (H100, H200) and v5.1."""


def new_config(gpu: str, nodes: int, *, global_batch_size: int, benchmark: str = "llama31_405b") -> dict[str, str]:
    """The variables of a config: shell name -> value, with a batch size as near to the wanted one as can be had.

    The published layout if the number of GPUs is a multiple of it; then other pipelines and context-parallel sizes.

    Raises:
        ConfigError: no layout has an equal share of these GPUs, with the number of nodes that would do.
    """
    published, each = PUBLISHED[gpu], GPUS[gpu].gpus_per_node
    for layout in _layouts(published.layout):
        possible = list(_candidates(GPUS[gpu], nodes, layout, published.precision, benchmark))
        if possible:
            chosen = min(possible, key=lambda config: abs(config.global_batch_size - global_batch_size))
            return _variables(chosen)
    unit = published.layout.ranks // each
    raise ConfigError(
        [
            f"--nodes {nodes}: {nodes} x {each} {gpu} can be cut by no layout near the published one "
            f"({published.layout.ranks} GPUs a copy); numbers of nodes that can: multiples of {unit}"
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


def _candidates(gpu: Gpu, nodes: int, layout: Layout, precision: str, benchmark: str) -> Iterator[RunConfig]:
    """Every batch size that this layout can run, of those that an interleaved pipeline takes."""
    ranks = nodes * gpu.gpus_per_node
    if ranks % layout.ranks:
        return
    replicas = ranks // layout.ranks
    largest = find(benchmark, None).max_global_batch_size or 0
    for minibatch in range(layout.pipeline, largest // replicas + 1, layout.pipeline):
        values = {
            "BENCHMARK": benchmark,
            "DGXSYSTEM": gpu.system,
            "DGXNNODES": nodes,
            "DGXNGPU": gpu.gpus_per_node,
            "TENSOR_MODEL_PARALLEL": layout.tensor,
            "PIPELINE_MODEL_PARALLEL": layout.pipeline,
            "INTERLEAVED_PIPELINE": layout.interleaved,
            "CONTEXT_PARALLEL": layout.context,
            "MINIBS": minibatch,
            "PRECISION": precision,
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
