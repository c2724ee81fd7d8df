"""What a training step keeps in the memory of one GPU, for each pipeline stage.

Counted, not fitted: weights in their precision, gradients, the distributed optimizer's share, and the activations that
interleaved 1F1B holds at its peak. Checked against `max_memory_usage` of published logs by perf/plan_accuracy.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from harness.plan.job import Job

GIB = 2**30

OUTSIDE = 5 * GIB
"""Memory that PyTorch's allocator does not count: CUDA context, NCCL buffers, cuBLAS workspace, and fragmentation."""

SPREAD = 0.02
"""What the logged peaks of published runs are above this count, at most."""

MASTER_BYTES = 4
"""A parameter's fp32 copy, on the one rank that owns it."""

_PRODUCT_BYTES = {"bf16": 2.0, "fp8": 1.0, "mxfp8": 1.0 + 1 / 32, "nvfp4": 0.5 + 1 / 16}
"""A matrix product's input as kept for the backward pass, bytes a value, block scales included."""

PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "outside the allocator")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Memory of the ranks of one pipeline stage at its peak."""

    stage: int
    layers: int
    """Transformer layers."""
    parameters: int
    """On one rank."""
    layer_activations: int
    """Layer inputs and internals kept at the peak: layers times microbatches in flight."""
    parts: Mapping[str, float]
    """Bytes, by PARTS."""

    @property
    def allocated(self) -> float:
        """Bytes that PyTorch's allocator sees: `torch.cuda.max_memory_allocated`."""
        return self.total - self.parts["outside the allocator"]

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def stages(job: Job) -> list[Stage]:
    """Every pipeline stage, first to last."""
    return [_stage(job, stage) for stage in range(job.pipeline)]


def worst(job: Job) -> Stage:
    """The stage that needs most: the first, the second, or the last.

    Those between hold as many layers as the second one, with fewer microbatches in flight.
    """
    last = job.pipeline - 1
    return max((_stage(job, stage) for stage in sorted({0, min(1, last), last})), key=lambda stage: stage.total)


def fits(stage: Stage, job: Job) -> bool:
    """Whether a stage fits even if it needs as much more as the model may be off."""
    return stage.total + SPREAD * stage.allocated <= job.gpu.memory


def _stage(job: Job, stage: int) -> Stage:
    layers, held, last = job.layers(stage), _layer_activations(job, stage), job.pipeline - 1
    matrices = layers * job.layer_matrices // job.tensor
    vocabulary = ((stage == 0) + (stage == last)) * job.vocabulary * job.size.hidden // job.tensor
    norms = layers * job.layer_norms + (stage == last) * job.size.hidden
    parameters = matrices + vocabulary + norms
    logits = job.micro_batch * job.sequence_length // job.context * job.vocabulary // job.tensor
    parts = {
        "weights": matrices * weight_bytes(job) + 2.0 * (vocabulary + norms),
        "gradients": float(parameters * job.gradient_bytes),
        "optimizer": parameters * (MASTER_BYTES + job.moment_bytes) / job.sharding,
        "activations": held * layer_bytes(job) + _under_way(job),
        # bf16 logits, and their gradient in fp32, of one microbatch.
        "logits": 6.0 * logits if stage == last else 0.0,
        "outside the allocator": float(OUTSIDE),
    }
    return Stage(
        stage=stage,
        layers=layers,
        parameters=parameters,
        layer_activations=held,
        parts=MappingProxyType(parts),
    )


def weight_bytes(job: Job) -> float:
    """Bytes a weight of a layer's matrix, with the copies that matrix products need.

    Hopper multiplies fp8 only row by column and keeps a transposed copy; blocks of mxfp8 and nvfp4 run along the
    product's inner dimension, so there are two copies as well. nvfp4 is taken to keep bf16 weights in any case: no
    published log says.
    """
    if job.precision == "bf16":
        return 2.0
    copies = 1 if job.precision == "fp8" and job.gpu.generation == "Blackwell" else 2
    beside = 0.0 if job.quantised_weights and job.precision != "nvfp4" else 2.0
    return beside + copies * _PRODUCT_BYTES[job.precision]


def product_bytes(job: Job) -> float:
    """Bytes of a value in the precision of the matrix products."""
    return _PRODUCT_BYTES[job.precision]


def layer_bytes(job: Job) -> float:
    """Bytes that one layer keeps of one microbatch for its backward pass, on one rank.

    In units of hidden values a token: 27.5 bytes in fp8 and 31.75 in bf16 for 405B, without recomputation.
    """
    size, each = job.size, _PRODUCT_BYTES[job.precision]
    ffn = size.ffn_hidden / size.hidden
    keys_and_values = 2 * size.query_groups / size.heads
    if "full" in job.recompute:
        kept = 2.0
    else:
        # A bf16 attention output is also the projection's input; a quantised copy comes on top.
        output = 2 if job.precision == "bf16" else 2 + each
        normalised = 0.0 if "layernorm" in job.recompute else each
        attention = 2 + normalised + 2 * (1 + keys_and_values) + output
        # The MLP's own input, the gate's and up-projection's outputs in bf16, and their product.
        mlp = 0.0 if "mlp" in job.recompute else 4 * ffn + each * ffn
        kept = attention + 2 + (each if "mlp" in job.recompute else normalised) + mlp
    return kept * size.hidden * job.tokens / job.tensor


def _under_way(job: Job) -> float:
    """The layer that the backward pass is in: what it computes again, and the bf16 gradients of its activations."""
    whole = replace(job, recompute=frozenset())
    return layer_bytes(whole) - layer_bytes(job) + layer_bytes(replace(whole, precision="bf16"))


def _layer_activations(job: Job, stage: int) -> int:
    """Layers times microbatches whose activations `stage` holds at the peak of interleaved 1F1B."""
    pipeline, chunks = job.pipeline, job.chunks
    if chunks == 1:
        return min(job.microbatches, pipeline - stage) * job.layers(stage)
    # Forward passes before the first backward one, as Megatron-Core's schedule counts its warm-up. They go round:
    # `pipeline` microbatches through each chunk in turn, and back in the opposite order.
    ahead = min(2 * (pipeline - stage - 1) + (chunks - 1) * pipeline, job.microbatches * chunks)
    layers = [job.chunk_layers(stage, chunk) for chunk in range(chunks)]

    def chunk(index: int) -> int:
        return index // pipeline % chunks

    held = sum(layers[chunk(index)] for index in range(ahead))
    if ahead == job.microbatches * chunks:
        return held
    if len(set(layers)) == 1:
        return held + layers[0]
    # One forward, one backward: where chunks differ, the peak comes when a large one replaces a small one.
    peak = 0
    for done in range(min(pipeline * chunks, job.microbatches * chunks - ahead)):
        held += layers[chunk(ahead + done)]
        peak = max(peak, held)
        held -= layers[chunks - 1 - chunk(done)]
    return peak
