"""The variables of a run, in groups. Each field's alias is the shell name that submitters know.

Each value is checked by itself here. `impossible` and `kernels` check which values can go together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from benchmark.checkout import RESULTS
from benchmark.seeds import SEED_LIMIT

Count = Annotated[int, Field(gt=0, le=1_000_000)]
"""A number of things of which there are some; the limit keeps a typing mistake from being counted up to."""
Index = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=SEED_LIMIT)]

_RECOMPUTABLE = r"^(core_attn|layernorm|mlp)(,(core_attn|layernorm|mlp))*$"
"""The parts of a layer that can be recomputed by themselves."""


class Group(BaseModel):
    """Some variables that are used together."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


class Layout(Group):
    """How the model is split, and on how many ranks it is trained."""

    nodes: Count = Field(alias="DGXNNODES")
    """Number of nodes."""
    gpus_per_node: Count = Field(alias="DGXNGPU")
    """Number of ranks on each node: one for each GPU, or one for each process on CPUs."""
    tensor_model_parallel: Count = Field(1, alias="TENSOR_MODEL_PARALLEL")
    """Ranks that each matrix is split over."""
    pipeline_model_parallel: Count = Field(1, alias="PIPELINE_MODEL_PARALLEL")
    """Stages that the layers are spread over."""
    interleaved_pipeline: Count = Field(1, alias="INTERLEAVED_PIPELINE")
    """Number of model chunks on each pipeline stage (Megatron's virtual pipeline size). 1 means no interleaving."""
    context_parallel: Count = Field(1, alias="CONTEXT_PARALLEL")
    """Ranks that each sequence is split over."""
    tp_pp_dp_mapping: bool = Field(False, alias="TP_PP_DP_MAPPING")
    """Number the ranks of one model copy consecutively. If off, the ranks of one pipeline stage are consecutive."""
    minibatch: Count = Field(alias="MINIBS")
    """Samples that each data-parallel replica trains on in a step. Global batch size = MINIBS x data-parallel size."""
    micro_batch_size: Count = Field(1, alias="MICRO_BATCH_SIZE")
    """Samples in one forward pass."""

    @property
    def world_size(self) -> int:
        return self.nodes * self.gpus_per_node

    @property
    def model_parallel(self) -> int:
        """Ranks that hold one copy of the model."""
        return self.tensor_model_parallel * self.pipeline_model_parallel * self.context_parallel

    @property
    def data_parallel(self) -> int:
        return self.world_size // self.model_parallel

    def stage_of(self, rank: int) -> int:
        """Return the pipeline stage of a rank."""
        stages = self.pipeline_model_parallel
        if self.tp_pp_dp_mapping:
            return rank // (self.tensor_model_parallel * self.context_parallel) % stages
        return rank // (self.world_size // stages)

    @property
    def global_batch_size(self) -> int:
        return self.minibatch * self.data_parallel

    @property
    def gradient_accumulation_steps(self) -> int:
        """Microbatches a step on each replica."""
        return self.minibatch // self.micro_batch_size

    @property
    def sequence_parallel(self) -> bool:
        """Activations outside the tensor-parallel layers are split along the sequence wherever layers are split."""
        return self.tensor_model_parallel > 1


class Kernels(Group):
    """How a step is computed: precision, fused kernels, overlapped communication, recomputation."""

    precision: Literal["fp32", "bf16", "fp8", "nvfp4"] = Field("bf16", alias="PRECISION")
    """Type of the layers' matrix products. Below fp32, weights and activations are bf16; the optimizer keeps fp32."""
    fp8_recipe: Literal["tensorwise", "blockwise", "mxfp8"] | None = Field(None, alias="FP8_RECIPE")
    """How fp8 values are scaled. Every recipe uses the current values of the tensor. If unset, tensorwise."""
    bf16_layers_at_start: Index = Field(0, alias="NUM_LAYERS_AT_START_IN_BF16")
    """With fp8 or nvfp4: how many layers at the start of the model keep their matrix products in bf16."""
    bf16_layers_at_end: Index = Field(0, alias="NUM_LAYERS_AT_END_IN_BF16")
    """The same for layers at the end of the model."""
    fp8_param_gather: bool = Field(False, alias="FP8_PARAM_GATHER")
    """With FP8_RECIPE=tensorwise: keep and gather the layers' matrices only in fp8. The optimizer's fp32 copies start
    from the weights that are loaded."""
    layer_spec: Literal["auto", "te", "torch"] = Field("auto", alias="LAYER_SPEC")
    """Kernels of the layers: Transformer Engine's or PyTorch's. `auto` is `te` where it is installed."""
    kernel_fusion: bool | None = Field(None, alias="KERNEL_FUSION")
    """Fuse the operations around matrix products (SwiGLU, residual; with `te` also RoPE and weight gradients). If
    unset, on with GPUs."""
    ce_fusion_impl: Literal["native", "te"] | None = Field(None, alias="CE_FUSION_IMPL")
    """Which library fuses the cross entropy. If unset: `te` with `te` layers, otherwise it is computed in chunks."""
    cuda_graph: Literal["none", "local"] = Field("none", alias="CUDA_GRAPH_IMPLEMENTATION")
    """`local` replays each layer as a CUDA graph."""
    full_cuda_graph: bool = Field(False, alias="FULL_CUDA_GRAPH")
    """Replay all forward and backward passes of a step, with their collectives, as one CUDA graph."""
    recompute_granularity: Literal["selective", "full"] | None = Field(None, alias="RECOMPUTE_GRANULARITY")
    """Recompute activations in the backward pass: those of some modules or of whole layers. If unset, none."""
    recompute_modules: str | None = Field(None, alias="RECOMPUTE_MODULES", pattern=_RECOMPUTABLE)
    """With `selective`: some of core_attn, layernorm and mlp, separated by commas. If unset, core_attn."""
    recompute_method: Literal["uniform", "block"] | None = Field(None, alias="RECOMPUTE_METHOD")
    """With `full`: all layers in units of RECOMPUTE_NUM_LAYERS, or only that many layers of each model chunk."""
    recompute_num_layers: Count | None = Field(None, alias="RECOMPUTE_NUM_LAYERS")
    """See RECOMPUTE_METHOD."""
    tp_comm_overlap: bool = Field(False, alias="TP_COMM_OVERLAP")
    """Run the tensor-parallel collectives at the same time as the matrix products next to them."""
    tp_overlap_gather: bool = Field(True, alias="MC_TP_OVERLAP_AG")
    """Include the products that begin with a gather in TP_COMM_OVERLAP."""
    tp_overlap_scatter: bool = Field(True, alias="MC_TP_OVERLAP_RS")
    """Include the products that end with a reduction in TP_COMM_OVERLAP."""
    cp_comm_type: Literal["p2p", "all_gather", "a2a"] | None = Field(None, alias="CP_COMM_TYPE")
    """How context-parallel ranks share keys and values. If unset, p2p with `te` and all_gather with `torch`."""
    grad_reduce_in_fp32: bool = Field(True, alias="GRAD_REDUCE_IN_FP32")
    """Accumulate and reduce gradients in fp32. If off, in the type of the weights."""
    overlap_grad_reduce: bool | None = Field(None, alias="OVERLAP_GRAD_REDUCE")
    """Reduce gradients during the backward pass. If unset, on with GPUs."""
    overlap_param_gather: bool | None = Field(None, alias="OVERLAP_PARAM_GATHER")
    """Gather updated weights during the next forward pass. If unset, the same as OVERLAP_GRAD_REDUCE."""
    align_param_gather: bool | None = Field(None, alias="ALIGN_PARAM_GATHER")
    """Make all pipeline stages start gathering weights at the same time. If unset, on in an interleaved pipeline."""
    bucket_size: PositiveInt | None = Field(None, alias="BUCKET_SIZE")
    """Number of weights whose gradients are reduced together. If unset, Megatron-Core chooses."""
    precision_aware_optimizer: bool = Field(False, alias="USE_PRECISION_AWARE_OPTIMIZER")
    """Keep AdamW's moments in bf16."""

    @property
    def captures(self) -> bool:
        """Whether anything is a CUDA graph, for which random numbers are counted otherwise."""
        return self.cuda_graph != "none" or self.full_cuda_graph


class Hyperparameters(Group):
    """Values that a submitter may choose: some where the rules of the benchmark allow it, the others only in the open
    division. Unset variables keep the closed division's values."""

    learning_rate: float | None = Field(None, alias="LEARNING_RATE", gt=0, allow_inf_nan=False)
    """Peak learning rate. In the closed division, only where the rules leave it to the submitter."""
    warmup_steps: Index | None = Field(None, alias="WARMUP_STEPS")
    """Steps of warm-up. In the closed division, only where the rules leave it to the submitter."""
    end_learning_rate: float | None = Field(None, alias="END_LEARNING_RATE", ge=0, allow_inf_nan=False)
    """Learning rate after the decay. Open division."""
    decay_steps: Annotated[int, Field(gt=0, le=10_000_000)] | None = Field(None, alias="DECAY_STEPS")
    """Steps from the peak to the end. Open division. If unset, warm-up and decay together take as many steps as in the
    closed division."""
    adam_beta_1: float | None = Field(None, alias="ADAM_BETA_1", ge=0, lt=1)
    """AdamW's beta 1. Open division."""
    adam_beta_2: float | None = Field(None, alias="ADAM_BETA_2", ge=0, lt=1)
    """AdamW's beta 2. Open division."""
    adam_epsilon: float | None = Field(None, alias="ADAM_EPSILON", gt=0, allow_inf_nan=False)
    """AdamW's epsilon. Open division."""
    weight_decay: float | None = Field(None, alias="WEIGHT_DECAY", ge=0, allow_inf_nan=False)
    """AdamW's weight decay. Open division."""
    gradient_clip_norm: float | None = Field(None, alias="GRADIENT_CLIP_NORM", gt=0, allow_inf_nan=False)
    """Largest norm of all gradients together. Open division."""
    model_size: Literal["tiny", "8b", "70b", "405b"] | None = Field(None, alias="MODEL_SIZE")
    """A network other than the benchmark's: a row of benchmark/sizes.py. Open division."""
    max_steps: PositiveInt | None = Field(None, alias="MAX_STEPS")
    """Give up after the last evaluation at or before this step. If unset, a few times what the reference needs."""

    @property
    def of_the_open_division(self) -> dict[str, float | int | str]:
        """Return the chosen values that only the open division leaves free, by shell name."""
        chosen = self.model_dump(by_alias=True, exclude_none=True)
        return {name: value for name, value in chosen.items() if name not in _SOMETIMES_FREE}


_SOMETIMES_FREE = frozenset({"LEARNING_RATE", "WARMUP_STEPS", "MAX_STEPS"})
"""Hyperparameters that benchmarks leave free in the closed division, too."""


class Job(Group):
    """How many runs a job makes, where it keeps them, and how it starts and watches them."""

    walltime: Count | None = Field(None, alias="WALLTIME")
    """Minutes that a job may take with all its runs: `sbatch -t $WALLTIME`."""
    experiments: Count = Field(1, alias="NEXP")
    """Number of runs, one after the other, each with its own seed."""
    seed: Seed | None = Field(None, alias="SEED")
    """Seed of a single run. If unset, it comes from the system's entropy."""
    seed_base: Seed | None = Field(None, alias="SEED_BASE")
    """Seed of the first of several runs; run i uses SEED_BASE + i."""
    log_dir: Path = Field(RESULTS / "logs", alias="LOGDIR")
    """Results go to LOGDIR/<DGXSYSTEM>/<time>/, in a job to LOGDIR/<DGXSYSTEM>/<time>-<number>/. LOGDIR/latest links to
    the newest."""
    save_checkpoint: Path | None = Field(None, alias="SAVE_CHECKPOINT")
    """Folder of the training state, which all ranks must see. A restarted run continues from it. If unset, nothing is
    saved."""
    save_interval: Count | None = Field(None, alias="SAVE_INTERVAL")
    """Steps between two saves. If unset, a run saves only on SIGUSR1."""
    save_failure: Literal["continue", "stop"] = Field("continue", alias="SAVE_FAILURE")
    """If a save fails (disk full, its writer killed): `continue` trains on without that checkpoint, `stop` aborts."""
    resume: Path | None = Field(None, alias="RESUME")
    """Folder of unfinished runs of this configuration. A job continues them instead of starting new ones."""
    allocations: Count = Field(1, alias="NPAR")
    """Allocations that a job may use, one after the other. It requeues itself and resumes from its checkpoint."""
    container_image: str = Field("", alias="CONT")
    """Container image that the ranks run in: a name or a file. If unset, no container."""
    container_runtime: str | None = Field(None, alias="CONTAINER_RUNTIME")
    """Container back end, a name in harness/launch/containers.py: pyxis, apptainer, docker or none. If unset, pyxis
    with CONT."""
    clear_caches: bool = Field(True, alias="CLEAR_CACHES")
    """Before each run of a job, drop the whole page cache of every node, where the user is allowed to."""
    nccl_test_min_gbps: float | None = Field(None, alias="NCCL_TEST_MIN_GBPS", ge=0, allow_inf_nan=False)
    """Refuse a job whose all-reduce over all ranks has a lower bus bandwidth, in GB/s. If unset, not measured."""
    hang_monitor_timeout: float = Field(30, alias="HANG_MONITOR_TIMEOUT", ge=0, allow_inf_nan=False)
    """Minutes without a new line in the log after which a run counts as hanging. Its stacks are printed, and it is
    ended. 0 waits forever."""
    telemetry_interval: int = Field(0, alias="TELEMETRY_INTERVAL", ge=0, le=3600)
    """Seconds between two samples of each node's GPUs, memory and processors, next to the log. 0 takes none."""
    profile: Literal["torch"] | None = Field(None, alias="PROFILE")
    """Record some steps with PyTorch's profiler, for Perfetto, as profile_<run>_rank<rank>.json.gz next to the log. It
    costs time, so it is refused for runs that can be submitted (MLPERF_SUBMISSION_ORG is set)."""
    profile_from: Count = Field(10, alias="PROFILE_FROM")
    """The first step that PROFILE records, counted from 1."""
    profile_steps: int = Field(3, alias="PROFILE_STEPS", ge=1, le=50)
    """Number of steps that PROFILE records."""
    profile_ranks: str = Field("0", alias="PROFILE_RANKS", pattern=r"^\d{1,6}(,\d{1,6})*$")
    """Ranks that PROFILE records, separated by commas."""

    @property
    def profiled_ranks(self) -> tuple[int, ...]:
        return tuple(map(int, self.profile_ranks.split(","))) if self.profile is not None else ()


class Data(Group):
    """The data and the initial weights of a run."""

    data_dir: Path | None = Field(None, alias="DATADIR")
    """Folder of the tokenised dataset. The tiny benchmark's is part of the harness."""
    tokenizer: Path | None = Field(None, alias="TOKENIZER")
    """File of the benchmark's tokenizer. If unset, the one that setup.sh installs (Mixtral's)."""
    load_checkpoint: Path | None = Field(None, alias="LOAD_CHECKPOINT")
    """Folder of the initial weights, in NeMo's or Hugging Face's format. If unset, they are drawn at random."""
    initial_loss_gate: bool = Field(True, alias="INITIAL_LOSS_GATE")
    """Abort a run whose first training loss is outside the range of its benchmark."""
    index_dir: Path | None = Field(None, alias="NPY_INDEX_DIR")
    """Folder for the shuffled index, which all ranks must see. If unset, a temporary one."""


class Process(Group):
    """Values that a launcher passes to the processes of one run."""

    config_filename: str = Field("", alias="CONFIG_FILENAME")
    """Set by the launcher: the config file, as logged."""
    result_file: Path | None = Field(None, alias="RESULT_FILE")
    """Set by the launcher: the log of this run."""
    rendezvous_file: Path | None = Field(None, alias="RENDEZVOUS_FILE")
    """Set by the launcher: the file in which the ranks of one machine meet. If unset, MASTER_ADDR and MASTER_PORT."""
    master_addr: str | None = Field(None, alias="MASTER_ADDR")
    """Name or address of rank 0's node, where ranks on several nodes meet. If unset, the first node of a Slurm job."""
    master_port: int | None = Field(None, alias="MASTER_PORT", gt=0, lt=65_536)
    """Port on that node. If unset, a free one for each run of a Slurm job."""
    rank: Index | None = Field(None, alias="RANK")
    """Set by torchrun or by the Slurm job: the rank of this process. Unset in the launcher."""
    local_rank: Index | None = Field(None, alias="LOCAL_RANK")
    """Set together with RANK: the number of this process on its node, which selects its GPU."""
    world_size: PositiveInt | None = Field(None, alias="WORLD_SIZE")
    """Set together with RANK: the number of ranks."""


class Submission(Group):
    """Who submits the result, and how. Runs whose logs name nobody cannot be packaged."""

    org: str | None = Field(None, alias="MLPERF_SUBMISSION_ORG", min_length=1)
    """The submitter, as the results tables spell it. Join several with a +."""
    division: Literal["closed", "open"] = Field("closed", alias="MLPERF_SUBMISSION_DIVISION")
    """`closed` keeps the reference's model and hyperparameters; `open` may change them."""
    status: Literal["onprem", "cloud", "preview", "research"] | None = Field(None, alias="MLPERF_SUBMISSION_STATUS")
    """Availability: customers can buy it (onprem), rent it (cloud), will be able to (preview), neither (research)."""
    platform: str | None = Field(None, alias="MLPERF_SUBMISSION_PLATFORM", min_length=1)
    """Number of nodes, x, and the node, as logged: 64xNVIDIA HGX H100."""

    @property
    def unset(self) -> tuple[str, ...]:
        """The shell names of what nobody has said."""
        fields = type(self).model_fields
        return tuple(str(info.alias) for name, info in fields.items() if getattr(self, name) is None)
