"""The kernels that a run uses, and what its switches for them need.

There are two kinds of check: `contradictions` judges a configuration by itself, anywhere; `lacking` compares it with
the machine that will train it. Both name the switch, so that nothing fails deep inside a library. `SWITCHES` records
where each switch has run. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from benchmark.config.groups import Kernels, Layout
from benchmark.sizes import ModelSize

LayerSpec = Literal["te", "torch"]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What one rank's machine offers its kernels."""

    gpu: bool = False
    compute_capability: tuple[int, int] | None = None
    """Compute capability of the GPU, such as (9, 0) for Hopper; None if nobody has asked."""
    transformer_engine: str | None = None
    """Version of Transformer Engine; None if it is not installed."""
    weight_gradient_fusion: bool = False
    """Whether Apex's kernel is installed, which adds a weight gradient to its buffer inside the matrix product. Only
    Megatron-Core's output layer needs it; Transformer Engine's layers do not."""


@dataclass(frozen=True, kw_only=True)
class SwitchNeed:
    """What one switch needs of the machine."""

    switch: str
    compute_capability: tuple[int, int] = (0, 0)


TRANSFORMER_ENGINE = ("2.9", "2.12")
"""The first supported release of Transformer Engine, and the first unsupported one after it.

Source: what megatron-core 0.16.1 requires in its extra `dev`, >= 2.9.0a0 and < 2.12.0. A test compares them. For each
switch, the release that Megatron-Core's own checks require is below this range.
"""

FP8_RECIPES = {
    "tensorwise": SwitchNeed(switch="FP8_RECIPE=tensorwise", compute_capability=(8, 9)),
    "blockwise": SwitchNeed(switch="FP8_RECIPE=blockwise", compute_capability=(9, 0)),
    "mxfp8": SwitchNeed(switch="FP8_RECIPE=mxfp8", compute_capability=(10, 0)),
}


def probe() -> Machine:
    """Describe this machine as far as possible without torch: a loaded NVIDIA driver counts as a GPU."""
    try:
        transformer_engine = version("transformer-engine")
    except PackageNotFoundError:
        transformer_engine = None
    return Machine(
        gpu=Path("/proc/driver/nvidia/version").exists(),
        transformer_engine=transformer_engine,
        weight_gradient_fusion=find_spec("fused_weight_gradient_mlp_cuda") is not None,
    )


def layer_spec(kernels: Kernels, machine: Machine) -> LayerSpec:
    """Return the requested layers; for `auto`, Transformer Engine's if it and a GPU are there, else PyTorch's."""
    if kernels.layer_spec != "auto":
        return kernels.layer_spec
    return "te" if machine.gpu and machine.transformer_engine else "torch"


def transformer_engine_fault(found: str) -> str:
    """Return why this release of Transformer Engine is not supported; empty if it is."""
    least, beyond = TRANSFORMER_ENGINE
    if _release(least) <= _release(found) < _release(beyond):
        return ""
    return f"Transformer Engine {found} does not work with Megatron-Core; expected {least} or later, before {beyond}"


def loss_fusion(kernels: Kernels, machine: Machine) -> Literal["native", "te"] | None:
    """Return the library that fuses the cross entropy: CE_FUSION_IMPL, or `te` with its own layers, or None."""
    if kernels.ce_fusion_impl is not None:
        return kernels.ce_fusion_impl
    return "te" if layer_spec(kernels, machine) == "te" else None


def needs(kernels: Kernels) -> Iterator[SwitchNeed]:
    """Yield the switches of a run that need Transformer Engine on a GPU."""
    if kernels.layer_spec == "te":
        yield SwitchNeed(switch="LAYER_SPEC=te")
    if kernels.precision == "fp8":
        recipe = FP8_RECIPES[kernels.fp8_recipe or "tensorwise"]
        yield SwitchNeed(
            switch=f"PRECISION=fp8 with {recipe.switch}",
            compute_capability=recipe.compute_capability,
        )
    if kernels.precision == "nvfp4":
        yield SwitchNeed(switch="PRECISION=nvfp4", compute_capability=(10, 0))
    if kernels.tp_comm_overlap:
        yield SwitchNeed(switch="TP_COMM_OVERLAP=True")
    if kernels.cp_comm_type in ("p2p", "a2a"):
        yield SwitchNeed(switch=f"CP_COMM_TYPE={kernels.cp_comm_type}")
    if kernels.ce_fusion_impl == "te":
        yield SwitchNeed(switch="CE_FUSION_IMPL=te")
    if kernels.cuda_graph != "none":
        yield SwitchNeed(switch=f"CUDA_GRAPH_IMPLEMENTATION={kernels.cuda_graph}")
    if kernels.full_cuda_graph:
        yield SwitchNeed(switch="FULL_CUDA_GRAPH=True")
    if kernels.precision_aware_optimizer:
        yield SwitchNeed(switch="USE_PRECISION_AWARE_OPTIMIZER=True")


def lacking(kernels: Kernels, machine: Machine) -> list[str]:
    """Return what the run needs and the machine lacks; empty if the run can be trained there."""
    spec = layer_spec(kernels, machine)
    needed = [*needs(kernels), *_recomputation_needs(kernels, spec)]
    faults = [*(fault for need in needed for fault in _lacking(need, machine)), *_idle_recomputation(kernels, spec)]
    transformer_engine = machine.transformer_engine
    if transformer_engine is not None and spec == "te" and (fault := transformer_engine_fault(transformer_engine)):
        faults.append(f"{fault}; install one of these releases, or set LAYER_SPEC=torch")
    return faults


def _recomputes_norms(kernels: Kernels) -> bool:
    return "layernorm" in (kernels.recompute_modules or "").split(",")


def _recomputation_needs(kernels: Kernels, spec: LayerSpec) -> Iterator[SwitchNeed]:
    """Yield the need of a recomputed norm: Megatron-Core 0.16.1 asks Transformer Engine whether it runs in fp8."""
    if spec == "torch" and _recomputes_norms(kernels):
        yield SwitchNeed(switch="RECOMPUTE_MODULES=layernorm")


def _idle_recomputation(kernels: Kernels, spec: LayerSpec) -> Iterator[str]:
    """Yield a fault for each module whose recomputation would do nothing."""
    if spec == "te" and _recomputes_norms(kernels):
        yield (
            f"RECOMPUTE_MODULES={kernels.recompute_modules} would recompute no layernorm: in Transformer Engine's "
            "layers the norm is part of the next matrix product; leave layernorm out; mlp saves memory"
        )


def _lacking(need: SwitchNeed, machine: Machine) -> Iterator[str]:
    if not machine.gpu:
        yield f"{need.switch} needs a GPU that torch can use; there is none"
        return
    if machine.transformer_engine is None:
        least, beyond = TRANSFORMER_ENGINE
        yield f"{need.switch} needs Transformer Engine, {least} or later and before {beyond}, which is not installed"
    have = machine.compute_capability
    if have is not None and have < need.compute_capability:
        yield (
            f"{need.switch} needs a GPU of compute capability {_dotted(need.compute_capability)} or later; "
            f"this one has {_dotted(have)}"
        )


def _release(text: str) -> tuple[int, ...]:
    """Return the numbers of a version: 2.7.0.dev0+5fdd7bb -> (2, 7, 0)."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


@dataclass(frozen=True, kw_only=True)
class Switch:
    """A value of a switch, and where it has run."""

    name: str
    is_on: Callable[[Kernels, Layout], bool]
    """Whether a run on GPUs uses it, by the user's choice or by default."""
    cpu: bool = False
    """Whether it has run on a CPU, in tests, with PyTorch's layers."""
    null_device: bool = False
    """Whether a step of a 405B or 8B configuration ran with it on the null device, counted, not
    computed: docs/gpu.md.
    """
    gpu: str = ""
    """Date of the first run on a GPU and the file that records it; empty until there is one."""


def _cp_comm_type(kernels: Kernels, layout: Layout) -> str:
    """Return how context-parallel ranks share keys and values on GPUs; empty without context parallelism."""
    default = "all_gather" if kernels.layer_spec == "torch" else "p2p"
    return (kernels.cp_comm_type or default) if layout.context_parallel > 1 else ""


def _recomputes(kernels: Kernels, module: str) -> bool:
    chosen = kernels.recompute_modules or "core_attn"
    return kernels.recompute_granularity == "selective" and module in chosen.split(",")


def _gathers_behind(kernels: Kernels) -> bool:
    follows = kernels.overlap_grad_reduce is not False
    return follows if kernels.overlap_param_gather is None else kernels.overlap_param_gather


SWITCHES = (
    Switch(name="PRECISION=bf16", is_on=lambda k, _: k.precision == "bf16", cpu=True, null_device=True),
    Switch(
        name="PRECISION=fp8 FP8_RECIPE=tensorwise",
        is_on=lambda k, _: k.precision == "fp8" and k.fp8_recipe in (None, "tensorwise"),
        null_device=True,
    ),
    Switch(name="PRECISION=fp8 FP8_RECIPE=blockwise", is_on=lambda k, _: k.fp8_recipe == "blockwise", null_device=True),
    Switch(name="PRECISION=fp8 FP8_RECIPE=mxfp8", is_on=lambda k, _: k.fp8_recipe == "mxfp8", null_device=True),
    Switch(name="FP8_PARAM_GATHER=True", is_on=lambda k, _: k.fp8_param_gather, null_device=True),
    Switch(name="PRECISION=nvfp4", is_on=lambda k, _: k.precision == "nvfp4", null_device=True),
    Switch(name="NUM_LAYERS_AT_START_IN_BF16", is_on=lambda k, _: k.bf16_layers_at_start > 0, null_device=True),
    Switch(name="NUM_LAYERS_AT_END_IN_BF16", is_on=lambda k, _: k.bf16_layers_at_end > 0, null_device=True),
    Switch(name="LAYER_SPEC=te", is_on=lambda k, _: k.layer_spec != "torch", null_device=True),
    Switch(name="LAYER_SPEC=torch", is_on=lambda k, _: k.layer_spec == "torch", cpu=True, null_device=True),
    Switch(name="KERNEL_FUSION=True", is_on=lambda k, _: k.kernel_fusion is not False, null_device=True),
    Switch(name="CE_FUSION_IMPL=native", is_on=lambda k, _: k.ce_fusion_impl == "native", null_device=True),
    Switch(
        name="CE_FUSION_IMPL=te",
        is_on=lambda k, _: k.ce_fusion_impl == "te" or (k.ce_fusion_impl is None and k.layer_spec != "torch"),
        null_device=True,
    ),
    Switch(name="CUDA_GRAPH_IMPLEMENTATION=local", is_on=lambda k, _: k.cuda_graph == "local", null_device=True),
    Switch(name="FULL_CUDA_GRAPH=True", is_on=lambda k, _: k.full_cuda_graph, null_device=True),
    Switch(name="TP_PP_DP_MAPPING=True", is_on=lambda _, layout: layout.tp_pp_dp_mapping, cpu=True, null_device=True),
    Switch(name="TP_COMM_OVERLAP=True", is_on=lambda k, _: k.tp_comm_overlap, null_device=True),
    Switch(
        name="MC_TP_OVERLAP_AG=False",
        is_on=lambda k, _: k.tp_comm_overlap and not k.tp_overlap_gather,
        null_device=True,
    ),
    Switch(
        name="MC_TP_OVERLAP_RS=False",
        is_on=lambda k, _: k.tp_comm_overlap and not k.tp_overlap_scatter,
        null_device=True,
    ),
    Switch(name="CP_COMM_TYPE=p2p", is_on=lambda *both: _cp_comm_type(*both) == "p2p", null_device=True),
    Switch(name="CP_COMM_TYPE=a2a", is_on=lambda *both: _cp_comm_type(*both) == "a2a", null_device=True),
    Switch(
        name="CP_COMM_TYPE=all_gather",
        is_on=lambda *both: _cp_comm_type(*both) == "all_gather",
        cpu=True,
        null_device=True,
    ),
    Switch(
        name="RECOMPUTE_GRANULARITY=full",
        is_on=lambda k, _: k.recompute_granularity == "full",
        cpu=True,
        null_device=True,
    ),
    Switch(
        name="RECOMPUTE_MODULES=core_attn", is_on=lambda k, _: _recomputes(k, "core_attn"), cpu=True, null_device=True
    ),
    Switch(name="RECOMPUTE_MODULES=mlp", is_on=lambda k, _: _recomputes(k, "mlp"), cpu=True, null_device=True),
    Switch(name="GRAD_REDUCE_IN_FP32=False", is_on=lambda k, _: not k.grad_reduce_in_fp32, cpu=True, null_device=True),
    Switch(
        name="OVERLAP_GRAD_REDUCE=True",
        is_on=lambda k, _: k.overlap_grad_reduce is not False,
        cpu=True,
        null_device=True,
    ),
    Switch(name="OVERLAP_PARAM_GATHER=True", is_on=lambda k, _: _gathers_behind(k), cpu=True, null_device=True),
    Switch(
        name="ALIGN_PARAM_GATHER=False",
        is_on=lambda k, layout: (
            k.align_param_gather is False and layout.interleaved_pipeline > 1 and _gathers_behind(k)
        ),
        null_device=True,
    ),
    Switch(name="BUCKET_SIZE", is_on=lambda k, _: k.bucket_size is not None, cpu=True, null_device=True),
    Switch(name="USE_PRECISION_AWARE_OPTIMIZER=True", is_on=lambda k, _: k.precision_aware_optimizer, null_device=True),
)
"""Where each switch has run; docs/gpu.md has the same table. A run on a GPU changes one row."""


def never_on_a_gpu(kernels: Kernels, layout: Layout) -> tuple[Switch, ...]:
    """Return the switches of a run on GPUs that no run on a GPU has used; none in fp32, which is for CPUs."""
    if kernels.precision == "fp32":
        return ()
    return tuple(switch for switch in SWITCHES if switch.is_on(kernels, layout) and not switch.gpu)


def contradictions(kernels: Kernels, layout: Layout, size: ModelSize) -> Iterator[str]:
    """Yield the switches that cannot be combined on any machine."""
    if kernels.layer_spec == "torch":
        for need in needs(kernels):
            yield f"{need.switch} needs Transformer Engine's layers, but LAYER_SPEC=torch"
    if kernels.layer_spec == "te" or kernels.precision in ("fp8", "nvfp4"):
        yield from _idle_recomputation(kernels, "te")
    if kernels.fp8_recipe is not None and kernels.precision != "fp8":
        yield f"FP8_RECIPE={kernels.fp8_recipe} needs PRECISION=fp8; it is {kernels.precision}"
    yield from _fp8_parameter_contradictions(kernels)
    yield from _bf16_layer_contradictions(kernels, layout, size)
    yield from _full_graph_contradictions(kernels, layout)
    yield from _parallel_contradictions(kernels, layout, size)
    yield from _recompute_contradictions(kernels, size)


def _fp8_parameter_contradictions(kernels: Kernels) -> Iterator[str]:
    if not kernels.fp8_param_gather:
        return
    if kernels.precision != "fp8":
        yield f"FP8_PARAM_GATHER=True needs PRECISION=fp8; it is {kernels.precision}"
    elif kernels.fp8_recipe not in (None, "tensorwise"):
        # Megatron-Core gathers mxfp8 in bf16, in the gradients' buffers; blockwise has not been tried.
        yield f"FP8_PARAM_GATHER=True needs FP8_RECIPE=tensorwise; it is {kernels.fp8_recipe}"
    if kernels.cuda_graph != "none":
        # Megatron-Core 0.16.1 copies a layer's weights to where its graph reads them, through a pointer that such a
        # weight lacks: the null device sees copies to address 0.
        yield (
            f"FP8_PARAM_GATHER=True cannot be combined with CUDA_GRAPH_IMPLEMENTATION={kernels.cuda_graph}, which "
            "copies weights as if they were in bf16"
        )


def _bf16_layer_contradictions(kernels: Kernels, layout: Layout, size: ModelSize) -> Iterator[str]:
    # Megatron-Core accepts no more than the layers of one pipeline stage (core/transformer/transformer_config.py).
    most = size.layers // layout.pipeline_model_parallel
    for name, layers in (
        ("NUM_LAYERS_AT_START_IN_BF16", kernels.bf16_layers_at_start),
        ("NUM_LAYERS_AT_END_IN_BF16", kernels.bf16_layers_at_end),
    ):
        if layers and kernels.precision not in ("fp8", "nvfp4"):
            yield f"{name}={layers} needs PRECISION=fp8 or nvfp4; it is {kernels.precision}"
        elif layers > most:
            yield f"{name}={layers} is above the {most} layers of a pipeline stage"


def _full_graph_contradictions(kernels: Kernels, layout: Layout) -> Iterator[str]:
    if not kernels.full_cuda_graph:
        return
    if kernels.cuda_graph != "none":
        yield f"FULL_CUDA_GRAPH=True includes all layers: leave CUDA_GRAPH_IMPLEMENTATION={kernels.cuda_graph} out"
    if layout.pipeline_model_parallel > 1 and layout.interleaved_pipeline == 1:
        # Megatron-Core waits for the device after each of its messages, which a capture does not allow.
        yield "FULL_CUDA_GRAPH=True needs an interleaved pipeline, or none; INTERLEAVED_PIPELINE is 1"
    # Combinations that nobody has captured yet.
    if kernels.tp_comm_overlap:
        yield "FULL_CUDA_GRAPH=True has not been tried with TP_COMM_OVERLAP=True; turn one off"
    if kernels.recompute_granularity is not None:
        yield (
            f"FULL_CUDA_GRAPH=True has not been tried with RECOMPUTE_GRANULARITY={kernels.recompute_granularity}; "
            "leave one out"
        )


def _parallel_contradictions(kernels: Kernels, layout: Layout, size: ModelSize) -> Iterator[str]:
    tp, cp, groups = layout.tensor_model_parallel, layout.context_parallel, size.query_groups
    if kernels.tp_comm_overlap and kernels.precision == "nvfp4":
        yield "TP_COMM_OVERLAP=True cannot be combined with PRECISION=nvfp4: Transformer Engine does not overlap fp4"
    if kernels.tp_comm_overlap and tp == 1:
        yield "TP_COMM_OVERLAP=True needs tensor parallelism; TENSOR_MODEL_PARALLEL is 1"
    if kernels.cp_comm_type == "a2a" and groups % (tp * cp):
        yield (
            f"CP_COMM_TYPE=a2a distributes heads, but TENSOR_MODEL_PARALLEL({tp}) x CONTEXT_PARALLEL({cp}) = {tp * cp} "
            f"does not divide the {groups} query groups; p2p and all_gather have no such limit"
        )
    if kernels.overlap_param_gather and kernels.overlap_grad_reduce is False:
        yield "OVERLAP_PARAM_GATHER=True needs OVERLAP_GRAD_REDUCE, which is off"
    if kernels.align_param_gather:
        if layout.interleaved_pipeline == 1:
            yield "ALIGN_PARAM_GATHER=True needs an interleaved pipeline; INTERLEAVED_PIPELINE is 1"
        elif not _gathers_behind(kernels):
            yield "ALIGN_PARAM_GATHER=True needs OVERLAP_PARAM_GATHER, which is off"
    for name, on in (("MC_TP_OVERLAP_AG", kernels.tp_overlap_gather), ("MC_TP_OVERLAP_RS", kernels.tp_overlap_scatter)):
        if not on and not kernels.tp_comm_overlap:
            yield f"{name}=False needs TP_COMM_OVERLAP=True, since it turns off a part of it"
    if kernels.bucket_size is not None and kernels.overlap_grad_reduce is False:
        yield f"BUCKET_SIZE={kernels.bucket_size} needs OVERLAP_GRAD_REDUCE, which is off, so everything is one bucket"


def _recompute_contradictions(kernels: Kernels, size: ModelSize) -> Iterator[str]:
    granularity, layers = kernels.recompute_granularity, size.layers
    whole = {"RECOMPUTE_METHOD": kernels.recompute_method, "RECOMPUTE_NUM_LAYERS": kernels.recompute_num_layers}
    if granularity == "full":
        for name in [name for name, value in whole.items() if value is None]:
            yield f"RECOMPUTE_GRANULARITY=full needs {name}, which is not set"
        if kernels.cuda_graph != "none":
            yield f"RECOMPUTE_GRANULARITY=full cannot be in a graph: CUDA_GRAPH_IMPLEMENTATION={kernels.cuda_graph}"
    else:
        for name in [name for name, value in whole.items() if value is not None]:
            yield f"{name}={whole[name]} needs RECOMPUTE_GRANULARITY=full; it is {granularity or 'not set'}"
    if kernels.recompute_modules is not None and granularity != "selective":
        yield (
            f"RECOMPUTE_MODULES={kernels.recompute_modules} needs RECOMPUTE_GRANULARITY=selective; "
            f"it is {granularity or 'not set'}"
        )
    if (kernels.recompute_num_layers or 0) > layers:
        yield f"RECOMPUTE_NUM_LAYERS({kernels.recompute_num_layers}) is above the {layers} layers of the model"
