"""Plans one configuration: whether it fits, how long a step takes, how long until the target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from benchmark.config import ConfigError, RunConfig
from harness.plan import memory, step_time
from harness.plan.calibration import Calibration
from harness.plan.job import TrainingJob, from_config, precision_of
from harness.plan.time_to_target import LikelyOutcome, Pace, evaluation_steps, outcomes, walltime

BF16_GRADIENTS = {"GRAD_REDUCE_IN_FP32": "False"}


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """A change that makes a configuration fit."""

    change: Mapping[str, str]
    """Shell name -> value."""
    total: float
    """Bytes on the worst stage."""
    step: float
    """Seconds."""


@dataclass(frozen=True, kw_only=True)
class WithoutGraph:
    """The same run without a CUDA graph of the whole iteration; all else is for runs in one (FULL_CUDA_GRAPH)."""

    gain: float
    """Factor on the time of a step."""
    pace: Pace
    outcomes: list[LikelyOutcome]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The predicted behaviour of a configuration."""

    config: RunConfig
    job: TrainingJob
    stages: list[memory.Stage]
    parts: Mapping[str, float]
    """Seconds of a step, by step_time.PARTS."""
    pace: Pace
    measured: int
    """Steps of this GPU, precision and model that the constants were fitted to; uncalibrated if 0."""
    outcomes: list[LikelyOutcome]
    without_graph: WithoutGraph | None
    """This trainer's times, if the constants come from steps that it does not make."""
    walltime: int
    """Minutes for all experiments, as this trainer needs them."""
    remedies: list[Remedy]
    """Changes that make it fit, the fastest first; empty if it fits."""

    @property
    def worst(self) -> memory.Stage:
        return max(self.stages, key=lambda stage: stage.total)

    @property
    def fits(self) -> bool:
        return memory.fits(self.worst, self.job)

    @property
    def flops(self) -> float:
        """Model FLOP/s of one GPU, with attention counted whole."""
        job = self.job
        each = job.size.flops_per_sample(job.sequence_length, job.vocabulary)
        return each * job.global_batch_size / self.pace.step / job.gpus


def job_of(
    config: RunConfig, calibration: Calibration, gpu: str | None = None, *, quantised_weights: bool = False
) -> TrainingJob:
    """Return the job of a configuration, with the software that its GPU and precision were measured with.

    Raises:
        ConfigError: the GPU is unknown, or has no matrix products in the configuration's precision.
    """
    named = from_config(config, gpu=gpu)
    name = named.gpu.name
    release, stack = calibration.software(name, precision_of(config.kernels), named.size)
    return from_config(config, gpu=name, release=release, stack=stack, quantised_weights=quantised_weights)


def pace_of(config: RunConfig, job: TrainingJob, calibration: Calibration) -> Pace:
    known = calibration.of(job.size)
    step = step_time.seconds(job, known.constants)
    return Pace(
        step=step,
        evaluation=step * evaluation_steps(config.rules, config.layout.global_batch_size, known.evaluation),
        start=known.start,
        spread=calibration.spread(job),
    )


def plan(
    config: RunConfig, calibration: Calibration, gpu: str | None = None, *, quantised_weights: bool = False
) -> Plan:
    """Plan one configuration.

    Raises:
        ConfigError: as for `job_of`.
    """
    job = job_of(config, calibration, gpu, quantised_weights=quantised_weights)
    pace = pace_of(config, job, calibration)
    likely = outcomes(config.rules, config.schedule, pace, limit=config.step_limit)
    slow = _without_graph(config, job, pace, calibration)
    slowest = likely[-1] if slow is None else slow.outcomes[-1]
    fits = memory.fits(memory.worst(job), job)
    return Plan(
        config=config,
        job=job,
        stages=memory.stages(job),
        parts=step_time.breakdown(job, calibration.of(job.size).constants),
        pace=pace,
        measured=calibration.measured(job),
        outcomes=likely,
        without_graph=slow,
        walltime=walltime(slowest, pace, config.job.experiments),
        remedies=[] if fits else sorted(_remedies(config, job, calibration), key=lambda remedy: remedy.step),
    )


def _without_graph(config: RunConfig, job: TrainingJob, pace: Pace, calibration: Calibration) -> WithoutGraph | None:
    gain = calibration.graph_gain(job)
    if gain is None or config.kernels.full_cuda_graph:
        return None
    slow = replace(pace, step=gain * pace.step, evaluation=gain * pace.evaluation)
    likely = outcomes(config.rules, config.schedule, slow, limit=config.step_limit)
    return WithoutGraph(gain=gain, pace=slow, outcomes=likely)


def _remedies(config: RunConfig, planned: TrainingJob, calibration: Calibration) -> Iterator[Remedy]:
    """Yield single changes that make a configuration fit, and those that do so only with gradients in bf16."""
    fitting = {}
    for name, change in _changes(config):
        remedy = _remedy(config, change, planned, calibration)
        if remedy is not None:
            fitting[name] = remedy
    if config.kernels.grad_reduce_in_fp32 and "gradients" not in fitting:
        for name, change in _changes(config):
            if name not in fitting:
                remedy = _remedy(config, change | BF16_GRADIENTS, planned, calibration)
                if remedy is not None:
                    fitting[name] = remedy
    yield from fitting.values()


def _remedy(
    config: RunConfig, change: Mapping[str, str], planned: TrainingJob, calibration: Calibration
) -> Remedy | None:
    """Return a change if the configuration is possible with it and fits; None otherwise."""
    try:
        changed = RunConfig.from_environment({**config.to_environment(), "DGXSYSTEM": planned.gpu.system, **change})
    except ConfigError:
        return None
    job = job_of(changed, calibration, planned.gpu.name, quantised_weights=planned.quantised_weights)
    worst = memory.worst(job)
    if not memory.fits(worst, job):
        return None
    return Remedy(change=change, total=worst.total, step=step_time.seconds(job, calibration.of(job.size).constants))


def _changes(config: RunConfig) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the possible changes, by name."""
    layout = config.layout
    if config.kernels.grad_reduce_in_fp32:
        yield "gradients", BF16_GRADIENTS
    if config.kernels.precision == "fp8" and not config.kernels.fp8_param_gather:
        yield "weights", {"FP8_PARAM_GATHER": "True"}
    yield "mlp", {"RECOMPUTE_GRANULARITY": "selective", "RECOMPUTE_MODULES": "mlp"}
    # One layer of each model chunk, or all of them.
    for method in ("block", "uniform"):
        yield method, {"RECOMPUTE_GRANULARITY": "full", "RECOMPUTE_METHOD": method, "RECOMPUTE_NUM_LAYERS": "1"}
    # Twice as many ranks a replica halve the replicas; twice the minibatch keeps the global batch.
    for name, size in (
        ("TENSOR_MODEL_PARALLEL", layout.tensor_model_parallel),
        ("PIPELINE_MODEL_PARALLEL", layout.pipeline_model_parallel),
        ("CONTEXT_PARALLEL", layout.context_parallel),
    ):
        yield name, {name: str(2 * size), "MINIBS": str(2 * layout.minibatch)}
