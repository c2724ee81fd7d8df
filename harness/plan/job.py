"""The input of the planner: a model, divided in a certain way, on certain GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from benchmark.config import ConfigError, RunConfig
from benchmark.config.groups import Kernels
from benchmark.hardware import GPUS, PRECISIONS, Gpu, gpu_of_system
from benchmark.sizes import ModelSize


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One training job: everything that determines what a step computes, moves and keeps."""

    size: ModelSize
    vocabulary: int
    """Rows of the embedding and of the output layer."""
    sequence_length: int
    """Tokens."""
    gpu: Gpu
    gpus: int
    tensor: int
    pipeline: int
    chunks: int
    """Model chunks in a pipeline stage (interleaving); 1 for none."""
    context: int
    micro_batch: int
    """Samples in a forward pass."""
    microbatches: int
    """Microbatches of a step on each data-parallel replica."""
    precision: str
    """Precision of the linear layers: one of hardware.PRECISIONS."""
    release: str
    """Round whose software is assumed: v5.0, v5.1 or v6.0."""
    stack: str = "mlperf"
    """`mlperf` for code tuned for a submission, `recipe` for a framework's own training recipe."""
    bf16_ends: tuple[int, int] = (0, 0)
    """Layers at the start and at the end of the model that stay in bf16."""
    quantised_weights: bool = True
    """Whether layers' weights are kept only in the precision of their products, as published runs keep fp8, or also in
    bf16."""
    gradient_bytes: int = 2
    """Bytes of a gradient as it is kept and reduced: 2 for bf16, 4 for fp32."""
    moment_bytes: int = 8
    """Bytes of AdamW's two moments of a parameter."""
    recompute: frozenset[str] = frozenset()
    """What the backward pass computes again instead of keeping: `core_attn`, `mlp`, or `full` layers."""
    recomputed_layers: int = 0
    """With `full`, how many layers of each model chunk; 0 for all."""
    projection_copy: bool = True
    """Whether a quantised copy of attention's output is kept besides it, as before Transformer Engine 2.6."""
    fused_weight_gradients: bool = True
    """Whether a weight's gradient is added to its buffer inside the matrix product, not computed separately."""

    @property
    def ranks(self) -> int:
        """GPUs that hold one copy of the model."""
        return self.tensor * self.pipeline * self.context

    @cached_property
    def data(self) -> int:
        """Data-parallel replicas."""
        return self.gpus // self.ranks

    @property
    def sharding(self) -> int:
        """Ranks that hold the same weights; the optimizer's state is split among them."""
        return self.data * self.context

    @property
    def global_batch_size(self) -> int:
        return self.data * self.micro_batch * self.microbatches

    @property
    def tokens(self) -> int:
        """Tokens of one microbatch on one context-parallel rank."""
        return self.micro_batch * self.sequence_length // self.context

    @property
    def ends_count_as_layers(self) -> bool:
        """Whether embedding and loss each take the place of a layer, which is how 126 layers fill 8 x 8 chunks."""
        return self.size.layers % (self.pipeline * self.chunks) != 0

    @property
    def layer_matrices(self) -> int:
        """Number of weights in one layer's matrices: query, key, value, projection, gate, up and down."""
        return self.size.layer_parameters - self.layer_norms

    @property
    def mlp_share(self) -> float:
        """Share of a layer's matrix weights that is in the MLP."""
        return 3 * self.size.hidden * self.size.ffn_hidden / self.layer_matrices

    @property
    def layer_norms(self) -> int:
        """Number of weights in one layer's two norms, which every tensor-parallel rank holds whole."""
        return 2 * self.size.hidden

    def chunk_layers(self, stage: int, chunk: int) -> int:
        """Return the number of transformer layers in one model chunk of a pipeline stage."""
        position, last = chunk * self.pipeline + stage, self.pipeline * self.chunks - 1
        if not self.ends_count_as_layers:
            return self.size.layers // (last + 1)
        return (self.size.layers + 2) // (last + 1) - (position == 0) - (position == last)

    def bf16_layers(self, stage: int, chunk: int) -> list[bool]:
        """Return, for each layer of a model chunk, whether it stays in bf16."""
        layers, position = self.chunk_layers(stage, chunk), chunk * self.pipeline + stage
        start, end = self.bf16_ends
        if self.precision == "bf16" or not (start or end):
            return [False] * layers
        before = (divmod(earlier, self.pipeline) for earlier in range(position))
        first = sum(self.chunk_layers(of_stage, of_chunk) for of_chunk, of_stage in before)
        last = self.size.layers - end
        return [index < start or index >= last for index in range(first, first + layers)]

    def layers(self, stage: int) -> int:
        """Return the number of transformer layers on a pipeline stage."""
        return sum(self.chunk_layers(stage, chunk) for chunk in range(self.chunks))

    def recomputed_share(self, stage: int) -> float:
        """Return the share of a pipeline stage's layers that is recomputed whole."""
        if "full" not in self.recompute:
            return 0.0
        if self.recomputed_layers == 0:
            return 1.0
        whole = sum(min(self.recomputed_layers, self.chunk_layers(stage, chunk)) for chunk in range(self.chunks))
        return whole / self.layers(stage)

    @property
    def bubble(self) -> float:
        """Idle time of a step in the pipeline, in microbatches of the busiest stage (interleaved 1F1B)."""
        return (self.pipeline - 1) / self.chunks


def from_config(
    config: RunConfig,
    *,
    gpu: str | None = None,
    release: str = "v5.0",
    stack: str = "mlperf",
    quantised_weights: bool = False,
) -> TrainingJob:
    """Return the job that a configuration describes.

    Args:
        gpu: the GPU's name; the one in the system's name if None.
        quantised_weights: as in TrainingJob; also set by FP8_PARAM_GATHER.

    Raises:
        ConfigError: the GPU is unknown, or has no matrix products in the configuration's precision.
    """
    layout = config.layout
    device = gpu_of_system(config.system) if gpu is None else GPUS.get(gpu)
    if device is None:
        what = f"DGXSYSTEM={config.system} names no GPU" if gpu is None else f"--gpu {gpu} is not a GPU"
        raise ConfigError([f"{what} that the planner knows; known: {', '.join(GPUS)} (choose one with --gpu)"])
    precision = precision_of(config.kernels)
    if precision not in PRECISIONS or device.peak(precision) is None:
        valid = ", ".join(name for name in PRECISIONS if device.peak(name) is not None)
        raise ConfigError([f"{device.name} has no matrix products in {precision}; it has: {valid} (--precision)"])
    return TrainingJob(
        size=config.size,
        vocabulary=config.vocabulary,
        sequence_length=config.rules.sequence_length,
        gpu=device,
        gpus=layout.world_size,
        tensor=layout.tensor_model_parallel,
        pipeline=layout.pipeline_model_parallel,
        chunks=layout.interleaved_pipeline,
        context=layout.context_parallel,
        micro_batch=layout.micro_batch_size,
        microbatches=layout.gradient_accumulation_steps,
        precision=precision,
        release=release,
        stack=stack,
        bf16_ends=(config.kernels.bf16_layers_at_start, config.kernels.bf16_layers_at_end),
        quantised_weights=quantised_weights or config.kernels.fp8_param_gather,
        gradient_bytes=4 if config.kernels.grad_reduce_in_fp32 else 2,
        moment_bytes=4 if config.kernels.precision_aware_optimizer else 8,
        recompute=_recompute(config.kernels),
        recomputed_layers=_recomputed_layers(config.kernels),
        projection_copy=False,
        fused_weight_gradients=config.kernels.kernel_fusion is not False,
    )


def precision_of(kernels: Kernels) -> str:
    """Return one of hardware.PRECISIONS, or another name for what the configuration uses."""
    return "mxfp8" if kernels.precision == "fp8" and kernels.fp8_recipe == "mxfp8" else kernels.precision


def precision_values(precision: str) -> dict[str, str]:
    """Return the variables of a configuration whose `precision_of` is this."""
    return {"PRECISION": "fp8", "FP8_RECIPE": "mxfp8"} if precision == "mxfp8" else {"PRECISION": precision}


def _recompute(kernels: Kernels) -> frozenset[str]:
    """Return what is recomputed, without `layernorm`: Transformer Engine's layers have no separate norm."""
    if kernels.recompute_granularity == "full":
        return frozenset({"full"})
    if kernels.recompute_granularity == "selective":
        return frozenset((kernels.recompute_modules or "core_attn").split(",")) - {"layernorm"}
    return frozenset()


def _recomputed_layers(kernels: Kernels) -> int:
    """Return how many layers of each chunk are recomputed: `block` that many, `uniform` all in units of that many."""
    return (kernels.recompute_num_layers or 0) if kernels.recompute_method == "block" else 0
