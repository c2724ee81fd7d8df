"""Makes a config for a new system: the layout that worked on such GPUs, fitted to their number.

RunConfig and the planner judge every candidate, so the config that is written can run and fits. It may not be the
fastest layout; searching for that is another command's task (`llama31 plan --gpu ... --gpus ...`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmark.benchmarks import DEFAULT, Benchmark
from benchmark.config import ConfigError, RunConfig
from benchmark.hardware import GPUS, Gpu
from harness.plan import calibration
from harness.plan.planner import Plan, plan
from harness.plan.search import bare_values, search


@dataclass(frozen=True, kw_only=True)
class ReplicaLayout:
    """How one copy of the model is divided."""

    tensor: int
    pipeline: int
    interleaved: int
    context: int

    @property
    def ranks(self) -> int:
        return self.tensor * self.pipeline * self.context


@dataclass(frozen=True)
class PublishedChoice:
    """The settings of the submissions on one GPU."""

    layout: ReplicaLayout
    precision: str


_TP8, _TP4, _TP2 = (ReplicaLayout(tensor=tensor, pipeline=8, interleaved=8, context=2) for tensor in (8, 4, 2))

PUBLISHED: dict[str, dict[str, PublishedChoice]] = {
    DEFAULT.name: {
        "H100": PublishedChoice(_TP8, "fp8"),
        "H200": PublishedChoice(_TP4, "fp8"),
        "B200": PublishedChoice(_TP4, "fp8"),
        "GB200": PublishedChoice(_TP4, "nvfp4"),
        "GB300": PublishedChoice(_TP2, "nvfp4"),
    }
}
"""Benchmark -> GPU -> its submissions' settings: MLPerf Training v5.0 (H100, H200) and v5.1."""


def new_config(gpu: str, nodes: int, *, benchmark: Benchmark = DEFAULT, global_batch_size: int | None = None) -> Plan:
    """Return the plan of a configuration that fits, with a batch size as near as possible to the one requested.

    It tries the published layout if the number of GPUs is a multiple of it, then other pipelines and context-parallel
    sizes. For a benchmark without published layouts, it tries those of a search in bf16, the fastest first. Gradients
    are in bf16, as in every published run. If a layout does not fit, it makes the fastest change with which it does.

    Args:
        global_batch_size: samples; that of the smallest reference point if None.

    Raises:
        ConfigError: no layout divides these GPUs equally, with the numbers of nodes that would work; or none fits.
    """
    published, points = PUBLISHED.get(benchmark.name, {}).get(gpu), benchmark.rules[-1].reference_points
    wanted = global_batch_size or (points[0].global_batch_size if points else 1)
    precision = "bf16" if published is None else published.precision
    layouts = _searched(benchmark, gpu, nodes) if published is None else _neighbours(published.layout)
    cut = False
    for layout in layouts:
        possible = list(_candidates(benchmark, GPUS[gpu], nodes, layout, precision))
        if possible:
            cut = True
            chosen = _fitting(min(possible, key=lambda config: abs(config.layout.global_batch_size - wanted)))
            if chosen is not None:
                return chosen
    raise ConfigError([_refusal(gpu, nodes, None if published is None else published.layout, cut)])


def _refusal(gpu: str, nodes: int, published: ReplicaLayout | None, cut: bool) -> str:
    """Return why there is no config: no layout divides these GPUs, or (`cut`) those that do need too much memory."""
    each = GPUS[gpu].gpus_per_node
    request = f"--nodes {nodes}: {nodes} x {each} {gpu}"
    if published is None:
        return f"{request} have no layout that divides them and fits; try another number of nodes"
    near = "layout near the published one"
    if cut:
        command = f"llama31 plan --gpu {gpu} --gpus {nodes * each}"
        return f"{request} have no {near} that fits into their memory; `{command}` looks for others"
    return (
        f"{request} are not a multiple of any {near} ({published.ranks} GPUs a copy); expected a number of nodes "
        f"that is a multiple of {published.ranks // each}"
    )


def _searched(benchmark: Benchmark, gpu: str, nodes: int) -> Iterator[ReplicaLayout]:
    """Yield the layouts that a search lists, the fastest first."""
    base = bare_values(benchmark, GPUS[gpu], nodes, GPUS[gpu].gpus_per_node)
    for candidate in search(base, calibration.load(), gpu).candidates:
        job = candidate.job
        yield ReplicaLayout(tensor=job.tensor, pipeline=job.pipeline, interleaved=job.chunks, context=job.context)


def _neighbours(published: ReplicaLayout) -> Iterator[ReplicaLayout]:
    """Yield the published layout first, then its neighbours, the least changed first."""
    yield published
    for context in (published.context, 1, 2 * published.context):
        for pipeline, interleaved in ((8, 8), (4, 8), (16, 8), (9, 7), (7, 9), (6, 7), (3, 7)):
            layout = ReplicaLayout(tensor=published.tensor, pipeline=pipeline, interleaved=interleaved, context=context)
            if layout != published:
                yield layout


def _fitting(config: RunConfig) -> Plan | None:
    """Return the plan of a configuration, unchanged or with one change that makes it fit; None if no change does."""
    known = calibration.load()
    made = plan(config, known)
    if made.fits:
        return made
    if not made.remedies:
        return None
    return plan(RunConfig.from_environment({**config.to_environment(), **made.remedies[0].change}), known)


def _candidates(
    benchmark: Benchmark, gpu: Gpu, nodes: int, layout: ReplicaLayout, precision: str
) -> Iterator[RunConfig]:
    """Yield a configuration for every batch size that this layout can run, including an interleaved pipeline's rule."""
    ranks = nodes * gpu.gpus_per_node
    if ranks % layout.ranks:
        return
    replicas = ranks // layout.ranks
    largest = benchmark.rules[-1].largest_batch
    for minibatch in range(layout.pipeline, largest // replicas + 1, layout.pipeline):
        values = {
            **bare_values(benchmark, gpu, nodes, gpu.gpus_per_node),
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


def variables(made: Plan) -> dict[str, str]:
    """Return the variables that a config file of this plan exports: shell name -> value."""
    names = (
        "BENCHMARK",
        "RULESET",
        "DGXNNODES",
        "DGXNGPU",
        "TENSOR_MODEL_PARALLEL",
        "PIPELINE_MODEL_PARALLEL",
        "INTERLEAVED_PIPELINE",
        "CONTEXT_PARALLEL",
        "MINIBS",
        "MICRO_BATCH_SIZE",
        "PRECISION",
        "FP8_PARAM_GATHER",
        "RECOMPUTE_GRANULARITY",
        "RECOMPUTE_MODULES",
        "RECOMPUTE_METHOD",
        "RECOMPUTE_NUM_LAYERS",
        "GRAD_REDUCE_IN_FP32",
    )
    values = made.config.to_environment()
    return {name: values[name] for name in names if name in values} | {"WALLTIME": str(made.walltime)}
