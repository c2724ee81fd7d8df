"""From a run's switches to Megatron-Core's configurations, as values; and what recomputation and fusion change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.utils import get_model_config

from benchmark.config import ConfigError, RunConfig, config_files, resolve
from benchmark.config.kernels import FP8_RECIPES, Machine
from reference_impl import parallel
from reference_impl.model import ddp_config, fuse_weight_gradients, transformer_config
from reference_impl.optimizer import optimizer_config
from reference_impl.step import MegatronStep, synthetic_batches
from tests.reference_impl.conftest import run_ranks
from tests.reference_impl.test_step import build

Tiny = Callable[..., RunConfig]

BLACKWELL = Machine(gpu=True, compute_capability=(10, 0), transformer_engine="2.9.0", weight_gradient_fusion=True)
CPU = Machine()


@pytest.fixture
def transformer_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Megatron-Core's checks find a Transformer Engine: its version, and its kernel for RoPE."""
    monkeypatch.setattr("megatron.core.transformer.transformer_config.is_te_min_version", lambda version: True)
    monkeypatch.setattr(
        "megatron.core.models.common.embeddings.rope_utils.fused_apply_rotary_pos_emb", lambda *args: None
    )


def fields(config: TransformerConfig, *names: str) -> dict[str, Any]:
    return {name: getattr(config, name) for name in names}


@pytest.mark.usefixtures("transformer_engine")
@pytest.mark.parametrize(
    "machine", [CPU, BLACKWELL, replace(BLACKWELL, transformer_engine=None)], ids=["CPU", "te", "torch"]
)
def test_every_config_is_one_that_megatron_takes(machine: Machine, subtests: pytest.Subtests) -> None:
    """The model of each config of the repository passes Megatron-Core's own checks, with each kind of layer."""
    for path in config_files():
        config = resolve(path).config
        with subtests.test(path.stem):
            transformer = transformer_config(config, machine)
            assert transformer.num_layers == config.size.layers
            assert transformer.params_dtype == transformer.pipeline_dtype
            assert ddp_config(config.kernels, machine).overlap_grad_reduce == machine.gpu


@pytest.mark.usefixtures("transformer_engine")
@pytest.mark.parametrize("recipe", FP8_RECIPES)
def test_fp8_reaches_megatron(recipe: str, tiny: Tiny) -> None:
    """fp8 keeps bf16 weights, and hands the recipe and its format on."""
    transformer = transformer_config(tiny(PRECISION="fp8", FP8_RECIPE=recipe), BLACKWELL)

    assert fields(transformer, "fp8", "fp8_recipe", "fp4", "bf16", "params_dtype", "fp8_param") == {
        "fp8": "hybrid" if recipe == "tensorwise" else "e4m3",
        "fp8_recipe": recipe,
        "fp4": None,
        "bf16": True,
        "params_dtype": torch.bfloat16,
        "fp8_param": False,
    }


@pytest.mark.usefixtures("transformer_engine")
def test_nvfp4_reaches_megatron(tiny: Tiny) -> None:
    """nvfp4 keeps bf16 weights, and is not configured as fp8."""
    transformer = transformer_config(tiny(PRECISION="nvfp4"), BLACKWELL)

    assert fields(transformer, "fp8", "fp4", "fp4_recipe", "bf16") == {
        "fp8": None,
        "fp4": "e2m1",
        "fp4_recipe": "nvfp4",
        "bf16": True,
    }


@pytest.mark.usefixtures("transformer_engine")
@pytest.mark.parametrize(
    ("variables", "machine", "expected"),
    [
        ({}, CPU, {"bias_activation_fusion": False, "apply_rope_fusion": False, "cp_comm_type": None}),
        ({}, BLACKWELL, {"bias_activation_fusion": True, "apply_rope_fusion": True, "cp_comm_type": "p2p"}),
        ({}, BLACKWELL, {"gradient_accumulation_fusion": True, "use_cpu_initialization": False}),
        ({"KERNEL_FUSION": 0}, BLACKWELL, {"bias_activation_fusion": False, "gradient_accumulation_fusion": False}),
        ({"LAYER_SPEC": "torch"}, BLACKWELL, {"bias_activation_fusion": True, "apply_rope_fusion": False}),
        ({}, CPU, {"cross_entropy_loss_fusion": False}),
        ({}, BLACKWELL, {"cross_entropy_loss_fusion": True, "cross_entropy_fusion_impl": "te"}),
        ({"LAYER_SPEC": "torch"}, BLACKWELL, {"cross_entropy_loss_fusion": False}),
        ({"CE_FUSION_IMPL": "native"}, BLACKWELL, {"cross_entropy_fusion_impl": "native"}),
        ({"CUDA_GRAPH_IMPLEMENTATION": "local"}, BLACKWELL, {"cuda_graph_impl": "local", "use_te_rng_tracker": True}),
        (
            {"TP_COMM_OVERLAP": 1, "TENSOR_MODEL_PARALLEL": 2, "DGXNGPU": 2},
            BLACKWELL,
            {"tp_comm_overlap": True, "sequence_parallel": True},
        ),
        (
            {"CP_COMM_TYPE": "all_gather", "CONTEXT_PARALLEL": 2, "DGXNGPU": 2},
            BLACKWELL,
            {"cp_comm_type": "all_gather"},
        ),
        (
            {"RECOMPUTE_GRANULARITY": "selective", "RECOMPUTE_MODULES": "mlp,core_attn"},
            BLACKWELL,
            {"recompute_granularity": "selective", "recompute_modules": ["mlp", "core_attn"]},
        ),
        (
            {"RECOMPUTE_GRANULARITY": "full", "RECOMPUTE_METHOD": "block", "RECOMPUTE_NUM_LAYERS": 1},
            CPU,
            {"recompute_granularity": "full", "recompute_method": "block", "recompute_num_layers": 1},
        ),
    ],
)
def test_switch_reaches_megatron(
    variables: dict[str, object], machine: Machine, expected: dict[str, Any], tiny: Tiny
) -> None:
    """Each switch of the kernels sets Megatron-Core's field for it."""
    assert fields(transformer_config(tiny(**variables), machine), *expected) == expected


def test_layers_fuse_weight_gradients_without_apex() -> None:
    """Transformer Engine's layers do; Megatron-Core's output layer, which cannot, stays as it was built."""
    chunk, layer, output = torch.nn.Module(), torch.nn.Module(), torch.nn.Module()
    chunk.config = SimpleNamespace(gradient_accumulation_fusion=False)  # type: ignore[assignment]
    chunk.layers, chunk.output_layer = torch.nn.ModuleList([layer]), output
    layer.fuse_wgrad_accumulation = False  # type: ignore[assignment]
    output.gradient_accumulation_fusion = False  # type: ignore[assignment]
    fuse_weight_gradients([chunk])
    assert layer.fuse_wgrad_accumulation
    assert not output.gradient_accumulation_fusion


@pytest.mark.parametrize(
    ("variables", "reduce", "gather", "fp32", "bucket"),
    [
        ({}, False, False, True, None),
        ({"OVERLAP_GRAD_REDUCE": 1, "BUCKET_SIZE": 1000}, True, True, True, 1000),
        ({"OVERLAP_GRAD_REDUCE": 1, "OVERLAP_PARAM_GATHER": 0}, True, False, True, None),
        ({"GRAD_REDUCE_IN_FP32": 0}, False, False, False, None),
    ],
)
def test_reduction_reaches_megatron(
    variables: dict[str, object], reduce: bool, gather: bool, fp32: bool, bucket: int | None, tiny: Tiny
) -> None:
    """The switches of gradient reduction set DistributedDataParallel's."""
    ddp = ddp_config(tiny(**variables).kernels, CPU)

    assert (ddp.overlap_grad_reduce, ddp.overlap_param_gather) == (reduce, gather)
    assert (ddp.grad_reduce_in_fp32, ddp.bucket_size, ddp.use_distributed_optimizer) == (fp32, bucket, True)


@pytest.mark.parametrize(
    "chosen",
    [{}, {"MLPERF_SUBMISSION_DIVISION": "open", "ADAM_BETA_2": "0.9", "WEIGHT_DECAY": "0", "LEARNING_RATE": "1e-3"}],
)
def test_the_optimizer_has_the_configured_numbers(chosen: dict[str, object], tiny: Tiny) -> None:
    """AdamW's constants are the rules', or those chosen in the open division; its moments are fp32."""
    config = tiny(PRECISION="bf16", **chosen)
    adamw, optimizer = config.optimizer, optimizer_config(config)
    assert (adamw == config.rules.optimizer) == (not chosen)
    assert optimizer.lr == config.schedule.base_learning_rate

    assert (optimizer.adam_beta1, optimizer.adam_beta2, optimizer.adam_eps) == (
        adamw.beta_1,
        adamw.beta_2,
        adamw.epsilon,
    )
    assert (optimizer.weight_decay, optimizer.clip_grad) == (adamw.weight_decay, adamw.gradient_clip_norm)
    assert (optimizer.exp_avg_dtype, optimizer.exp_avg_sq_dtype) == (torch.float32, torch.float32)


def test_a_machine_that_lacks_something_is_refused_before_anything(tiny: Tiny) -> None:
    """fp8 without a GPU is refused by name, before a process group is joined."""
    if torch.cuda.is_available():
        pytest.skip("a machine without CUDA")
    with pytest.raises(ConfigError, match="PRECISION=fp8 with FP8_RECIPE=tensorwise needs a GPU"):
        parallel.initialize(tiny(PRECISION="fp8"))


def two_steps(config: RunConfig) -> list[float]:
    step: MegatronStep = build(config)
    batches = synthetic_batches(config)
    return [value for _ in range(2) for stats in [step.train_once(batches)] for value in (stats.loss, stats.grad_norm)]


RECOMPUTATION = [
    {"RECOMPUTE_GRANULARITY": "full", "RECOMPUTE_METHOD": "uniform", "RECOMPUTE_NUM_LAYERS": 1},
    {"RECOMPUTE_GRANULARITY": "full", "RECOMPUTE_METHOD": "block", "RECOMPUTE_NUM_LAYERS": 1},
    {"RECOMPUTE_GRANULARITY": "selective"},
    {"RECOMPUTE_GRANULARITY": "selective", "RECOMPUTE_MODULES": "core_attn,mlp"},
]


@pytest.fixture(scope="module")
def plain(make_tiny: Tiny) -> list[float]:
    return run_ranks(make_tiny(MINIBS=2, MICRO_BATCH_SIZE=2), two_steps)[0]


@pytest.mark.parametrize("variables", RECOMPUTATION, ids=lambda variables: " ".join(map(str, variables.values())))
def test_recomputation_changes_no_bit(variables: dict[str, object], tiny: Tiny, plain: list[float]) -> None:
    """Recomputed activations are the same: losses and gradient norms are equal to the last bit."""
    assert run_ranks(tiny(MINIBS=2, MICRO_BATCH_SIZE=2, **variables), two_steps)[0] == plain


def test_gradients_may_be_bf16(tiny: Tiny, plain: list[float]) -> None:
    """Weights and gradients in bf16 take the same two steps, within bf16's rounding."""
    (answer,) = run_ranks(tiny(MINIBS=2, MICRO_BATCH_SIZE=2, PRECISION="bf16", GRAD_REDUCE_IN_FP32=0), two_steps)

    assert answer == pytest.approx(plain, rel=1e-2)
    assert answer != plain


def test_overlap_changes_no_bit(tiny: Tiny) -> None:
    """Overlapped reduction and gathering give the same bits; small buckets change only the order of sums."""
    shape = {"DGXNGPU": 2, "MINIBS": 2, "MICRO_BATCH_SIZE": 1}
    one_after_the_other = run_ranks(tiny(**shape), two_steps)

    assert run_ranks(tiny(OVERLAP_GRAD_REDUCE=1, **shape), two_steps) == one_after_the_other
    for answer in run_ranks(tiny(OVERLAP_GRAD_REDUCE=1, BUCKET_SIZE=100_000, **shape), two_steps):
        assert answer == pytest.approx(one_after_the_other[0], rel=1e-5)


def around_an_evaluation(config: RunConfig) -> list[float]:
    """Losses and norms of two steps, a loss of evaluation, and another step."""
    step: MegatronStep = build(config)
    batches = synthetic_batches(config)
    first = [step.train_once(batches) for _ in range(2)]
    evaluated = step._evaluate(batches, 2)
    stats = [*first, step.train_once(batches)]
    return [evaluated, *(value for one in stats for value in (one.loss, one.grad_norm))]


@pytest.mark.parametrize("interleaved", [1, 2])
def test_overlap_of_a_pipeline_changes_no_bit(interleaved: int, tiny: Tiny) -> None:
    """Stages start their collectives together, even with an evaluation, which starts none, in between."""
    shape = {"DGXNGPU": 4, "PIPELINE_MODEL_PARALLEL": 2, "INTERLEAVED_PIPELINE": interleaved}
    batch = {"MINIBS": 4, "MICRO_BATCH_SIZE": 1}
    one_after_the_other = run_ranks(tiny(**shape, **batch), around_an_evaluation)

    assert run_ranks(tiny(OVERLAP_GRAD_REDUCE=1, **shape, **batch), around_an_evaluation) == one_after_the_other


def alignment(config: RunConfig) -> tuple[bool, bool]:
    """Whether the schedule starts the reduction of gradients and the gathering of weights."""
    settings = get_model_config(build(config).chunks[0])
    return settings.grad_sync_func is not None, settings.param_sync_func is not None


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"INTERLEAVED_PIPELINE": 2}, (False, False)),
        ({"OVERLAP_GRAD_REDUCE": 1}, (True, False)),
        ({"OVERLAP_GRAD_REDUCE": 1, "INTERLEAVED_PIPELINE": 2}, (True, True)),
        ({"OVERLAP_GRAD_REDUCE": 1, "OVERLAP_PARAM_GATHER": 0, "INTERLEAVED_PIPELINE": 2}, (True, False)),
    ],
)
def test_stages_start_their_collectives_together(
    variables: dict[str, object], expected: tuple[bool, bool], tiny: Tiny
) -> None:
    """They do if they overlap with computation; for weights, if Megatron-Core's schedule can."""
    config = tiny(DGXNGPU=2, PIPELINE_MODEL_PARALLEL=2, MICRO_BATCH_SIZE=1, **variables)
    assert run_ranks(config, alignment) == [expected, expected]
