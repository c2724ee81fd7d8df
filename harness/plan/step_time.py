"""How long a training step takes: a sum of physical terms, each with the constants that scale it.

A step runs `microbatches` forward and backward passes through the busiest pipeline stage, waits out the bubble, and
then pays once for gradients, weights and the optimizer. Each term is the time at the datasheet's rate; the constants
(harness.plan.calibration) say how far a generation of GPUs and its software fall short of it.

Attention is counted without the causal mask, as in the benchmark's usual FLOP count; the constant absorbs the mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

from harness.plan import memory
from harness.plan.job import TrainingJob

MESSAGE_SECONDS = 20e-6
"""Seconds of a small collective or transfer between GPUs, and of the kernels that wait for it."""

PARTS = (
    "matrix products",
    "attention",
    "elementwise",
    "weights and gradients",
    "latency",
    "tensor parallel",
    "context parallel",
    "pipeline",
    "bubble",
    "data parallel",
    "optimizer",
    "fixed",
)
"""The parts of a step's time, in the order in which they are shown."""

KINDS: Mapping[str, tuple[str, ...]] = {
    "compute": ("matrix products", "attention", "elementwise", "weights and gradients"),
    "transfers": ("latency", "tensor parallel", "context parallel", "pipeline"),
    "bubble": ("bubble",),
    "once": ("data parallel", "optimizer", "fixed"),
}
"""PARTS by how a layout changes them: work, transfers of each microbatch, waiting, and what is paid once a step."""


@dataclass(frozen=True, slots=True)
class Term:
    """Seconds of a step before calibration, and the names of the constants that multiply them."""

    part: str
    seconds: float
    constants: tuple[str, ...]

    def calibrated(self, constants: Mapping[str, float]) -> float:
        return self.seconds * prod(constants[name] for name in self.constants)


@dataclass(frozen=True, slots=True)
class StepTerms:
    """The terms of a training step."""

    microbatch: tuple[Term, ...]
    """One forward and backward pass of one microbatch through the busiest stage."""
    once: tuple[Term, ...]
    """Paid once a step, however many microbatches it has."""

    def terms(self, job: TrainingJob) -> list[Term]:
        """Return all terms, for the microbatches and the bubble of `job`."""
        return [
            *(Term(term.part, term.seconds * job.microbatches, term.constants) for term in self.microbatch),
            *(Term("bubble", term.seconds * job.bubble, term.constants) for term in self.microbatch),
            *self.once,
        ]


def step(job: TrainingJob) -> StepTerms:
    """Return the terms of a job's step; its number of microbatches does not matter."""
    return StepTerms(microbatch=(*_computation(job), *_communication(job)), once=tuple(_once(job)))


def terms(job: TrainingJob) -> list[Term]:
    """Return every term of a training step."""
    return step(job).terms(job)


def total(terms: Iterable[Term], constants: Mapping[str, float]) -> float:
    """Return the sum of some terms, in seconds."""
    return sum(term.calibrated(constants) for term in terms)


def seconds(job: TrainingJob, constants: Mapping[str, float]) -> float:
    """Return the time of a step, in seconds."""
    return total(terms(job), constants)


def breakdown(job: TrainingJob, constants: Mapping[str, float]) -> dict[str, float]:
    """Return the time of each part of a step, in seconds."""
    found = dict.fromkeys(PARTS, 0.0)
    for term in terms(job):
        found[term.part] += term.calibrated(constants)
    return found


def _busiest(job: TrainingJob) -> tuple[int, bool]:
    """Return the number of layers of the busiest stage, and whether the output layer is on it too.

    It is a stage in the middle or the last one, whichever multiplies more.
    """
    last = job.pipeline - 1
    middle, end = job.layers(min(1, last)), job.layers(last)
    head = job.size.hidden * job.vocabulary / job.layer_matrices
    return (end, True) if last == 0 or end + head > middle else (middle, False)


def _software(job: TrainingJob) -> tuple[str, ...]:
    """Return the constants for software that differs from the reference: H100 or GB200 with v5.0's submissions."""
    generation = job.gpu.generation
    differs = {
        f"gpu.{job.gpu.name}": job.gpu.name not in ("H100", "GB200"),
        f"release.{generation}.{job.release}": job.release != "v5.0",
        f"stack.{generation}.{job.stack}": job.stack != "mlperf",
    }
    return tuple(name for name, holds in differs.items() if holds)


def _computation(job: TrainingJob) -> Iterator[Term]:
    size, gpu, software = job.size, job.gpu, _software(job)
    peak, bf16_peak, bandwidth = gpu.peak(job.precision), gpu.bf16 * 1e12, gpu.memory_bandwidth * 1e12
    if peak is None:
        raise ValueError(f"{gpu.name} has no {job.precision}")
    (layers, with_head), generation = _busiest(job), gpu.generation
    tokens = job.tokens / job.tensor

    # Two operations per weight and token forward, four backward; recomputed passes count again.
    again = _recomputed(job)
    products = layers * 2 * (3 + again) * job.layer_matrices * tokens
    yield Term("matrix products", products / peak, (f"matmul.{generation}.{job.precision}", *software))
    if with_head:
        head = 6 * size.hidden * job.vocabulary * tokens
        yield Term("matrix products", head / bf16_peak, (f"matmul.{generation}.bf16", *software))

    # From every token to every token, forward; the flash kernel's backward pass does two and a half times as much.
    attention = layers * (3.5 + _attention_again(job)) * 4 * job.sequence_length * size.hidden * tokens
    yield Term("attention", attention / bf16_peak, ("attention", *software))

    # Norms, SwiGLU, residuals, casts: about 70 bytes per token and hidden value forward, twice as many backward.
    elementwise = layers * 70 * (3 + again) * size.hidden * tokens
    yield Term("elementwise", elementwise / bandwidth, (f"elementwise.{generation}", *software))

    # Each microbatch reads the weights twice and adds to the gradients, however few tokens it has.
    touched = (2 + again) * memory.product_bytes(job) + 2 * job.gradient_bytes
    traffic = layers * touched * job.layer_matrices / job.tensor
    yield Term("weights and gradients", traffic / bandwidth, ("traffic",))


def _recomputed(job: TrainingJob) -> float:
    """Return the share of a layer's forward pass that the backward pass repeats, by weights."""
    return job.mlp_share if "mlp" in job.recompute else job.recomputed_share(min(1, job.pipeline - 1))


def _attention_again(job: TrainingJob) -> float:
    """Return the share of a layer's core attention that the backward pass repeats."""
    return 1.0 if "core_attn" in job.recompute else job.recomputed_share(min(1, job.pipeline - 1))


def _communication(job: TrainingJob) -> Iterator[Term]:
    size, gpu, layers = job.size, job.gpu, _busiest(job)[0]
    full = job.recomputed_share(min(1, job.pipeline - 1))
    nvlink, nic = gpu.nvlink * 1e9, gpu.nic * 1e9
    # bf16 bytes of one layer's output, over all tensor-parallel ranks.
    output, messages = 2 * job.tokens * size.hidden, 0.0
    if job.tensor > 1:
        # All-gather and reduce-scatter around attention and MLP, forward and backward, and two more gathers; those
        # around recomputed parts once more.
        collectives = 10 + 4 * full + 2 * ("mlp" in job.recompute)
        messages += collectives
        yield Term("tensor parallel", layers * collectives * output * (1 - 1 / job.tensor) / nvlink, ("tensor",))
    if job.context > 1:
        # Keys and values go round forward; they and their gradients backward.
        keys_and_values = 2 * 2 * size.query_groups * size.head_dim * job.tokens / job.tensor
        rounds = (3 + _attention_again(job)) * (job.context - 1)
        messages += rounds
        link = nvlink if job.tensor * job.context <= gpu.nvlink_domain else nic
        yield Term("context parallel", layers * rounds * keys_and_values / link, ("context",))
    if messages:
        yield Term("latency", layers * messages * MESSAGE_SECONDS, ("latency",))
    if job.pipeline > 1:
        # Each chunk's output forward, and its gradient backward.
        yield Term("pipeline", 2 * job.chunks * output / job.tensor / nic, ("pipeline",))


def _once(job: TrainingJob) -> Iterator[Term]:
    gpu, ranks = job.gpu, job.sharding
    weights = job.layer_matrices * max(job.layers(stage) for stage in range(job.pipeline)) / job.tensor
    if ranks > 1:
        # Gradients are scattered and bf16 weights gathered, in rings that leave an NVLink domain through the adapters
        # of all its ranks.
        neighbours = max(1, min(gpu.nvlink_domain // job.tensor, ranks))
        link = gpu.nvlink if neighbours == ranks else min(gpu.nvlink, neighbours * gpu.nic)
        moved = (job.gradient_bytes + 2) * weights * (1 - 1 / ranks)
        yield Term("data parallel", moved / (link * 1e9), ("data",))
    # AdamW reads and writes the weight and two moments in fp32, reads the gradient and writes the bf16 weight.
    yield Term("optimizer", 34 * weights / ranks / (gpu.memory_bandwidth * 1e12), ())
    yield Term("fixed", 1.0, ("fixed",))
