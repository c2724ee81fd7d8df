"""Losses and gradients without a whole microbatch's logits, compared with Megatron-Core, which holds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy
from megatron.core.tensor_parallel.layers import ColumnParallelLinear
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.config import RunConfig
from benchmark.config.kernels import Machine
from reference_impl import head, parallel, replicas
from reference_impl.model import transformer_config
from tests.reference_impl.conftest import run_ranks
from tests.reference_impl.test_layers import two_steps
from tests.reference_impl.test_layouts import TOLERANCES as CURVE_TOLERANCES
from tests.reference_impl.test_step import curve

Tiny = Callable[..., RunConfig]

TOKENS, SEQUENCES, HIDDEN, VOCABULARY = 22, 2, 12, 64
CHUNK = 10  # so that the last of five is shorter

# Of the largest value. The sums of chunks are those of the whole in another order; bf16 rounds what is multiplied.
TOLERANCES = {"fp32": 2e-6, "bf16": 1e-2}


def output_layer(config: RunConfig, whole: Tensor) -> ColumnParallelLinear:
    """Megatron-Core's, with this rank's rows of a weight."""
    parallel.initialize(config)
    settings = transformer_config(config, Machine())
    rows, columns = whole.shape
    layer = ColumnParallelLinear(columns, rows, config=settings, init_method=settings.init_method, bias=False)
    with torch.no_grad():
        layer.weight.copy_(part(layer, whole))
    return layer


def drawn() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, weight, labels and a mask with holes."""
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(TOKENS, SEQUENCES, HIDDEN, generator=generator)
    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator)
    labels = torch.randint(0, VOCABULARY, (SEQUENCES, TOKENS), generator=generator)
    return hidden, weight, labels, (torch.rand(SEQUENCES, TOKENS, generator=generator) > 0.3).float()


def part(layer: ColumnParallelLinear, whole: Tensor) -> Tensor:
    """This tensor-parallel rank's."""
    return whole.chunk(layer.tp_group.size())[layer.tp_group.rank()]


def megatron(layer: ColumnParallelLinear, hidden: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    logits, _ = layer(hidden)
    losses: Tensor = vocab_parallel_cross_entropy(logits, labels.t().contiguous()).t() * mask
    return losses


def ours(layer: ColumnParallelLinear, hidden: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    losses: Tensor = head.Head(layer, layer.config)(hidden, labels=labels, mask=mask)
    return losses


def differences(config: RunConfig) -> list[float]:
    """The differences to Megatron-Core, relative to the largest value: of losses, and of both gradients."""
    hidden, weight, labels, mask = drawn()
    layer = output_layer(config, weight)
    answers = []
    for losses_of in (megatron, ours):
        mine = part(layer, hidden).to(layer.weight.dtype, copy=True).requires_grad_()
        layer.weight.grad = None
        losses = losses_of(layer, mine, labels, mask)
        (3 * losses.sum()).backward()
        answers.append((losses.detach(), mine.grad, layer.weight.grad))
    found = []
    for one, other in zip(*answers, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        found.append(float((one - other).abs().max() / one.abs().max()))
    return found


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("ranks", [1, 2])
def test_losses_and_gradients_are_megatrons(
    ranks: int, precision: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each token's loss, and the gradients of hidden states and of the rank's weights, are equal, masked tokens
    included.
    """
    monkeypatch.setattr(head, "CHUNK", CHUNK)

    for found in run_ranks(tiny(PRECISION=precision, DGXNGPU=ranks, TENSOR_MODEL_PARALLEL=ranks), differences):
        assert max(found) <= TOLERANCES[precision]


def without_head(model: head.Llama, *args: Any, **kwargs: Any) -> None:
    GPTModel.__init__(model, *args, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("precision", CURVE_TOLERANCES)
def test_training_and_evaluation_are_megatrons(precision: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of two microbatches, with gradients in Megatron-Core's buffer, and an evaluation.

    That every layout does what one process does is in test_layouts.
    """
    loss, grad_norm = CURVE_TOLERANCES[precision]
    monkeypatch.setattr(head, "CHUNK", 100)
    batches = {"MINIBS": 2, "MICRO_BATCH_SIZE": 1}
    (answer,) = run_ranks(tiny(PRECISION=precision, **batches), curve)
    monkeypatch.setattr(head.Llama, "__init__", without_head)
    (expected,) = run_ranks(tiny(PRECISION=precision, **batches), curve)

    assert answer["losses"] == pytest.approx(expected["losses"], abs=loss)
    assert answer["grad_norms"] == pytest.approx(expected["grad_norms"], rel=grad_norm)
    assert answer["evaluation"] == pytest.approx(expected["evaluation"], abs=loss)


def improbable(config: RunConfig) -> list[float]:
    """The losses of two tokens whose labels have logits far below the largest, and the largest."""
    weight = torch.zeros(4, 1)
    weight[0] = 200.0
    layer = output_layer(config, weight)
    hidden = part(layer, torch.ones(2, 1, 1))
    losses: list[float] = ours(layer, hidden, torch.tensor([[1, 0]]), torch.ones(1, 2))[0].tolist()
    return losses


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_label_may_be_less_probable_than_fp32_can_say(ranks: int, tiny: Tiny) -> None:
    """The loss of a label 200 below the largest logit is 200, though its probability is 0 in fp32."""
    config = tiny(DGXNGPU=ranks, TENSOR_MODEL_PARALLEL=ranks)

    assert run_ranks(config, improbable) == [[200.0, 0.0]] * ranks


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        seen = {arg.data_ptr() for arg in args if isinstance(arg, Tensor)}
        if isinstance(result, Tensor) and result.data_ptr() not in seen:
            self.elements = max(self.elements, result.numel())
        return result


def largest(config: RunConfig) -> list[int]:
    """The largest tensors of training and of evaluation."""
    hidden, weight, labels, mask = drawn()
    layer = output_layer(config, weight)
    answers = []
    for training in (True, False):
        with Largest() as seen, torch.set_grad_enabled(training):
            losses = ours(layer, hidden, labels, mask)
            if training:
                losses.sum().backward()
        answers.append(seen.elements)
    return answers


def test_only_a_chunks_logits_are_held(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor is larger than the weight, or a chunk's logits; evaluation makes none of the weight's size at all."""
    monkeypatch.setattr(head, "CHUNK", CHUNK)

    assert run_ranks(tiny(), largest) == [[VOCABULARY * HIDDEN, VOCABULARY * CHUNK]]


def weighted(config: RunConfig) -> str:
    hidden, weight, labels, mask = drawn()
    losses = ours(output_layer(config, weight), hidden, labels, mask)
    with pytest.raises(RuntimeError) as refused:
        (losses * torch.arange(TOKENS)).sum().backward()
    return str(refused.value)


def test_losses_can_only_be_summed(tiny: Tiny) -> None:
    """Weighting them afterwards is refused, since they would have the gradient of their plain sum."""
    assert run_ranks(tiny(), weighted) == [
        f"the head's losses can only be summed; their gradient has strides ({TOKENS}, 1), not 0"
    ]


def test_one_replica_trains_alike_without_copies(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reducing gradients and gathering weights within one replica changes nothing, to the last bit."""
    without = run_ranks(tiny(), two_steps)
    monkeypatch.setattr(replicas, "OneReplica", DistributedDataParallel)

    assert run_ranks(tiny(), two_steps) == without
