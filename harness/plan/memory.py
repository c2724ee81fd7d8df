"""What a training step keeps in the memory of one GPU, for each pipeline stage.

Counted, not fitted: each term is a tensor that somebody allocates, and says whose. The count is of Transformer Engine's
layers, as Transformer Engine 2.11 and Megatron-Core 0.16.1 make them; it was written by looking at what is live at the
peak of each shipped configuration on the null device, whose peaks are in tests/golden/null_peaks.json. Published logs
are checked by perf/plan_accuracy.py.

In comments: a shard is one hidden value a token, split among tensor-parallel ranks as sequence parallelism does.
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
"""A parameter's fp32 copy, on the one rank that owns it."""

WORKSPACE = 32 * MIB
"""cuBLAS's, from Hopper on: one for Transformer Engine's products (cpp_extensions/gemm.py:31); PyTorch makes one for
each thread that multiplies, and the output layer is multiplied in two, forward and backward."""

SMALL = 16 * 512
"""Small tensors that Transformer Engine keeps of a layer, sixteen at most, in the allocator's least block."""

UNNAMED = 1.25 * MIB
"""Of the loss: what 8B has on the null device beyond all that is counted, 0.1 to 1.1 MiB whatever its layout."""

GRANULARITY = 20 * MIB
"""What an expandable segment grows by (PyTorch's kLargeBuffer)."""

_PRODUCT_BYTES = {"bf16": 2.0, "fp8": 1.0, "mxfp8": 1.0 + 1 / 32, "nvfp4": 0.5 + 1 / 16}
"""A matrix product's input as kept for the backward pass, bytes a value, block scales included."""

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
"""What is kept all the time, what grows with microbatches in flight, what the backward pass of one layer works with or,
where that is more, the loss; workspaces, tables and what waits to be freed; what the allocator holds without use."""

UNALLOCATED = ("between blocks", "outside the allocator")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Memory of the ranks of one pipeline stage at its peak."""

    stage: int
    layers: int
    """Transformer layers."""
    parameters: int
    """On one rank."""
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
    """Return the stage that needs most: the first, the second, the last, or the first that sends while it holds its
    most.

    Those between hold as many layers as the second one, with fewer microbatches in flight.
    """
    last = job.pipeline - 1
    sending = next((stage for stage in range(1, last) if _alternates(job, stage)), last)
    candidates = sorted({0, min(1, last), sending, last})
    return max((_stage(job, stage) for stage in candidates), key=lambda stage: stage.total)


def fits(stage: Stage, job: TrainingJob) -> bool:
    """Return whether what PyTorch reserves and what lies outside its allocator are at most the GPU's memory."""
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
        # At the end of a step, when no activation is left, the reduced gradients are copied to fp32.
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
    """Parameters of one model chunk on one rank: its layers, and embedding or output layer and final norm."""
    first = stage == 0 and chunk == 0
    last = stage == job.pipeline - 1 and chunk == job.chunks - 1
    vocabulary = (first + last) * job.vocabulary * job.size.hidden // job.tensor
    layers = job.chunk_layers(stage, chunk)
    return layers * (job.layer_matrices // job.tensor + job.layer_norms) + vocabulary + last * job.size.hidden


# Weights.


def weight_bytes(job: TrainingJob) -> float:
    """Return bytes a weight of a layer's matrix, with the copies that matrix products need.

    Transformer Engine keeps them from one microbatch to the next (module/base.py, get_weight_workspace). Without
    quantised weights the bf16 ones are kept beside; nvfp4 is taken to keep them in any case: no published log says.
    """
    if job.precision == "bf16":
        return 2.0
    beside = 0.0 if job.quantised_weights and job.precision != "nvfp4" else 2.0
    return beside + _directions(job) * _PRODUCT_BYTES[job.precision]


def product_bytes(job: TrainingJob) -> float:
    """Return bytes of a value in the precision of the matrix products."""
    return _PRODUCT_BYTES[job.precision]


def _directions(job: TrainingJob) -> int:
    """Quantised copies of what is multiplied in two directions.

    Hopper multiplies fp8 only row by column and needs a transposed copy; blocks of mxfp8 and nvfp4 run along the
    product's inner dimension, so there are two copies as well.
    """
    if job.precision == "bf16":
        return 0
    return 1 if job.precision == "fp8" and job.gpu.generation == "Blackwell" else 2


# Activations.


def layer_bytes(job: TrainingJob) -> float:
    """Return bytes that one layer keeps of one microbatch for its backward pass, on one rank, where it is not
    recomputed.
    """
    if "full" in job.recompute and job.recomputed_layers == 0:
        return _checkpoint_bytes(job)
    return _kept(job)


def _checkpoint_bytes(job: TrainingJob) -> float:
    """Of a layer that is recomputed whole: its input, in bf16."""
    return 2.0 * _shard(job)


def _kept(job: TrainingJob) -> float:
    """Without recomputation of whole layers; 26.6 bytes a shard in fp8 for 405B, 31.8 in bf16."""
    size, each = job.size, product_bytes(job)
    ffn, groups = size.ffn_hidden / size.hidden, size.query_groups / size.heads
    # Each norm's input (the residual stream, bf16) and its output, and an fp32 number a token.
    norms = 2 * (2 + _normalised_bytes(job))
    # Query, key and value, and the output of attention, which is also the projection's input: Megatron-Core has the
    # projection keep that one rather than a quantised copy (core/transformer/attention.py, set_save_original_input).
    attention = 2 * (1 + 2 * groups) + 2 + (each if job.projection_copy and job.precision != "bf16" else 0.0)
    if "core_attn" in job.recompute:
        # The checkpoint's value is a view of the whole product of query, key and value, so that is kept, and the key.
        attention += 2 * (1 + 2 * groups) - 2 * groups
    # The gate's and up-projection's outputs in bf16, and their product. Recomputing the MLP spares its norm too: in
    # Transformer Engine's layers the norm is a part of the first product.
    mlp = -_normalised_bytes(job) if "mlp" in job.recompute else (4 + each) * ffn
    # fp32 numbers: the softmax's sum for each head, and each norm's scale.
    softmax = 0 if "core_attn" in job.recompute else size.heads
    numbers = 4.0 * job.tokens / job.tensor * (softmax + (1 if "mlp" in job.recompute else 2))
    return (norms + attention + mlp) * _shard(job) + numbers


def _shard(job: TrainingJob) -> float:
    return job.size.hidden * job.tokens / job.tensor


def _normalised_bytes(job: TrainingJob) -> float:
    """Return bytes a value of a norm's output, as kept.

    Transformer Engine drops the copy that the backward pass does not multiply with, but of nvfp4 only where nothing is
    gathered (module/layernorm_linear.py, update_usage).
    """
    return product_bytes(job) * (2 if job.precision == "nvfp4" and job.tensor > 1 else 1)


def _plain(job: TrainingJob) -> TrainingJob:
    """Return the same job in bf16 throughout, as some of its layers may be."""
    return replace(job, precision="bf16")


def _peak(job: TrainingJob, stage: int, in_bf16: Sequence[Sequence[bool]]) -> float:
    """What `stage` holds at its peak, in units of layer_bytes: layers in flight, and inputs that nobody reads again.

    Args:
        in_bf16: of each layer of each chunk, whether it stays in bf16.
    """
    each = layer_bytes(job)
    kept, checkpoint = 1.0, _checkpoint_bytes(job) / each
    plain = layer_bytes(_plain(job)) / each
    whole = job.recomputed_layers if "full" in job.recompute else 0

    def weight(layers: Sequence[bool]) -> float:
        return min(whole, len(layers)) * checkpoint + sum(plain if bf16 else kept for bf16 in layers[whole:])

    weights = tuple(map(weight, in_bf16))
    # A chunk holds its last input until the next (TransformerBlock.set_input_tensor), and with it its gradient.
    return _most_held(job.pipeline, stage, job.microbatches, weights, round(2 * checkpoint, 6))


def _layer_activations(job: TrainingJob, stage: int) -> int:
    """Layers times microbatches whose activations `stage` holds at the peak of interleaved 1F1B."""
    layers = tuple(float(job.chunk_layers(stage, chunk)) for chunk in range(job.chunks))
    return round(_most_held(job.pipeline, stage, job.microbatches, layers, 0.0))


@lru_cache(maxsize=4096)
def _most_held(pipeline: int, stage: int, microbatches: int, weights: tuple[float, ...], kept: float) -> float:
    """Return the most that `stage` holds in Megatron-Core's interleaved 1F1B, played forward and backward.

    Args:
        weights: what each model chunk holds of one microbatch.
        kept: what a chunk holds after the backward pass of its last microbatch, until its next forward pass.
    """
    chunks, passes = len(weights), microbatches * len(weights)
    ahead = _ahead(pipeline, stage, chunks, passes)

    # They go round: `pipeline` microbatches through each chunk in turn, and back in the opposite order.
    def chunk(index: int) -> int:
        return index // pipeline % chunks

    flying = [0] * chunks
    for index in range(ahead):
        flying[chunk(index)] += 1
    held = sum(map(mul, flying, weights))
    most = held if ahead == passes else 0.0
    idle: set[int] = set()
    # One forward, one backward. What comes after the first two rounds has been before.
    for done in range(min(2 * pipeline * chunks, passes - ahead)):
        coming, going = chunk(ahead + done), chunks - 1 - chunk(done)
        idle.discard(coming)
        flying[coming] += 1
        held += weights[coming]
        most = max(most, held + kept * len(idle))
        flying[going] -= 1
        held -= weights[going]
        # The first chunk of the first stage has no input from another.
        if flying[going] == 0 and (stage, going) != (0, 0):
            idle.add(going)
    return most


def _ahead(pipeline: int, stage: int, chunks: int, passes: int) -> int:
    """Forward passes before the first backward one, as Megatron-Core's schedule counts its warm-up."""
    whole = 2 * (pipeline - stage - 1) + (chunks - 1) * pipeline
    return min(pipeline - stage - 1 if chunks == 1 else whole, passes)


def _alternates(job: TrainingJob, stage: int) -> bool:
    """Return whether a stage comes to one forward, one backward: not where all its forward passes are ahead of that."""
    passes = job.microbatches * job.chunks
    return _ahead(job.pipeline, stage, job.chunks, passes) < passes


# What one layer's backward pass, or the loss, works with.


def _layer_under_way(job: TrainingJob, stage: int) -> float:
    """Return the layer that the backward pass is in, at the larger of two moments of its MLP; beyond what layers keep."""
    outputs = 2 * job.size.ffn_hidden / job.tensor * job.tokens
    # What the layer keeps of its MLP: the first product's output, which is gone by the weight gradient, and the second
    # one's input, which is gone in both moments.
    first, second = 2 * outputs, outputs / 2 * product_bytes(job)
    if "mlp" in job.recompute:
        # None of it is kept: it is there again, with the norm, and the MLP's output.
        again = (_normalised_bytes(job) + 2) * _shard(job)
        return again + max(_weight_gradient(job), _activation(job) + first)
    found = max(_weight_gradient(job) - first, _activation(job)) - second
    # The first layers of a chunk are those computed again, its last one is first in the backward pass.
    shortest = min(job.chunk_layers(stage, chunk) for chunk in range(job.chunks))
    if "full" in job.recompute and not 0 < job.recomputed_layers < shortest:
        found += _kept(replace(job, recompute=frozenset())) - _checkpoint_bytes(job) + 2 * _shard(job)
    return found


def _activation(job: TrainingJob) -> float:
    """SwiGLU's backward pass: the gradient of its output, of gate and up-projection, and both together.

    Counted as PyTorch runs it line by line (megatron/core/fusions/fused_bias_swiglu.py); torch.compile needs less.
    """
    outputs = 2 * job.size.ffn_hidden / job.tensor * job.tokens
    return outputs + 2 * outputs + 2 * outputs + 2 * _shard(job)


def _weight_gradient(job: TrainingJob) -> float:
    """Return the gradient of the MLP's first weight, the largest product.

    In the order of Transformer Engine's backward pass (module/layernorm_linear.py).
    """
    size, each, shard = job.size, product_bytes(job), _shard(job)
    gathered, split = float(job.tokens * size.hidden), job.tensor > 1
    outputs = 2 * size.ffn_hidden / job.tensor * job.tokens
    # SwiGLU's gradient in bf16, and quantised for both products; the gradient of the residual stream.
    found = outputs * (2 + _directions(job) * each) + 2 * shard
    # The gradient of the product's input, of all tokens, and this rank's part of its sum.
    found += 2 * gathered + (2 * shard if split else 0.0)
    # The product's input of all tokens, gathered again. nvfp4's arrive in the order of ranks and are put in that of
    # tokens; Hopper transposes.
    found += gathered * each * ((2 if job.precision == "nvfp4" else 1) if split else 0)
    if job.precision == "fp8" and _directions(job) == 2:
        found += gathered * each
    if not job.fused_weight_gradients:
        found += 2 * size.hidden * 2 * size.ffn_hidden / job.tensor
    if job.precision == "nvfp4":
        # The norm's own backward pass is the higher peak, since less is freed before it.
        found += 2 * shard
    return found


def _loss_under_way(job: TrainingJob) -> float:
    """Return the last stage in the output layer's backward pass, with Transformer Engine's cross entropy.

    That works in place, so the bf16 logits are their gradient by now (megatron/core/fusions). Beside them the output
    layer's gradients of its weight and of its input (tensor_parallel/layers.py); the final norm's input and output, and
    its scale; labels, mask and the cross entropy's own numbers, eight times eight bytes a token.
    """
    logits = job.tokens * job.vocabulary / job.tensor
    weight = job.vocabulary * job.size.hidden / job.tensor
    gradients = 2.0 * (weight + job.tokens * job.size.hidden)
    # Split, this rank's part of the sum of the input's gradients.
    part = 2.0 * _shard(job) if job.tensor > 1 else 0.0
    numbers = 4.0 * job.tokens / job.tensor + 64.0 * job.tokens + UNNAMED
    return 2.0 * logits + gradients + part + 4 * _shard(job) + numbers


# What is there in any case.


def _buffers(job: TrainingJob, stage: int) -> float:
    """Workspaces, tables, messages between stages, and what waits for others to be freed."""
    size, last = job.size, stage == job.pipeline - 1
    found = WORKSPACE + 1024.0
    # Each chunk's table of RoPE's angles, fp32.
    found += job.chunks * job.tokens / job.micro_batch * size.head_dim * 4
    if job.pipeline > 1 and _alternates(job, stage):
        # Between stages, in one forward, one backward: a chunk's output until it is sent, the next input, the next
        # gradient, and the last input with its gradient until that is sent.
        found += 5 * 2 * _shard(job)
    # Small tensors of each layer in flight, each in a block of 512 bytes: scales, random states, softmax's offsets.
    found += SMALL * _layer_activations(job, stage)
    if last:
        found += 2 * WORKSPACE
        if job.tensor > 1:
            # The output layer's input, gathered in a buffer that Megatron-Core keeps.
            found += 2 * job.tokens * size.hidden
    if job.fused_weight_gradients:
        # What Transformer Engine returns to autograd in place of a gradient, one for each shape (module/base.py,
        # get_dummy_wgrad).
        found += 2 * job.layer_matrices / job.tensor
    if job.precision in ("mxfp8", "nvfp4") and job.tensor > 1:
        # Block-scaled inputs are gathered by coalesced collectives, whose buffers PyTorch frees when NCCL's watchdog
        # has seen them end. It looks every 0.1 s, which is taken for a microbatch's backward pass: two gathers a layer.
        found += 2 * job.layers(stage) * product_bytes(job) * job.tokens * size.hidden
    return found


def _between_blocks(job: TrainingJob) -> float:
    """What expandable segments hold without use, at most.

    The allocator takes the smallest free block that is large enough and never moves one. AdamW's two moments of each
    chunk appear when the first step ends, in the room that its activations have left; beside each, less stays free than
    the largest tensor that a layer keeps, which else would be there. The largest block of a layer's backward pass, and
    one moment and one fp32 copy of a gradient, may find no room between others; the segment's end is rounded up.
    """
    size, shard = job.size, _shard(job)
    gate_and_up = 4 * size.ffn_hidden / size.hidden * shard
    kept = 2 * shard if "mlp" in job.recompute else gate_and_up
    product = gate_and_up if job.fused_weight_gradients else 4 * size.hidden * size.ffn_hidden / job.tensor
    moment = MASTER_BYTES * max(_chunk_parameters(job, 0, chunk) for chunk in range(job.chunks)) / job.sharding
    return 2 * job.chunks * kept + max(product, 2.0 * job.tokens * size.hidden) + 2 * moment + GRANULARITY
