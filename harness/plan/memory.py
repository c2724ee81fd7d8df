"""What a training step keeps in the memory of one GPU, for each pipeline stage.

The memory is counted, not fitted: each term is a tensor that some library allocates, which a comment names. The count
is for Transformer Engine's layers, as Transformer Engine 2.11 and Megatron-Core 0.16.1 make them. It was derived from
the tensors that are live at the peak of each shipped configuration on the null device; those peaks are in
tests/golden/null_peaks.json. perf/plan_accuracy.py checks it against published logs.

In comments, a shard is one hidden value per token, split among tensor-parallel ranks as sequence parallelism does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import lcm
from operator import mul
from types import MappingProxyType

from benchmark.hardware import OUTSIDE_ALLOCATOR
from harness.plan.job import TrainingJob

GIB, MIB = 2**30, 2**20

MASTER_BYTES = 4
"""Bytes of a parameter's fp32 copy, on the one rank that owns it."""

WORKSPACE = 32 * MIB
"""Bytes of cuBLAS's workspaces from Hopper on: one for Transformer Engine's products (cpp_extensions/gemm.py:31), and
one of PyTorch's for each thread that multiplies; two threads multiply the output layer, forward and backward."""

SMALL = 16 * 512
"""Bytes of small tensors that Transformer Engine keeps for a layer: at most sixteen, in the
allocator's smallest block.
"""

UNNAMED = 1.25 * MIB
"""Bytes of the loss: what 8B has on the null device beyond the rest of the count, 0.1 to 1.1 MiB in any layout."""

GRANULARITY = 20 * MIB
"""Bytes by which an expandable segment grows (PyTorch's kLargeBuffer)."""

_PRODUCT_BYTES = {"bf16": 2.0, "fp8": 1.0, "mxfp8": 1.0 + 1 / 32, "nvfp4": 0.5 + 1 / 16}
"""Bytes per value of a matrix product's input as kept for the backward pass, block scales included."""

PARTS = (
    "weights",
    "gradients",
    "optimizer",
    "activations",
    "under way",
    "logits",
    "buffers",
    "between blocks",
    "outside the allocator",
)
"""In this order: what is always kept; what grows with microbatches in flight; what the backward pass of one layer uses
or, if that is more, the loss; workspaces, tables and memory waiting to be freed; memory that the allocator holds
unused.
"""

UNALLOCATED = ("between blocks", "outside the allocator")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Memory of the ranks of one pipeline stage at its peak."""

    stage: int
    layers: int
    """Number of transformer layers."""
    parameters: int
    """Parameters on one rank."""
    layer_activations: int
    """Layers times microbatches in flight at the peak."""
    parts: Mapping[str, float]
    """Bytes, by PARTS."""

    @property
    def allocated(self) -> float:
        """Bytes of live tensors: `torch.cuda.max_memory_allocated`."""
        return sum(size for part, size in self.parts.items() if part not in UNALLOCATED)

    @property
    def reserved(self) -> float:
        """Bytes that PyTorch's allocator holds, at most: `torch.cuda.max_memory_reserved`, with expandable segments."""
        return self.allocated + self.parts["between blocks"]

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def stages(job: TrainingJob) -> list[Stage]:
    """Return every pipeline stage, first to last."""
    return [_stage(job, stage) for stage in range(job.pipeline)]


def worst(job: TrainingJob) -> Stage:
    """Return the stage that needs most: the first, the second, the last, or the first that sends during its peak.

    The stages in between hold as many layers as the second one, with fewer microbatches in flight.
    """
    last = job.pipeline - 1
    sending = next((stage for stage in range(1, last) if _alternates(job, stage)), last)
    candidates = sorted({0, min(1, last), sending, last})
    return max((_stage(job, stage) for stage in candidates), key=lambda stage: stage.total)


def fits(stage: Stage, job: TrainingJob) -> bool:
    """Return whether the memory that PyTorch reserves and the memory outside its allocator fit on the GPU."""
    return stage.total <= job.gpu.memory


def _stage(job: TrainingJob, stage: int) -> Stage:
    layers, last = job.layers(stage), job.pipeline - 1
    in_bf16 = [job.bf16_layers(stage, chunk) for chunk in range(job.chunks)]
    quantised = layers - sum(map(sum, in_bf16))
    matrices = quantised * job.layer_matrices // job.tensor
    chunks = [_chunk_parameters(job, stage, chunk) for chunk in range(job.chunks)]
    # Megatron-Core pads each chunk's buffer so that every rank has an equal, aligned share of it
    # (core/distributed/param_and_grad_buffer.py).
    share = lcm(job.sharding, 128)
    padded = sum(-(-parameters // share) * share for parameters in chunks)

    activations = _peak(job, stage, in_bf16) * layer_bytes(job)
    kinds = [*([job] if quantised else ()), *([_plain(job)] if quantised < layers else ())]
    layer, loss = max(_layer_under_way(kind, stage) for kind in kinds), _loss_under_way(job) if stage == last else 0.0
    parts = {
        "weights": 2.0 * padded + matrices * (weight_bytes(job) - 2.0),
        "gradients": float(padded * job.gradient_bytes),
        "optimizer": padded * (MASTER_BYTES + job.moment_bytes) / job.sharding,
        "activations": activations,
        "under way": layer if layer >= loss else 0.0,
        "logits": loss if loss > layer else 0.0,
        "buffers": _buffers(job, stage),
        "between blocks": _between_blocks(job),
        "outside the allocator": float(OUTSIDE_ALLOCATOR),
    }
    if job.gradient_bytes == 2:
        # At the end of a step, when no activations are left, the reduced gradients are copied to fp32.
        copies = MASTER_BYTES * padded / job.sharding
        parts["optimizer"] += max(0.0, copies - activations - max(layer, loss))
    return Stage(
        stage=stage,
        layers=layers,
        parameters=sum(chunks),
        layer_activations=_layer_activations(job, stage),
        parts=MappingProxyType(parts),
    )


def _chunk_parameters(job: TrainingJob, stage: int, chunk: int) -> int:
    """Return the parameters of a model chunk on one rank: its layers, and embedding or output layer and final norm."""
    first = stage == 0 and chunk == 0
    last = stage == job.pipeline - 1 and chunk == job.chunks - 1
    vocabulary = (first + last) * job.vocabulary * job.size.hidden // job.tensor
    layers = job.chunk_layers(stage, chunk)
    return layers * (job.layer_matrices // job.tensor + job.layer_norms) + vocabulary + last * job.size.hidden


# Weights.


def weight_bytes(job: TrainingJob) -> float:
    """Return the bytes per weight of a layer's matrix, with the copies that matrix products need.

    Transformer Engine keeps the copies from one microbatch to the next (module/base.py, get_weight_workspace). Without
    quantised weights, the bf16 weights are kept as well; nvfp4 is assumed to keep them in any case, since no published
    log shows it.
    """
    if job.precision == "bf16":
        return 2.0
    beside = 0.0 if job.quantised_weights and job.precision != "nvfp4" else 2.0
    return beside + _directions(job) * _PRODUCT_BYTES[job.precision]


def product_bytes(job: TrainingJob) -> float:
    """Return the bytes of a value in the precision of the matrix products."""
    return _PRODUCT_BYTES[job.precision]


def _directions(job: TrainingJob) -> int:
    """Return the number of quantised copies of a tensor that is multiplied in two directions.

    Hopper multiplies fp8 only row by column and needs a transposed copy. Blocks of mxfp8 and nvfp4 run along the
    product's inner dimension, so they need two copies as well.
    """
    if job.precision == "bf16":
        return 0
    return 1 if job.precision == "fp8" and job.gpu.generation == "Blackwell" else 2


# Activations.


def layer_bytes(job: TrainingJob) -> float:
    """Return the bytes that one layer keeps of a microbatch for its backward pass, on a rank, not recomputed."""
    if "full" in job.recompute and job.recomputed_layers == 0:
        return _checkpoint_bytes(job)
    return _kept(job)


def _checkpoint_bytes(job: TrainingJob) -> float:
    """Return the bytes kept of a layer that is recomputed whole: its input, in bf16."""
    return 2.0 * _shard(job)


def _kept(job: TrainingJob) -> float:
    """Return the bytes without recomputation of whole layers; for 405B, 26.6 a shard in fp8 and 31.8 in bf16."""
    size, each = job.size, product_bytes(job)
    ffn, groups = size.ffn_hidden / size.hidden, size.query_groups / size.heads
    # Each norm's input (the residual stream, bf16) and output, and an fp32 number per token.
    norms = 2 * (2 + _normalised_bytes(job))
    # Query, key and value, and the output of attention, which is also the projection's input: Megatron-Core makes the
    # projection keep that output, not a quantised copy (core/transformer/attention.py, set_save_original_input).
    attention = 2 * (1 + 2 * groups) + 2 + (each if job.projection_copy and job.precision != "bf16" else 0.0)
    if "core_attn" in job.recompute:
        # The checkpoint's value is a view of the whole product of query, key and value, so that product and the key
        # stay.
        attention += 2 * (1 + 2 * groups) - 2 * groups
    # The gate's and up-projection's outputs in bf16, and their product. Recomputing the MLP also saves its norm: in
    # Transformer Engine's layers the norm is part of the first product.
    mlp = -_normalised_bytes(job) if "mlp" in job.recompute else (4 + each) * ffn
    # fp32 numbers: the softmax's sum for each head, and each norm's scale.
    softmax = 0 if "core_attn" in job.recompute else size.heads
    numbers = 4.0 * job.tokens / job.tensor * (softmax + (1 if "mlp" in job.recompute else 2))
    return (norms + attention + mlp) * _shard(job) + numbers


def _shard(job: TrainingJob) -> float:
    return job.size.hidden * job.tokens / job.tensor


def _normalised_bytes(job: TrainingJob) -> float:
    """Return the bytes per value of a norm's output, as kept.

    Transformer Engine drops the copy that the backward pass does not multiply, but for nvfp4 only if nothing is
    gathered (module/layernorm_linear.py, update_usage).
    """
    return product_bytes(job) * (2 if job.precision == "nvfp4" and job.tensor > 1 else 1)


def _plain(job: TrainingJob) -> TrainingJob:
    """Return the same job in bf16 throughout, as some of its layers may be."""
    return replace(job, precision="bf16")


def _peak(job: TrainingJob, stage: int, in_bf16: Sequence[Sequence[bool]]) -> float:
    """Return what `stage` holds at its peak, in units of layer_bytes: layers in flight, and inputs kept unread.

    Args:
        in_bf16: for each layer of each chunk, whether it stays in bf16.
    """
    each = layer_bytes(job)
    kept, checkpoint = 1.0, _checkpoint_bytes(job) / each
    plain = layer_bytes(_plain(job)) / each
    whole = job.recomputed_layers if "full" in job.recompute else 0

    def weight(layers: Sequence[bool]) -> float:
        return min(whole, len(layers)) * checkpoint + sum(plain if bf16 else kept for bf16 in layers[whole:])

    weights = tuple(map(weight, in_bf16))
    # A chunk holds its last input until the next one (TransformerBlock.set_input_tensor), together with its gradient.
    return _most_held(job.pipeline, stage, job.microbatches, weights, round(2 * checkpoint, 6))


def _layer_activations(job: TrainingJob, stage: int) -> int:
    """Return layers times microbatches whose activations `stage` holds at the peak of interleaved 1F1B."""
    layers = tuple(float(job.chunk_layers(stage, chunk)) for chunk in range(job.chunks))
    return round(_most_held(job.pipeline, stage, job.microbatches, layers, 0.0))


@lru_cache(maxsize=4096)
def _most_held(pipeline: int, stage: int, microbatches: int, weights: tuple[float, ...], kept: float) -> float:
    """Return the most that `stage` holds in Megatron-Core's interleaved 1F1B, played forward and backward.

    Args:
        weights: what each model chunk holds for one microbatch.
        kept: what a chunk holds after the backward pass of its last microbatch, until its next forward pass.
    """
    chunks, passes = len(weights), microbatches * len(weights)
    ahead = _ahead(pipeline, stage, chunks, passes)

    # Chunks take turns: `pipeline` microbatches through each chunk, and back in the opposite order.
    def chunk(index: int) -> int:
        return index // pipeline % chunks

    flying = [0] * chunks
    for index in range(ahead):
        flying[chunk(index)] += 1
    held = sum(map(mul, flying, weights))
    most = held if ahead == passes else 0.0
    idle: set[int] = set()
    # One forward, one backward. The first two rounds show everything; later ones repeat them.
    for done in range(min(2 * pipeline * chunks, passes - ahead)):
        coming, going = chunk(ahead + done), chunks - 1 - chunk(done)
        idle.discard(coming)
        flying[coming] += 1
        held += weights[coming]
        most = max(most, held + kept * len(idle))
        flying[going] -= 1
        held -= weights[going]
        # The first chunk of the first stage gets no input from another.
        if flying[going] == 0 and (stage, going) != (0, 0):
            idle.add(going)
    return most


def _ahead(pipeline: int, stage: int, chunks: int, passes: int) -> int:
    """Return the forward passes before the first backward one, as Megatron-Core's schedule counts its warm-up."""
    whole = 2 * (pipeline - stage - 1) + (chunks - 1) * pipeline
    return min(pipeline - stage - 1 if chunks == 1 else whole, passes)


def _alternates(job: TrainingJob, stage: int) -> bool:
    """Return whether a stage ever alternates forward and backward; not if all its forward passes come first."""
    passes = job.microbatches * job.chunks
    return _ahead(job.pipeline, stage, job.chunks, passes) < passes


# Memory that one layer's backward pass, or the loss, uses.


def _layer_under_way(job: TrainingJob, stage: int) -> float:
    """Return the bytes of the layer in backward, at the larger of two moments of its MLP, beyond what layers keep."""
    outputs = 2 * job.size.ffn_hidden / job.tensor * job.tokens
    # What the layer keeps of its MLP: the first product's output, which is gone when the weight gradient is made, and
    # the second product's input, which is gone at both moments.
    first, second = 2 * outputs, outputs / 2 * product_bytes(job)
    if "mlp" in job.recompute:
        # If the MLP is recomputed, its values exist again, together with the norm and the MLP's output.
        again = (_normalised_bytes(job) + 2) * _shard(job)
        return again + max(_weight_gradient(job), _activation(job) + first)
    beyond = max(_weight_gradient(job) - first, _activation(job)) - second
    # A chunk's first layers are the recomputed ones, and its last layer comes first in the backward pass.
    shortest = min(job.chunk_layers(stage, chunk) for chunk in range(job.chunks))
    if "full" in job.recompute and not 0 < job.recomputed_layers < shortest:
        beyond += _kept(replace(job, recompute=frozenset())) - _checkpoint_bytes(job) + 2 * _shard(job)
    return beyond


def _activation(job: TrainingJob) -> float:
    """Return the bytes of SwiGLU's backward pass: gradients of its output, of gate and up-projection, and of both.

    The count is for PyTorch running it line by line (megatron/core/fusions/fused_bias_swiglu.py); torch.compile needs
    less.
    """
    outputs = 2 * job.size.ffn_hidden / job.tensor * job.tokens
    return outputs + 2 * outputs + 2 * outputs + 2 * _shard(job)


def _weight_gradient(job: TrainingJob) -> float:
    """Return the bytes while the gradient of the MLP's first weight, the largest product, is computed.

    The terms follow the order of Transformer Engine's backward pass (module/layernorm_linear.py).
    """
    size, each, shard = job.size, product_bytes(job), _shard(job)
    gathered, split = float(job.tokens * size.hidden), job.tensor > 1
    outputs = 2 * size.ffn_hidden / job.tensor * job.tokens
    # SwiGLU's gradient in bf16 and quantised for both products; the gradient of the residual stream.
    total = outputs * (2 + _directions(job) * each) + 2 * shard
    # The gradient of the product's input for all tokens, and this rank's part of its sum.
    total += 2 * gathered + (2 * shard if split else 0.0)
    # The product's input for all tokens, gathered again. For nvfp4 it arrives in the order of ranks and is reordered by
    # token; Hopper transposes it.
    total += gathered * each * ((2 if job.precision == "nvfp4" else 1) if split else 0)
    if job.precision == "fp8" and _directions(job) == 2:
        total += gathered * each
    if not job.fused_weight_gradients:
        total += 2 * size.hidden * 2 * size.ffn_hidden / job.tensor
    if job.precision == "nvfp4":
        # The norm's own backward pass is the higher peak, since less has been freed before it.
        total += 2 * shard
    return total


def _loss_under_way(job: TrainingJob) -> float:
    """Return the bytes of the last stage in the output layer's backward pass, with Transformer Engine's loss.

    The cross entropy works in place, so by now the bf16 logits are their gradient (megatron/core/fusions). Besides them
    there are the output layer's gradients of weight and input (tensor_parallel/layers.py); the final norm's input,
    output and scale; and labels, mask and the cross entropy's own numbers, eight times eight bytes per token.
    """
    logits = job.tokens * job.vocabulary / job.tensor
    weight = job.vocabulary * job.size.hidden / job.tensor
    gradients = 2.0 * (weight + job.tokens * job.size.hidden)
    # With tensor parallelism, this rank's part of the sum of the input's gradients.
    part = 2.0 * _shard(job) if job.tensor > 1 else 0.0
    numbers = 4.0 * job.tokens / job.tensor + 64.0 * job.tokens + UNNAMED
    return 2.0 * logits + gradients + part + 4 * _shard(job) + numbers


# Memory that every job uses.


def _buffers(job: TrainingJob, stage: int) -> float:
    """Return the bytes of workspaces, tables, messages between stages, and memory that waits to be freed."""
    size, last = job.size, stage == job.pipeline - 1
    total = WORKSPACE + 1024.0
    # Each chunk's table of RoPE angles, fp32.
    total += job.chunks * job.tokens / job.micro_batch * size.head_dim * 4
    if job.pipeline > 1 and _alternates(job, stage):
        # Between stages, in one forward, one backward: a chunk's output until it is sent, the next input, the next
        # gradient, and the last input with its gradient until that is sent.
        total += 5 * 2 * _shard(job)
    # Small tensors of each layer in flight, each in a block of 512 bytes: scales, random states, softmax's offsets.
    total += SMALL * _layer_activations(job, stage)
    if last:
        total += 2 * WORKSPACE
        if job.tensor > 1:
            # The output layer's input, gathered in a buffer that Megatron-Core keeps.
            total += 2 * job.tokens * size.hidden
    if job.fused_weight_gradients:
        # The tensors that Transformer Engine returns to autograd in place of a gradient, one for each shape
        # (module/base.py, get_dummy_wgrad).
        total += 2 * job.layer_matrices / job.tensor
    if job.precision in ("mxfp8", "nvfp4") and job.tensor > 1:
        # Block-scaled inputs are gathered by coalesced collectives, whose buffers PyTorch frees once NCCL's watchdog
        # has seen them end. It looks every 0.1 s, assumed to be a microbatch's backward pass: two gathers a layer.
        total += 2 * job.layers(stage) * product_bytes(job) * job.tokens * size.hidden
    return total


def _between_blocks(job: TrainingJob) -> float:
    """Return the most bytes that expandable segments may hold unused.

    The allocator takes the smallest free block that is large enough, and never moves one. AdamW's two moments for each
    chunk appear when the first step ends, in the space that its activations have left. Next to each moment, less than
    the largest tensor that a layer keeps stays free, since otherwise that tensor would fit there. The largest block of
    a layer's backward pass, and one moment and one fp32 copy of a gradient, may find no space between others. The end
    of a segment is rounded up.
    """
    size, shard = job.size, _shard(job)
    gate_and_up = 4 * size.ffn_hidden / size.hidden * shard
    largest = 2 * shard if "mlp" in job.recompute else gate_and_up
    product = gate_and_up if job.fused_weight_gradients else 4 * size.hidden * size.ffn_hidden / job.tensor
    moment = MASTER_BYTES * max(_chunk_parameters(job, 0, chunk) for chunk in range(job.chunks)) / job.sharding
    return 2 * job.chunks * largest + max(product, 2.0 * job.tokens * size.hidden) + 2 * moment + GRANULARITY
