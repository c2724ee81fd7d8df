"""What ranks tell each other."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from benchmark.config import ConfigError, RunConfig
from reference_impl import parallel
from tests.reference_impl.conftest import run_ranks

Tiny = Callable[..., RunConfig]


def told(config: RunConfig) -> dict[str, Any]:
    """What a rank of two learns of the other."""
    parallel.initialize(config)
    return {
        "gathered": parallel.gather(0.5 + (config.rank or 0)),
        "nodes": parallel.nodes(),
        "decided": parallel.on_rank_0(lambda: {"by": config.rank}),
    }


def refused(config: RunConfig) -> str:
    """How a rank ends when rank 0 cannot decide."""
    parallel.initialize(config)

    def refuse() -> None:
        raise ConfigError(["no"])

    with pytest.raises((ConfigError, SystemExit)) as caught:
        parallel.on_rank_0(refuse)
    return repr(caught.value)


def test_every_rank_knows_what_all_ranks_say(tiny: Tiny) -> None:
    """Values and nodes in the order of ranks, and the decision of rank 0, the same on both."""
    expected = {"gathered": [0.5, 1.5], "nodes": [socket.gethostname()] * 2, "decided": {"by": 0}}
    assert run_ranks(tiny(DGXNGPU=2, MINIBS=8), told) == [expected, expected]


def test_what_rank_0_refuses_ends_the_others_without_a_word(tiny: Tiny) -> None:
    """The error is rank 0's alone; the other exits with the status of a run that cannot start."""
    assert run_ranks(tiny(DGXNGPU=2, MINIBS=8), refused) == ["ConfigError('no')", "SystemExit(2)"]
