"""A config for a system that nobody has written one for: the layout that worked on such GPUs, fitted to their number.

Every candidate is judged by RunConfig itself and by the planner, so that what is written down can run and fits. The
fastest layout there is, is the search's to find (`python -m benchmark plan --gpu ... --gpus ...`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmark.config import ConfigError, RunConfig
from benchmark.plan import calibration
from benchmark.plan.hardware import GPUS, Gpu
from benchmark.plan.planner import BF16_GRADIENTS, Plan, plan
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


BENCHMARK = "llama31_405b"

_TP8, _TP4, _TP2 = (Layout(tensor=tensor, pipeline=8, interleaved=8, context=2) for tensor in (8, 4, 2))

PUBLISHED: dict[str, Published] = {
    "H100": Published(_TP8, "fp8"),
    "H200": Published(_TP4, "fp8"),
    "B200": Published(_TP4, "fp8"),
    "GB200": Published(_TP4, "nvfp4"),
    "GB300": Published(_TP2, "nvfp4"),
}
"""GPU -> what BENCHMARK was submitted with: MLPerf Training v5.0 (H100, H200) and v5.1."""


def new_config(gpu: str, nodes: int, *, global_batch_size: int) -> Plan:
    """The plan of a configuration that fits, with a batch size as near to the wanted one as can be had.

    The published layout if the number of GPUs is a multiple of it; then other pipelines and context-parallel sizes.
    Gradients are in bf16, as in every published run. Where that does not fit, the fastest change that the planner knows
    to make it fit.

    Raises:
        ConfigError: no layout has an equal share of these GPUs, with the number of nodes that would do; or none fits.
    """
    published, each = PUBLISHED[gpu], GPUS[gpu].gpus_per_node
    cut = False
    for layout in _layouts(published.layout):
        possible = list(_candidates(GPUS[gpu], nodes, layout, published.precision))
        if possible:
            cut = True
            chosen = _fitting(min(possible, key=lambda config: abs(config.global_batch_size - global_batch_size)))
            if chosen is not None:
                return chosen
    asked, near = f"--nodes {nodes}: {nodes} x {each} {gpu}", "no layout near the published one"
    if cut:
        search = f"python -m benchmark plan --gpu {gpu} --gpus {nodes * each}"
        raise ConfigError([f"{asked} hold {near} in their memory; `{search}` looks for others"])
    raise ConfigError(
        [
            f"{asked} can be cut by {near} ({published.layout.ranks} GPUs a copy); numbers of nodes that can: "
            f"multiples of {published.layout.ranks // each}"
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


def _fitting(config: RunConfig) -> Plan | None:
    """A configuration as it is, or with one change that makes it fit; None if none does."""
    known = calibration.load()
    made = plan(config, known)
    if made.fits:
        return made
    if not made.remedies:
        return None
    return plan(RunConfig.from_environment({**config.to_environment(), **made.remedies[0].change}), known)


def _candidates(gpu: Gpu, nodes: int, layout: Layout, precision: str) -> Iterator[RunConfig]:
    """Every batch size that this layout can run, of those that an interleaved pipeline takes."""
    ranks = nodes * gpu.gpus_per_node
    if ranks % layout.ranks:
        return
    replicas = ranks // layout.ranks
    largest = find(BENCHMARK).max_global_batch_size or 0
    for minibatch in range(layout.pipeline, largest // replicas + 1, layout.pipeline):
        values = {
            "BENCHMARK": BENCHMARK,
            "DGXSYSTEM": gpu.system,
            "DGXNNODES": nodes,
            "DGXNGPU": gpu.gpus_per_node,
            "TENSOR_MODEL_PARALLEL": layout.tensor,
            "PIPELINE_MODEL_PARALLEL": layout.pipeline,
            "INTERLEAVED_PIPELINE": layout.interleaved,
            "CONTEXT_PARALLEL": layout.context,
            "MINIBS": minibatch,
            "PRECISION": precision,
            **BF16_GRADIENTS,
        }
        try:
            yield RunConfig.from_environment({name: str(value) for name, value in values.items()})
        except ConfigError:
            continue


def variables(made: Plan) -> dict[str, str]:
    """What a config file of this plan exports: shell name -> value."""
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
        "RECOMPUTE_GRANULARITY",
        "RECOMPUTE_MODULES",
        "RECOMPUTE_METHOD",
        "RECOMPUTE_NUM_LAYERS",
        "GRAD_REDUCE_IN_FP32",
    )
    values = made.config.to_environment()
    return {name: values[name] for name in names if name in values} | {"WALLTIME": str(made.walltime)}
