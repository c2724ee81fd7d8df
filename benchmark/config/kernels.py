"""Which kernels a run uses, and what its switches for them need.

Two questions, two functions: `contradictions` judges a configuration alone, anywhere; `lacking` judges it against the
machine that is to train it. Both name the switch, so that nothing fails deep inside a library. Imports without torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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
    """What one rank finds for its kernels."""

    gpu: bool = False
    compute_capability: tuple[int, int] | None = None
    """Of the GPU, such as (9, 0) for Hopper; None where nobody has asked."""
    transformer_engine: str | None = None
    """Its version, None where it is not installed."""
    weight_gradient_fusion: bool = False
    """Whether Apex's kernel is there that adds a weight gradient to its buffer inside the matrix product."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """What one switch asks of the machine."""

    switch: str
    transformer_engine: str = "2.0.0"
    """The least version; those of Megatron-Core 0.16.1's own checks."""
    compute_capability: tuple[int, int] = (0, 0)


FP8_RECIPES = {
    "tensorwise": Need(switch="FP8_RECIPE=tensorwise", transformer_engine="2.2.0", compute_capability=(8, 9)),
    "blockwise": Need(switch="FP8_RECIPE=blockwise", transformer_engine="2.3.0", compute_capability=(9, 0)),
    "mxfp8": Need(switch="FP8_RECIPE=mxfp8", transformer_engine="2.1.0", compute_capability=(10, 0)),
}


def probe() -> Machine:
    """This machine, as far as it can be seen without torch: an NVIDIA driver that is loaded counts as a GPU."""
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
    """Transformer Engine's layers where it is installed beside a GPU, PyTorch's elsewhere; or the one asked for."""
    if kernels.layer_spec != "auto":
        return kernels.layer_spec
    return "te" if machine.gpu and machine.transformer_engine else "torch"


def needs(kernels: Kernels) -> Iterator[Need]:
    """The switches of a run that only Transformer Engine on a GPU can follow."""
    if kernels.layer_spec == "te":
        yield Need(switch="LAYER_SPEC=te")
    if kernels.precision == "fp8":
        recipe = FP8_RECIPES[kernels.fp8_recipe or "tensorwise"]
        yield Need(
            switch=f"PRECISION=fp8 with {recipe.switch}",
            transformer_engine=recipe.transformer_engine,
            compute_capability=recipe.compute_capability,
        )
    if kernels.precision == "nvfp4":
        yield Need(switch="PRECISION=nvfp4", transformer_engine="2.7.0", compute_capability=(10, 0))
    if "layernorm" in (kernels.recompute_modules or ""):
        least = "2.6.0" if kernels.precision == "fp8" else "2.0.0"
        yield Need(switch="RECOMPUTE_MODULES=layernorm", transformer_engine=least)
    if kernels.tp_comm_overlap:
        yield Need(switch="TP_COMM_OVERLAP=True")
    if kernels.cp_comm_type in ("p2p", "a2a"):
        yield Need(switch=f"CP_COMM_TYPE={kernels.cp_comm_type}")
    if kernels.ce_fusion_impl == "te":
        yield Need(switch="CE_FUSION_IMPL=te")
    if kernels.cuda_graph != "none":
        yield Need(switch=f"CUDA_GRAPH_IMPLEMENTATION={kernels.cuda_graph}")
    if kernels.precision_aware_optimizer:
        yield Need(switch="USE_PRECISION_AWARE_OPTIMIZER=True", transformer_engine="2.1.0")


def lacking(kernels: Kernels, machine: Machine) -> list[str]:
    """What the run needs and the machine does not have; empty if it can be trained there."""
    return [fault for need in needs(kernels) for fault in _lacking(need, machine)]


def _lacking(need: Need, machine: Machine) -> Iterator[str]:
    if not machine.gpu:
        yield f"{need.switch} needs a GPU that torch can use; there is none"
        return
    least, found = need.transformer_engine, machine.transformer_engine
    if found is None:
        yield f"{need.switch} needs Transformer Engine {least} or later, which is not installed"
    elif _release(found) < _release(least):
        yield f"{need.switch} needs Transformer Engine {least} or later; installed: {found}"
    have = machine.compute_capability
    if have is not None and have < need.compute_capability:
        yield (
            f"{need.switch} needs a GPU of compute capability {_dotted(need.compute_capability)} or later; "
            f"this one has {_dotted(have)}"
        )


def _release(text: str) -> tuple[int, ...]:
    """2.7.0.dev0+5fdd7bb -> (2, 7, 0)."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def contradictions(kernels: Kernels, layout: Layout, size: ModelSize) -> Iterator[str]:
    """Switches that cannot go together on any machine."""
    if kernels.layer_spec == "torch":
        for need in needs(kernels):
            yield f"{need.switch} needs Transformer Engine's layers, but LAYER_SPEC=torch"
    if kernels.fp8_recipe is not None and kernels.precision != "fp8":
        yield f"FP8_RECIPE={kernels.fp8_recipe} needs PRECISION=fp8; it is {kernels.precision}"
    yield from _parallel_contradictions(kernels, layout, size)
    yield from _recompute_contradictions(kernels, size)


def _parallel_contradictions(kernels: Kernels, layout: Layout, size: ModelSize) -> Iterator[str]:
    tp, cp, groups = layout.tensor_model_parallel, layout.context_parallel, size.query_groups
    if kernels.cuda_graph != "none" and layout.pipeline_model_parallel > 1:
        # Megatron-Core 0.16.1 frees a stage's outputs, which are views of a graph's; and evaluation would replay the
        # graphs of other microbatches in another order than they share memory in.
        yield (
            f"CUDA_GRAPH_IMPLEMENTATION={kernels.cuda_graph} works without a pipeline only; "
            f"PIPELINE_MODEL_PARALLEL is {layout.pipeline_model_parallel}"
        )
    if kernels.tp_comm_overlap and kernels.precision == "nvfp4":
        yield "TP_COMM_OVERLAP=True cannot be with PRECISION=nvfp4: Transformer Engine overlaps no fp4 products"
    if kernels.tp_comm_overlap and tp == 1:
        yield "TP_COMM_OVERLAP=True needs tensor parallelism; TENSOR_MODEL_PARALLEL is 1"
    if kernels.cp_comm_type == "a2a" and groups % (tp * cp):
        yield (
            f"CP_COMM_TYPE=a2a deals out heads: TENSOR_MODEL_PARALLEL({tp}) x CONTEXT_PARALLEL({cp}) = {tp * cp} "
            f"does not divide the {groups} query groups; p2p and all_gather need not"
        )
    if kernels.overlap_param_gather and kernels.overlap_grad_reduce is False:
        yield "OVERLAP_PARAM_GATHER=True needs OVERLAP_GRAD_REDUCE, which is off"
    if kernels.bucket_size is not None and kernels.overlap_grad_reduce is False:
        yield f"BUCKET_SIZE={kernels.bucket_size} needs OVERLAP_GRAD_REDUCE, which is off: all is one bucket then"


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
