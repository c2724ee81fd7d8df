"""What one run is: every variable that a user can set, and all arithmetic on them.

`RunConfig` is the table from shell names to fields, as frozen values; impossible combinations are refused here, all
faults at once, each with its equation and the valid choices. The environment is read in `RunConfig.from_environment`
and nowhere else.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from benchmark.benchmarks import Benchmark, UnknownRules, benchmark_named, find
from benchmark.checkout import RESULTS
from benchmark.config import kernels
from benchmark.refusal import Refused
from benchmark.rules import Rules, RuleViolation, ScaledLearningRate, Schedule
from benchmark.seeds import SEED_LIMIT, draw_seeds
from benchmark.sizes import ModelSize

_NAME_PATTERN = re.compile(
    r"_(?P<DGXNNODES>\d+)x(?P<DGXNGPU>\d+)x(?P<MINIBS>\d+)"
    r"xtp(?P<TENSOR_MODEL_PARALLEL>\d+)pp(?P<PIPELINE_MODEL_PARALLEL>\d+)cp(?P<CONTEXT_PARALLEL>\d+)(?:_|$)"
)

# What a config file may export besides the fields below: knobs of the libraries underneath, which they read themselves.
LIBRARY_PREFIXES = ("NCCL_", "CUDA_", "NVTE_", "TORCH_", "PYTORCH_", "GLOO_", "UCX_", "OMP_", "MKL_")

Count = Annotated[int, Field(gt=0, le=1_000_000)]
"""A number of things of which there are some; the limit keeps a typing mistake from being counted up to."""
Index = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=SEED_LIMIT)]


_RECOMPUTABLE = r"^(core_attn|layernorm|mlp)(,(core_attn|layernorm|mlp))*$"
"""What can be recomputed by itself in a layer of ours."""


class ConfigError(Refused):
    """A configuration that cannot run; `faults` lists everything that is wrong with it."""


class RunConfig(BaseModel):
    """One run, frozen. Field names are ours, aliases are the shell names that submitters know."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    benchmark: str = Field(alias="BENCHMARK")
    """One of benchmark.benchmarks, by its name."""
    ruleset: str | None = Field(None, alias="RULESET")
    """Version of the rules, which a benchmark that can be submitted has to be told; otherwise the latest if unset."""
    system: str = Field(alias="DGXSYSTEM")
    """Name of the configuration, which its file's name gives: config_<DGXSYSTEM>.sh."""

    nodes: Count = Field(alias="DGXNNODES")
    gpus_per_node: Count = Field(alias="DGXNGPU")
    """Ranks a node: one for each GPU, or for each process on CPUs."""

    tensor_model_parallel: Count = Field(1, alias="TENSOR_MODEL_PARALLEL")
    pipeline_model_parallel: Count = Field(1, alias="PIPELINE_MODEL_PARALLEL")
    interleaved_pipeline: Count = Field(1, alias="INTERLEAVED_PIPELINE")
    """Model chunks a pipeline stage (Megatron's virtual pipeline size); 1 is no interleaving."""
    context_parallel: Count = Field(1, alias="CONTEXT_PARALLEL")

    minibatch: Count = Field(alias="MINIBS")
    """Sequences a step for each data-parallel replica; global batch size = MINIBS x data-parallel size."""
    micro_batch_size: Count = Field(1, alias="MICRO_BATCH_SIZE")
    """Sequences a forward pass."""

    precision: Literal["fp32", "bf16", "fp8", "nvfp4"] = Field("bf16", alias="PRECISION")
    """Of the layers' matrix products; weights and activations are bf16 from there on down, the optimizer's own fp32."""
    fp8_recipe: Literal["tensorwise", "blockwise", "mxfp8"] | None = Field(None, alias="FP8_RECIPE")
    """How fp8 values are scaled, always by what is in the tensor now; tensorwise if unset."""
    layer_spec: Literal["auto", "te", "torch"] = Field("auto", alias="LAYER_SPEC")
    """Kernels of the layers: Transformer Engine's or PyTorch's own; `auto` is the former where it is installed."""
    kernel_fusion: bool | None = Field(None, alias="KERNEL_FUSION")
    """Fuse what surrounds matrix products (SwiGLU, residual; with `te` RoPE, weight gradients); on GPUs if unset."""
    ce_fusion_impl: Literal["native", "te"] | None = Field(None, alias="CE_FUSION_IMPL")
    """A fused cross entropy: Megatron-Core's or Transformer Engine's; none if unset."""
    cuda_graph: Literal["none", "local"] = Field("none", alias="CUDA_GRAPH_IMPLEMENTATION")
    """`local` replays each layer as a CUDA graph."""
    recompute_granularity: Literal["selective", "full"] | None = Field(None, alias="RECOMPUTE_GRANULARITY")
    """Activations computed again in the backward pass: of some modules, of whole layers; none if unset."""
    recompute_modules: str | None = Field(None, alias="RECOMPUTE_MODULES", pattern=_RECOMPUTABLE)
    """With `selective`: some of core_attn, layernorm and mlp, with commas; core_attn if unset."""
    recompute_method: Literal["uniform", "block"] | None = Field(None, alias="RECOMPUTE_METHOD")
    """With `full`: all layers in units of RECOMPUTE_NUM_LAYERS, or only that many of each model chunk."""
    recompute_num_layers: Count | None = Field(None, alias="RECOMPUTE_NUM_LAYERS")

    tp_comm_overlap: bool = Field(False, alias="TP_COMM_OVERLAP")
    """Overlap the tensor-parallel collectives with the matrix products beside them."""
    cp_comm_type: Literal["p2p", "all_gather", "a2a"] | None = Field(None, alias="CP_COMM_TYPE")
    """How context-parallel ranks share keys and values; p2p with `te` if unset, all_gather with `torch`."""
    grad_reduce_in_fp32: bool = Field(True, alias="GRAD_REDUCE_IN_FP32")
    """Type that gradients are added up and reduced in; that of the weights if off."""
    overlap_grad_reduce: bool | None = Field(None, alias="OVERLAP_GRAD_REDUCE")
    """Reduce gradients during the backward pass; on GPUs if unset."""
    overlap_param_gather: bool | None = Field(None, alias="OVERLAP_PARAM_GATHER")
    """Gather updated weights during the next forward pass; as OVERLAP_GRAD_REDUCE if unset."""
    bucket_size: PositiveInt | None = Field(None, alias="BUCKET_SIZE")
    """Weights whose gradients are reduced together; Megatron-Core's own choice if unset."""
    precision_aware_optimizer: bool = Field(False, alias="USE_PRECISION_AWARE_OPTIMIZER")
    """Keep AdamW's moments in bf16."""

    learning_rate: float | None = Field(None, alias="LEARNING_RATE", gt=0, allow_inf_nan=False)
    """Peak learning rate, only where the rules leave it to the submitter."""
    warmup_steps: Index | None = Field(None, alias="WARMUP_STEPS")
    """Warm-up, only where the rules leave it to the submitter."""
    max_steps: PositiveInt | None = Field(None, alias="MAX_STEPS")
    """Give up after the last evaluation at or before this step; a few times what the reference needs if unset."""

    walltime: Count | None = Field(None, alias="WALLTIME")
    """Minutes that a job may take, all its runs together; `sbatch -t $WALLTIME`."""
    experiments: Count = Field(1, alias="NEXP")
    """Runs, one after the other, each with its own seed."""
    seed: Seed | None = Field(None, alias="SEED")
    """Seed of the one run; the system's entropy if unset."""
    seed_base: Seed | None = Field(None, alias="SEED_BASE")
    """Seed of the first of several runs; run i uses SEED_BASE + i."""

    data_dir: Path | None = Field(None, alias="DATADIR")
    """Folder of the tokenised dataset, of which the harness brings the tiny benchmark's."""
    tokenizer: Path | None = Field(None, alias="TOKENIZER")
    """File of the benchmark's tokenizer; if unset the installed one, where setup.sh installs it."""
    load_checkpoint: Path | None = Field(None, alias="LOAD_CHECKPOINT")
    """Folder of the weights that training starts from, NeMo's or Hugging Face's; drawn at random if unset."""
    initial_loss_gate: bool = Field(True, alias="INITIAL_LOSS_GATE")
    """End a run that starts from LOAD_CHECKPOINT with a first training loss outside the range of the rules."""
    index_dir: Path | None = Field(None, alias="NPY_INDEX_DIR")
    """Folder for the shuffled index, seen by all ranks; a temporary one where a single node runs."""
    save_checkpoint: Path | None = Field(None, alias="SAVE_CHECKPOINT")
    """Folder of the training state, seen by all ranks; a run that is started again goes on from there. None is saved if
    unset."""
    save_interval: Count | None = Field(None, alias="SAVE_INTERVAL")
    """Steps between two saves; only on SIGUSR1 if unset."""
    log_dir: Path = Field(RESULTS / "logs", alias="LOGDIR")
    """Results go to LOGDIR/<DGXSYSTEM>/<time>/."""
    container_image: str = Field("", alias="CONT")
    """Image that the ranks run in: a name, or a file; none if unset."""
    container_runtime: Literal["none", "pyxis", "apptainer", "docker"] | None = Field(None, alias="CONTAINER_RUNTIME")
    """What runs it; pyxis where CONT is set and this is not."""
    clear_caches: bool = Field(True, alias="CLEAR_CACHES")
    """Before each run of a job, drop the whole page cache of every node, where the user may."""
    nccl_test_min_gbps: float | None = Field(None, alias="NCCL_TEST_MIN_GBPS", ge=0, allow_inf_nan=False)
    """Refuse a job whose all-reduce over all ranks has a smaller bus bandwidth, in GB/s; not measured if unset."""
    hang_monitor_timeout: float = Field(30, alias="HANG_MONITOR_TIMEOUT", ge=0, allow_inf_nan=False)
    """Minutes without a line in the log after which a run is asked where it hangs, and ended; 0 waits for ever."""
    telemetry_interval: int = Field(0, alias="TELEMETRY_INTERVAL", ge=0, le=3600)
    """Seconds between two samples of each node's GPUs, memory and processors, beside the log; 0 takes none."""
    allocations: Count = Field(1, alias="NPAR")
    """Allocations that a job may use, one after the other: it requeues itself and goes on from its checkpoint."""
    resume: Path | None = Field(None, alias="RESUME")
    """Folder of unfinished runs of this configuration, to go on with them instead of starting new ones."""

    config_filename: str = Field("", alias="CONFIG_FILENAME")
    """Set by the launcher: the config file, as logged."""
    result_file: Path | None = Field(None, alias="RESULT_FILE")
    """Set by the launcher: the log of this run."""

    rendezvous_file: Path | None = Field(None, alias="RENDEZVOUS_FILE")
    """Set by the launcher: where the ranks of one machine meet; at MASTER_ADDR, MASTER_PORT if unset."""

    submission_org: str = Field("reference", alias="MLPERF_SUBMISSION_ORG", min_length=1)
    submission_division: Literal["closed", "open"] = Field("closed", alias="MLPERF_SUBMISSION_DIVISION")
    submission_status: Literal["onprem", "cloud", "preview", "research"] = Field(
        "research", alias="MLPERF_SUBMISSION_STATUS"
    )
    submission_platform: str = Field("", alias="MLPERF_SUBMISSION_PLATFORM")
    """As logged; <nodes>x<DGXSYSTEM> if unset."""

    rank: Index | None = Field(None, alias="RANK")
    """Set by torchrun or srun's adapter: this process's rank; unset in the launcher."""
    env_world_size: PositiveInt | None = Field(None, alias="WORLD_SIZE")
    """Set beside RANK: the number of ranks that were started."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ, *, complete: bool = False) -> RunConfig:
        """The run that the environment's variables describe; other variables are left alone.

        Args:
            complete: every variable of `environment` was meant for us (a config file's exports), so an unknown one is a
                fault; otherwise only one that looks like a misspelling of ours is.

        Raises:
            ConfigError: with every fault found.
        """
        # An empty variable is an unset one, as in shell's ${X:-default}.
        ours = {name: value for name, value in environment.items() if name in NAMES and value != ""}
        faults = list(unknown_names(environment, complete=complete))
        try:
            config = cls.model_validate(ours)
        except ValidationError as error:
            raise ConfigError(faults + [_describe(fault) for fault in error.errors()]) from None
        config = config._with_defaults()
        faults += config._faults()
        if faults:
            raise ConfigError(faults)
        return config

    def to_environment(self) -> dict[str, str]:
        """The variables that `from_environment` reads back to this run."""
        values = self.model_dump(by_alias=True, exclude_none=True)
        return {name: str(value) for name, value in values.items()}

    def for_experiment(self, *, seed: int, result_file: Path) -> RunConfig:
        """One of the NEXP runs, by itself."""
        return self.model_copy(update={"experiments": 1, "seed": seed, "seed_base": None, "result_file": result_file})

    def _with_defaults(self) -> RunConfig:
        if self.submission_platform:
            return self
        return self.model_copy(update={"submission_platform": f"{self.nodes}x{self.system}"})

    # What follows from the fields.

    @cached_property
    def benchmark_row(self) -> Benchmark:
        """What the benchmark is."""
        return benchmark_named(self.benchmark)

    @cached_property
    def rules(self) -> Rules:
        return find(self.benchmark, self.ruleset)

    @property
    def size(self) -> ModelSize:
        return self.benchmark_row.size

    @property
    def vocabulary(self) -> int:
        """Rows of the model's embedding and output layer."""
        return self.benchmark_row.vocabulary

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

    @cached_property
    def schedule(self) -> Schedule:
        return self.rules.schedule(
            self.global_batch_size, learning_rate=self.learning_rate, warmup_steps=self.warmup_steps
        )

    @property
    def step_limit(self) -> int:
        """Steps that the run takes at most: MAX_STEPS, or where the benchmark gives up, within the schedule."""
        patience, end = self.benchmark_row.give_up_samples, self.schedule.max_steps
        return min(self.max_steps or (end if patience is None else patience // self.global_batch_size), end)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the NEXP runs; drawn anew at each call where none is given."""
        return draw_seeds(self.experiments, seed=self.seed, seed_base=self.seed_base)

    # What is impossible.

    def _faults(self) -> list[str]:
        try:
            _ = self.rules
        except UnknownRules as error:
            return [f"BENCHMARK={self.benchmark} RULESET={self.ruleset}: {error}"]
        faults = [
            *self._ruleset_faults(),
            *self._layout_faults(),
            *kernels.contradictions(self),
            *self._name_faults(),
            *self._seed_faults(),
            *self._launch_faults(),
        ]
        # The schedule divides by the batch size, which only a possible layout has.
        return faults or [*self._batch_faults(), *self._schedule_faults()]

    def _ruleset_faults(self) -> Iterator[str]:
        row = self.benchmark_row
        if row.submittable and self.ruleset is None:
            yield (
                f"RULESET is not set: a run of {row.name} is of one round, and a config file exports which; "
                f"valid: {', '.join(row.rulesets)}"
            )

    def _layout_faults(self) -> Iterator[str]:
        tp, pp, vp, cp = (
            self.tensor_model_parallel,
            self.pipeline_model_parallel,
            self.interleaved_pipeline,
            self.context_parallel,
        )
        size, length = self.size, self.rules.sequence_length
        if self.world_size % self.model_parallel:
            yield (
                f"DGXNNODES({self.nodes}) x DGXNGPU({self.gpus_per_node}) = {self.world_size} ranks is no multiple of "
                f"TENSOR_MODEL_PARALLEL({tp}) x PIPELINE_MODEL_PARALLEL({pp}) x CONTEXT_PARALLEL({cp}) = "
                f"{self.model_parallel}; the remainder is {self.world_size % self.model_parallel}"
            )
        if self.minibatch % self.micro_batch_size:
            yield (
                f"MINIBS({self.minibatch}) is no multiple of MICRO_BATCH_SIZE({self.micro_batch_size}); "
                f"valid: {_divisors(self.minibatch)}"
            )
        for what, number in (
            ("query groups", size.query_groups),
            ("attention heads", size.heads),
            ("vocabulary entries", self.vocabulary),
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
        if vp > 1 and self.gradient_accumulation_steps % pp:
            yield (
                f"MINIBS({self.minibatch}) / MICRO_BATCH_SIZE({self.micro_batch_size}) = "
                f"{self.gradient_accumulation_steps} microbatches is no multiple of PIPELINE_MODEL_PARALLEL({pp}), "
                "as an interleaved pipeline needs"
            )
        if cp > 1 and length % (2 * cp):
            yield f"CONTEXT_PARALLEL({cp}) x 2 does not divide the sequence of {length} tokens"
        elif (length // cp) % tp:
            yield f"TENSOR_MODEL_PARALLEL({tp}) does not divide the {length // cp} tokens of a context-parallel rank"

    def _batch_faults(self) -> Iterator[str]:
        rules, gbs = self.rules, self.global_batch_size
        equation = f"MINIBS({self.minibatch}) x data-parallel size({self.data_parallel}) = global batch size {gbs}"
        if rules.max_global_batch_size is not None and gbs > rules.max_global_batch_size:
            yield f"{equation} is above the {rules.max_global_batch_size} that {rules.benchmark} {rules.ruleset} allows"
        rate = rules.learning_rate
        if isinstance(rate, ScaledLearningRate) and not rate.verifiable(gbs):
            near = " and ".join(str(batch) for batch in rate.nearest_verifiable(gbs))
            yield (
                f"{equation}: no double satisfies the official check, learning rate x {rate.batch} == {gbs} x "
                f"{rate.base}; nearest global batch sizes that have one: {near}"
            )

    def _schedule_faults(self) -> Iterator[str]:
        try:
            schedule = self.schedule
        except RuleViolation as error:
            yield str(error)
            return
        if self.save_interval is not None and self.save_interval > self.step_limit:
            yield (
                f"SAVE_INTERVAL({self.save_interval}) is above the {self.step_limit} steps that the run can take: "
                "nothing would be saved"
            )
        if self.step_limit < schedule.first_eval_step:
            given = "the run" if self.max_steps is None else f"MAX_STEPS({self.max_steps})"
            first = schedule.first_eval_step
            yield (
                f"{given} ends after {self.step_limit} steps, before the first evaluation at "
                f"step ({schedule.skipped_evals} skipped + 1) x {schedule.eval_interval_steps} = {first}; "
                "a run without an evaluation has no result"
            )

    def _name_faults(self) -> Iterator[str]:
        if self.system in ("", ".", "..") or "/" in self.system:
            yield f"DGXSYSTEM={self.system!r} names the folder of the results below LOGDIR: expected a name, no path"
        match = _NAME_PATTERN.search(self.system)
        if match is None:
            return
        values = self.to_environment()
        for name, text in match.groupdict().items():
            if int(text) != int(values[name]):
                yield (
                    f"DGXSYSTEM={self.system} says {name}={text}, but {name} is {values[name]}; "
                    "a config's name states its content"
                )

    def _seed_faults(self) -> Iterator[str]:
        try:
            seeds = self.seeds
        except ValueError as error:
            yield str(error)
            return
        if max(seeds) >= SEED_LIMIT:
            yield f"SEED_BASE({self.seed_base}) + NEXP({self.experiments}) - 1 = {max(seeds)} is not below {SEED_LIMIT}"

    def _launch_faults(self) -> Iterator[str]:
        if self.container_runtime not in (None, "none") and not self.container_image:
            yield f"CONTAINER_RUNTIME={self.container_runtime} needs an image: CONT is not set"
        if self.container_runtime == "none" and self.container_image:
            yield f"CONTAINER_RUNTIME=none, but CONT={self.container_image}: unset one of them"
        if self.container_runtime == "docker" and self.nodes > 1:
            yield f"CONTAINER_RUNTIME=docker starts the ranks of one node; DGXNNODES is {self.nodes}"
        if self.container_runtime == "docker" and (self.allocations > 1 or self.nccl_test_min_gbps is not None):
            yield "CONTAINER_RUNTIME=docker passes on no signal, starts no single rank: unset NPAR, NCCL_TEST_MIN_GBPS"
        if self.save_interval is not None and self.save_checkpoint is None:
            yield f"SAVE_INTERVAL({self.save_interval}) needs SAVE_CHECKPOINT, the folder to save to"
        if self.env_world_size is not None and self.env_world_size != self.world_size:
            yield (
                f"WORLD_SIZE({self.env_world_size}) ranks were started, but DGXNNODES({self.nodes}) x "
                f"DGXNGPU({self.gpus_per_node}) = {self.world_size}"
            )


NAMES: dict[str, str] = {str(info.alias): name for name, info in RunConfig.model_fields.items()}
"""Shell name -> field name, in the order of the class."""


def _divisors(number: int) -> str:
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)


def _describe(fault: Mapping[str, object]) -> str:
    """One pydantic fault in the words of the variable."""
    location = fault["loc"]
    name = location[0] if isinstance(location, tuple) and location else "?"
    if fault["type"] == "missing":
        return f"{name} is not set; a config file exports it (source configs/config_<SYSTEM>.sh)"
    return f"{name}={fault['input']}: {fault['msg']}"


def unknown_names(environment: Mapping[str, str], *, complete: bool) -> Iterator[str]:
    for name in environment:
        if name in NAMES or name.startswith(LIBRARY_PREFIXES):
            continue
        near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.88)
        if near:
            yield f"{name} is not a variable of the harness; did you mean {near[0]}? (if {name} is another's, unset it)"
        elif complete:
            yield f"{name} is not a variable of the harness; known: {', '.join(NAMES)}"
