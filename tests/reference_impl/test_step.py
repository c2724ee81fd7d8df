"""The real Step on the real engine: warm-up leaves no trace, and the seed decides everything. Layouts are in
test_layouts.
"""

from __future__ import annotations

import hashlib
import math
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.config import RunConfig
from reference_impl import parallel
from reference_impl.data.read.ahead import THREAD
from reference_impl.data.read.configured import data_folder
from reference_impl.data.read.datasets import Microbatch
from reference_impl.files.manifest import load
from reference_impl.preserve import torch_optimizers
from reference_impl.step import MegatronStep, _drawn, _draws, _forward_step, synthetic_batches
from reference_impl.stopwatch import Stopwatch
from tests.fakes import FakeClock
from tests.reference_impl.conftest import run_ranks
from tests.reference_impl.test_data_ahead import readers

STEPS = 3
"""Of a curve: AdamW has both moments from the second on."""

# AdamW turns rounding into steps of the size of the learning rate, so layouts are compared at a small one.
PEAK_LEARNING_RATE = 3e-4
LOSS_TOLERANCE = 3e-6
# Torch's fp32 norm of the embedding's four million gradients is off by up to 5e-5 itself (against double precision).
GRAD_NORM_TOLERANCE = 1e-4

Tiny = Callable[..., RunConfig]

LAYOUTS = {
    "one process": {},
    "DP=2": {"DGXNGPU": 2, "MINIBS": 2},
    "DP=2, micro 1": {"DGXNGPU": 2, "MINIBS": 2, "MICRO_BATCH_SIZE": 1},
    "TP=2 with sequence parallel": {"DGXNGPU": 2, "TENSOR_MODEL_PARALLEL": 2},
    "PP=2": {"DGXNGPU": 2, "PIPELINE_MODEL_PARALLEL": 2},
    "PP=2 interleaved, embedding and loss as layers": {
        "DGXNGPU": 2,
        "PIPELINE_MODEL_PARALLEL": 2,
        "INTERLEAVED_PIPELINE": 2,
    },
    "CP=2": {"DGXNGPU": 2, "CONTEXT_PARALLEL": 2},
}


def build(config: RunConfig) -> MegatronStep:
    parallel.initialize(config)
    return MegatronStep(config, load(data_folder(config)))


def slow_down(step: MegatronStep) -> None:
    for group in step.optimizer.param_groups:
        group["max_lr"] = PEAK_LEARNING_RATE
    step.schedule.step(0)


def curve(config: RunConfig, steps: int = STEPS) -> dict[str, Any]:
    """Losses and gradient norms of a few steps, and an evaluation after them."""
    step = build(config)
    slow_down(step)
    step.open_data()
    stats = list(step.train(steps))
    return {
        "losses": [one.loss for one in stats],
        "grad_norms": [one.grad_norm for one in stats],
        # A part of the evaluation, no multiple of any batch here.
        "evaluation": step.evaluate(5),
    }


@pytest.fixture(scope="module")
def reference(make_tiny: Tiny) -> dict[str, Any]:
    """The curve of one process."""
    return run_ranks(make_tiny(), curve)[0]


def test_the_same_seed_gives_the_same_bits(tiny: Tiny) -> None:
    """Two runs with one seed have identical losses, norms and evaluations, on two processes."""
    config = tiny(DGXNGPU=2, MINIBS=2)

    assert run_ranks(config, curve) == run_ranks(config, curve)


def test_another_seed_gives_another_run(tiny: Tiny, reference: dict[str, Any]) -> None:
    """The seed decides weights and data order: no step of another seed has the same loss."""
    other = run_ranks(tiny(SEED=8), curve)[0]

    assert all(mine != theirs for mine, theirs in zip(other["losses"], reference["losses"], strict=True))


def fingerprint(step: MegatronStep) -> dict[str, str]:
    """A digest of every part of a Step's state that outlives a step; gradients are zeroed at the start of each."""
    weights = [p.detach() for chunk in step.chunks for p in chunk.parameters()]
    shards = [p.detach() for o in torch_optimizers(step.optimizer) for g in o.param_groups for p in g["params"]]
    moments = [
        value for o in torch_optimizers(step.optimizer) for s in o.state.values() for _, value in sorted(s.items())
    ]
    groups = [
        {name: value for name, value in g.items() if name != "params"}
        for o in torch_optimizers(step.optimizer)
        for g in o.param_groups
    ]
    return {
        "weights": _digest(weights),
        "optimizer parameters": _digest(shards),
        "optimizer moments": _digest(moments),
        "optimizer groups": repr(groups),
        "schedule": repr(step.schedule.state_dict()),
        "random generator": _digest([torch.get_rng_state()]),
    }


def _digest(tensors: list[torch.Tensor]) -> str:
    whole = hashlib.sha256()
    for tensor in tensors:
        whole.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def warmed_and_not(config: RunConfig) -> dict[str, Any]:
    """Fingerprints around a warm-up, in the middle of training."""
    step = build(config)
    fresh = fingerprint(step)
    step.warm_up()
    after_fresh = fingerprint(step)
    slow_down(step)
    step.open_data()
    first = [one.loss for one in step.train(2)]
    middle = fingerprint(step)
    step.warm_up()
    return {
        "fresh": (fresh, after_fresh),
        "middle": (middle, fingerprint(step)),
        "losses": first + [one.loss for one in step.train(STEPS - 2)],
    }


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_warm_up_changes_no_bit(precision: str, tiny: Tiny) -> None:
    """Weights, optimizer, schedule and random state are the same before and after, fresh or in mid-run."""
    for answer in run_ranks(tiny(DGXNGPU=2, MINIBS=2, PRECISION=precision), warmed_and_not):
        for before, after in (answer["fresh"], answer["middle"]):
            assert after == before


def test_warm_up_does_not_move_the_data(tiny: Tiny, reference: dict[str, Any]) -> None:
    """A run that warmed up twice has, bit for bit, the losses of one that never did."""
    answer = run_ranks(tiny(), warmed_and_not)[0]

    assert answer["losses"] == reference["losses"]


def slowest_of_two(config: RunConfig) -> list[Any]:
    """What a step on CPUs says, then three as on GPUs, where a forward pass takes rank 1 twice as long by our clock."""
    step, clock, seconds = build(config), FakeClock(), 1 + (config.process.rank or 0)

    def pass_time(*_: object) -> None:
        clock.seconds += seconds

    step.chunks[0].register_forward_pre_hook(pass_time)
    step.open_data()
    said = [stats.slowest for stats in step.train(1)]
    step._compares_ranks = True
    with patch("reference_impl.stopwatch.time", SimpleNamespace(perf_counter=clock.now)):
        return [*said, *(stats.slowest for stats in step.train(3))]


def test_a_rank_that_takes_longer_is_the_slowest(tiny: Tiny) -> None:
    """The last step before an evaluation names it, its node, and its ratio; other steps and CPUs report none."""
    for on_cpus, before, between, last in run_ranks(tiny(DGXNGPU=2, MINIBS=2), slowest_of_two):
        assert (on_cpus, before, between) == ((), (), ())
        assert [rank.rank for rank in last] == [1, 0]
        assert [rank.ratio for rank in last] == [2.0, 1.0]
        assert last[0].node == socket.gethostname()


def parameters(config: RunConfig) -> int:
    return sum(p.numel() for chunk in build(config).chunks for p in chunk.parameters())


def test_the_model_has_the_parameters_that_its_size_says(tiny: Tiny) -> None:
    """The engine's parameter count equals the closed formula."""
    config = tiny()

    assert run_ranks(config, parameters) == [config.size.parameters(32_000)]


def learning_rates(config: RunConfig) -> list[float]:
    step = build(config)
    step.open_data()
    rates = []
    for _ in range(config.schedule.max_steps + 2):
        rates.append(step.optimizer.param_groups[0]["lr"])
        step.schedule.step(1)
    return rates


def test_the_learning_rate_is_the_references_at_every_step(tiny: Tiny) -> None:
    """Linear warm-up from peak/(w+1), cosine to the end rate at the last step: NeMo's CosineAnnealing."""
    config = tiny()
    schedule = config.schedule
    peak, end, warmup = schedule.base_learning_rate, schedule.end_learning_rate, schedule.warmup_steps

    def expected(step: int) -> float:
        if step <= warmup:
            return peak * (step + 1) / (warmup + 1)
        fraction = min(1.0, (step - warmup) / schedule.decay_steps)
        return end + (peak - end) * 0.5 * (1 + math.cos(math.pi * fraction))

    rates = run_ranks(config, learning_rates)[0]
    assert rates == pytest.approx([expected(step) for step in range(len(rates))], rel=1e-12)
    assert rates == pytest.approx([schedule.learning_rate(step + 1) for step in range(len(rates))], rel=1e-12)


class Asked(torch.nn.Module):
    """A stage of a pipeline that notes what it is given."""

    def __init__(self, *, first: bool, last: bool) -> None:
        super().__init__()
        self.pre_process, self.post_process = first, last

    def forward(self, tokens: Any, positions: Any, mask: Any, *, labels: Any, loss_mask: Any) -> torch.Tensor:
        self.given = (tokens is not None, labels is not None, loss_mask is not None)
        return torch.zeros(())


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("last", [True, False])
def test_a_stage_is_given_what_it_reads(first: bool, last: bool) -> None:
    """Tokens go to the first one only, labels and mask to the last: a copy each that the others need not wait for.

    Who reads neither takes no microbatch, so that nothing is read for it.
    """
    ones = torch.ones(1, 2)
    batches = iter([Microbatch(tokens=ones, labels=ones, loss_mask=ones)])
    stage = Asked(first=first, last=last)
    _, loss = _forward_step(Stopwatch(), _drawn(batches) if _draws(stage) else None, stage)
    assert stage.given == (first, last, last)
    assert (loss is not None) == last
    assert len(list(batches)) == (0 if first or last else 1)


def left_early(config: RunConfig) -> list[str]:
    """The threads that read ahead after two of three steps, and after whoever took them has gone."""
    step = build(config)
    step.open_data()
    steps = step.train(3)
    next(steps), next(steps)
    during = readers()
    del steps
    return [*during, "-", *readers()]


def test_a_run_that_ends_early_leaves_no_thread(tiny: Tiny) -> None:
    """The thread that reads data ends with the steps that it reads for."""
    assert run_ranks(tiny(), left_early) == [[f"{THREAD}_0", "-"]]


class HostReads(TorchDispatchMode):
    """Counts how often the host asks for a number that a device has computed, for which it waits."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def host_reads(config: RunConfig) -> int:
    """Of the second step."""
    step, batches = build(config), synthetic_batches(config)
    step.train_once(batches)
    with HostReads() as reads:
        step.train_once(batches)
    return reads.count


def test_a_step_reads_as_many_numbers_whatever_its_microbatches_and_chunks(tiny: Tiny) -> None:
    """The host runs ahead of the device from the first microbatch to the norm: it waits for none, and for no chunk."""
    pipeline = {"DGXNGPU": 2, "PIPELINE_MODEL_PARALLEL": 2, "MICRO_BATCH_SIZE": 1}
    few, many = {"MINIBS": 2}, {"MINIBS": 4, "INTERLEAVED_PIPELINE": 2}

    assert run_ranks(tiny(**pipeline, **many), host_reads) == run_ranks(tiny(**pipeline, **few), host_reads)
