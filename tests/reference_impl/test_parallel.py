"""What ranks tell each other."""

from __future__ import annotations

import platform
import resource
import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmark.config import ConfigError, RunConfig
from reference_impl import parallel
from tests.reference_impl.conftest import run_ranks

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
    """A tensor's pages are not asked for anew each time."""
    assert run_ranks(tiny(), faults_of_large_tensors)[0] < PAGES * TENSORS / 4


def test_every_rank_knows_what_all_ranks_say(tiny: Tiny) -> None:
    """Values and nodes in the order of ranks, and the decision of rank 0, the same on both."""
    expected = {"gathered": [0.5, 1.5], "nodes": [socket.gethostname()] * 2, "decided": {"by": 0}}
    assert run_ranks(tiny(DGXNGPU=2, MINIBS=2), told) == [expected, expected]


def test_what_rank_0_refuses_ends_the_others_without_a_word(tiny: Tiny) -> None:
    """The error is rank 0's alone; the other exits with the status of a run that cannot start."""
    assert run_ranks(tiny(DGXNGPU=2, MINIBS=2), refused) == ["ConfigError('no')", "SystemExit(2)"]
