"""Finds values that cannot go together. Each fault shows the equation and the valid choices."""

from __future__ import annotations

import re
from collections.abc import Iterator

from benchmark.benchmarks import Benchmark
from benchmark.config.groups import Hyperparameters, Job, Layout, Process
from benchmark.rules import Rules, ScaledLearningRate, Schedule
from benchmark.sizes import ModelSize

_NAME_PATTERN = re.compile(
    r"_(?P<DGXNNODES>\d+)x(?P<DGXNGPU>\d+)x(?P<MINIBS>\d+)"
    r"xtp(?P<TENSOR_MODEL_PARALLEL>\d+)pp(?P<PIPELINE_MODEL_PARALLEL>\d+)cp(?P<CONTEXT_PARALLEL>\d+)(?:_|$)"
)


def ruleset_faults(row: Benchmark, ruleset: str | None) -> Iterator[str]:
    """Yield why the ruleset is not known."""
    if row.submittable and ruleset is None:
        yield (
            f"RULESET is not set: a run of {row.name} belongs to one round, which a config file exports; "
            f"valid: {', '.join(row.rulesets)}"
        )


def layout_faults(layout: Layout, size: ModelSize, vocabulary: int, sequence_length: int) -> Iterator[str]:
    """Yield why the model, or the batch, cannot be divided like this."""
    tp, pp, vp, cp = (
        layout.tensor_model_parallel,
        layout.pipeline_model_parallel,
        layout.interleaved_pipeline,
        layout.context_parallel,
    )
    if layout.world_size % layout.model_parallel:
        yield (
            f"DGXNNODES({layout.nodes}) x DGXNGPU({layout.gpus_per_node}) = {layout.world_size} ranks is not a "
            f"multiple of TENSOR_MODEL_PARALLEL({tp}) x PIPELINE_MODEL_PARALLEL({pp}) x CONTEXT_PARALLEL({cp}) = "
            f"{layout.model_parallel}; the remainder is {layout.world_size % layout.model_parallel}"
        )
    if layout.minibatch % layout.micro_batch_size:
        yield (
            f"MINIBS({layout.minibatch}) is not a multiple of MICRO_BATCH_SIZE({layout.micro_batch_size}); "
            f"valid: {_divisors(layout.minibatch)}"
        )
    for what, number in (
        ("query groups", size.query_groups),
        ("attention heads", size.heads),
        ("vocabulary entries", vocabulary),
    ):
        if number % tp:
            valid = _divisors(size.query_groups)
            yield f"TENSOR_MODEL_PARALLEL({tp}) does not divide the {number} {what}; valid: {valid}"
    stages = pp * vp
    # An embedding or loss stage may count as a layer, which is how 126 layers fill 8 x 8 chunks.
    if size.layers % stages and (size.layers + 2) % stages:
        yield (
            f"PIPELINE_MODEL_PARALLEL({pp}) x INTERLEAVED_PIPELINE({vp}) = {stages} divides neither the "
            f"{size.layers} layers nor {size.layers} + 2 (embedding and loss counted as layers); "
            f"valid products: {_divisors(size.layers)} or {_divisors(size.layers + 2)}"
        )
    if vp > 1 and pp == 1:
        yield f"INTERLEAVED_PIPELINE({vp}) needs a pipeline; PIPELINE_MODEL_PARALLEL is 1"
    if vp > 1 and layout.gradient_accumulation_steps % pp:
        yield (
            f"MINIBS({layout.minibatch}) / MICRO_BATCH_SIZE({layout.micro_batch_size}) = "
            f"{layout.gradient_accumulation_steps} microbatches is not a multiple of PIPELINE_MODEL_PARALLEL({pp}), "
            "as an interleaved pipeline needs"
        )
    if cp > 1 and sequence_length % (2 * cp):
        yield f"CONTEXT_PARALLEL({cp}) x 2 does not divide the sequence of {sequence_length} tokens"
    elif (tokens := sequence_length // cp) % tp:
        yield f"TENSOR_MODEL_PARALLEL({tp}) does not divide the {tokens} tokens of a context-parallel rank"


def closed_faults(given: Hyperparameters) -> Iterator[str]:
    """Yield a line for each value that the closed division does not leave to the submitter."""
    for name, value in given.of_the_open_division.items():
        yield f"{name}={value}: the closed division fixes it; unset it, or set MLPERF_SUBMISSION_DIVISION=open"


def schedule_faults(schedule: Schedule) -> Iterator[str]:
    """Yield why a learning rate cannot rise and fall like this."""
    peak, end = schedule.base_learning_rate, schedule.end_learning_rate
    if end > peak:
        yield f"the learning rate would end at {end}, above its peak of {peak}: LEARNING_RATE, END_LEARNING_RATE"
    if schedule.decay_steps < 1:
        yield (
            f"WARMUP_STEPS({schedule.warmup_steps}) leaves no step of decay within the {schedule.max_steps} of the "
            f"schedule; valid: 0 to {schedule.max_steps - 1}"
        )


def batch_faults(layout: Layout, rules: Rules) -> Iterator[str]:
    """Yield why the closed division does not allow the global batch size."""
    gbs = layout.global_batch_size
    equation = f"MINIBS({layout.minibatch}) x data-parallel size({layout.data_parallel}) = global batch size {gbs}"
    if rules.max_global_batch_size is not None and gbs > rules.max_global_batch_size:
        yield f"{equation} is above the {rules.max_global_batch_size} that {rules.benchmark} {rules.ruleset} allows"
    rate = rules.learning_rate
    if isinstance(rate, ScaledLearningRate) and not rate.verifiable(gbs):
        near = " and ".join(str(batch) for batch in rate.nearest_verifiable(gbs))
        yield (
            f"{equation}: no double satisfies the official check, learning rate x {rate.batch} == {gbs} x "
            f"{rate.base}; nearest global batch sizes that have one: {near}"
        )


def name_faults(system: str, layout: Layout) -> Iterator[str]:
    """Yield why a configuration cannot have its name."""
    if system in ("", ".", "..") or "/" in system:
        yield f"DGXSYSTEM={system!r} names the folder of the results below LOGDIR: expected a name, not a path"
    match = _NAME_PATTERN.search(system)
    if match is None:
        return
    values = layout.model_dump(by_alias=True)
    for name, text in match.groupdict().items():
        if int(text) != values[name]:
            yield (
                f"DGXSYSTEM={system} says {name}={text}, but {name} is {values[name]}; "
                "a config's name states its content"
            )


def job_faults(job: Job) -> Iterator[str]:
    """Yield why results cannot be stored like this. A container back end's own class reports what it cannot do."""
    if job.save_interval is not None and job.save_checkpoint is None:
        yield f"SAVE_INTERVAL({job.save_interval}) needs SAVE_CHECKPOINT, the folder to save to"


def profile_faults(job: Job, layout: Layout, org: str | None, *, submittable: bool) -> Iterator[str]:
    """Yield why a run cannot be profiled."""
    if job.profile is None:
        return
    if submittable and org is not None:
        yield (
            f"PROFILE({job.profile}) slows down a run that could be submitted, since MLPERF_SUBMISSION_ORG({org}) is "
            "set; unset one of them"
        )
    beyond = [rank for rank in job.profiled_ranks if rank >= layout.world_size]
    if beyond:
        yield f"PROFILE_RANKS has {beyond[0]}; valid: ranks 0 to {layout.world_size - 1}"


def process_faults(process: Process, layout: Layout) -> Iterator[str]:
    """Yield why the ranks that were started do not match the configuration."""
    if process.world_size is not None and process.world_size != layout.world_size:
        yield (
            f"WORLD_SIZE({process.world_size}) ranks were started, but DGXNNODES({layout.nodes}) x "
            f"DGXNGPU({layout.gpus_per_node}) = {layout.world_size}"
        )


def _divisors(number: int) -> str:
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)
