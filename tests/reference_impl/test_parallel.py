"""What ranks exchange, and how they find each other."""

from __future__ import annotations

import platform
import resource
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch.testing._internal.distributed.fake_pg import FakeStore

from benchmark.config import ConfigError, RunConfig
from reference_impl import parallel
from tests.reference_impl.conftest import run_ranks
from tests.reference_impl.test_meta_405b import in_child

Tiny = Callable[..., RunConfig]


def told(config: RunConfig) -> dict[str, Any]:
    """What a rank of two learns of the other."""
    parallel.initialize(config)
    return {
        "gathered": parallel.gather(0.5 + (config.process.rank or 0)),
        "nodes": parallel.nodes(),
        "decided": parallel.on_rank_0(lambda: {"by": config.process.rank}),
    }


def refused(config: RunConfig) -> str:
    """How a rank ends when rank 0 cannot decide."""
    parallel.initialize(config)

    def refuse() -> None:
        raise ConfigError(["no"])

    with pytest.raises((ConfigError, SystemExit)) as caught:
        parallel.on_rank_0(refuse)
    return repr(caught.value)


TENSORS, PAGES = 20, 16 << 10


def faults_of_large_tensors(config: RunConfig) -> int:
    """How many pages the kernel gives for tensors of 64 MiB that are made and freed in turn, once the heap is grown."""
    parallel.initialize(config)
    before = 0
    # In the first round an aligned block may not yet fit the hole that another has left.
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(TENSORS):
            torch.ones(PAGES * 1024)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's mallopt")
def test_memory_that_a_rank_frees_is_used_again(tiny: Tiny) -> None:
    """A tensor's pages are not requested anew each time."""
    assert run_ranks(tiny(), faults_of_large_tensors)[0] < PAGES * TENSORS / 4


def test_every_rank_knows_what_all_ranks_say(tiny: Tiny) -> None:
    """Values and nodes in the order of ranks, and rank 0's decision, are the same on both ranks."""
    expected = {"gathered": [0.5, 1.5], "nodes": [socket.gethostname()] * 2, "decided": {"by": 0}}
    assert run_ranks(tiny(DGXNGPU=2, MINIBS=2), told) == [expected, expected]


def test_what_rank_0_refuses_ends_the_others_without_a_word(tiny: Tiny) -> None:
    """The error is rank 0's alone; the other exits with the status of a run that cannot start."""
    assert run_ranks(tiny(DGXNGPU=2, MINIBS=2), refused) == ["ConfigError('no')", "SystemExit(2)"]


# Which GPU is a rank's own.


@pytest.mark.parametrize(
    ("rank", "local_rank", "visible", "handed", "gpu"),
    [
        (5, 1, 8, "", 1),
        (5, None, 8, "", 1),
        (5, 3, 4, "4,5,6,7", 3),
        (5, 3, 1, "7", 0),
    ],
)
def test_a_rank_uses_the_gpu_of_its_local_rank(
    rank: int, local_rank: int | None, visible: int, handed: str, gpu: int, tiny: Tiny
) -> None:
    """It uses the one that torchrun or srun's adapter numbers, or the single one that a launcher gave it."""
    config = tiny(DGXNGPU=4, DGXNNODES=2, MINIBS=2).changed(RANK=rank, LOCAL_RANK=local_rank)
    assert parallel.gpu_of(config, visible, handed) == gpu


def test_fewer_gpus_than_ranks_are_one_clear_error(tiny: Tiny) -> None:
    """Two ranks never share a GPU, which NCCL would find out minutes later."""
    config = tiny(DGXNGPU=4, MINIBS=2).changed(RANK=3, LOCAL_RANK=3)
    with pytest.raises(ConfigError, match="LOCAL_RANK=3 of DGXNGPU=4 has no GPU: this process sees only 1"):
        parallel.gpu_of(config, 1)


def test_a_rank_on_the_null_device_is_refused(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would train on numbers that nothing computed; only the dry run may use it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3 (null)")
    with pytest.raises(ConfigError, match="is the null device, which counts but computes nothing: only `llama31 dryr"):
        parallel.initialize(tiny())


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"MASTER_PORT": 29500}, "MASTER_ADDR= MASTER_PORT=29500: expected both"),
        (
            {"MASTER_ADDR": "no-such-host.invalid", "MASTER_PORT": 29500},
            "no-such-host.invalid cannot be resolved",
        ),
    ],
)
def test_ranks_that_cannot_meet_are_refused(tiny: Tiny, variables: dict[str, object], said: str) -> None:
    """Started by hand, they fail at once, not after half an hour."""
    with pytest.raises(ConfigError, match=said):
        parallel.initialize(tiny(RANK=0, WORLD_SIZE=1, **variables))


# Groups that nobody uses.


def second_groups(config: RunConfig) -> list[str]:
    """Backends of those that Megatron-Core can have beside each data-parallel one."""
    parallel.initialize(config)
    found: list[str] = []
    for with_context_parallel in (False, True):
        with suppress(AssertionError):
            found.append(dist.get_backend(parallel_state.get_data_parallel_group_gloo(with_context_parallel)))
    return found


def test_no_group_is_made_twice(tiny: Tiny) -> None:
    """On GPUs, second groups would connect thousands of ranks by TCP for nothing."""
    assert run_ranks(tiny(DGXNGPU=2, MINIBS=2), second_groups) == [[], []]


# Which ranks are neighbours.


def places(config: RunConfig) -> list[tuple[int, int, int]]:
    """Of each rank its pipeline stage, as Megatron-Core has it and as the layout says, and its copy of the model."""
    found = []
    for rank in range(config.layout.world_size):
        dist.init_process_group("fake", rank=rank, world_size=config.layout.world_size, store=FakeStore())
        parallel.initialize(config)
        stage = parallel_state.get_pipeline_model_parallel_rank()
        found.append((stage, config.layout.stage_of(rank), parallel_state.get_data_parallel_rank()))
        parallel.shut_down()
    return found


@pytest.mark.parametrize(
    ("mapping", "stages", "copies"),
    [
        (0, [0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0, 1, 1]),
        (1, [0, 0, 1, 1, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1]),
    ],
)
def test_the_stages_of_a_copy_may_be_neighbours(mapping: int, stages: list[int], copies: list[int], tiny: Tiny) -> None:
    """With TP_PP_DP_MAPPING the ranks of a copy of the model are neighbours, otherwise those of a stage."""
    layout = {"DGXNGPU": 8, "PIPELINE_MODEL_PARALLEL": 2, "CONTEXT_PARALLEL": 2, "MICRO_BATCH_SIZE": 1}
    config = tiny(**layout, TP_PP_DP_MAPPING=mapping)
    found = in_child(places, config)
    assert [place[0] for place in found] == [place[1] for place in found] == stages
    assert [place[2] for place in found] == copies
