"""Ranks for tests: forked after one import, so that a two-rank test takes a second; waited for as long as they work."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from benchmark.config import RunConfig
from reference_impl.data.prepare import built_in
from reference_impl.tokenizer import Tokenizer, benchmark_tokenizer
from tests.waiting import STILL_S, Progress


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer(benchmark_tokenizer())


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """The built-in corpus, prepared once."""
    folder = tmp_path_factory.mktemp("data") / "tiny"
    built_in.prepare(folder, tokenizer)
    return folder


@pytest.fixture(scope="session")
def make_tiny(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunConfig]:
    """Makes a configuration of the tiny model at global batch size 4, changed by the variables given."""

    def make(**variables: object) -> RunConfig:
        defaults = {
            "BENCHMARK": "llama31_tiny",
            "DGXSYSTEM": "test",
            "DGXNNODES": 1,
            "DGXNGPU": 1,
            "MINIBS": 4,
            "MICRO_BATCH_SIZE": 2,
            "PRECISION": "fp32",
            "SEED": 7,
            "DATADIR": data_dir,
            "NPY_INDEX_DIR": tmp_path_factory.getbasetemp() / "index",
        }
        return RunConfig.from_environment({name: str(value) for name, value in {**defaults, **variables}.items()})

    return make


@pytest.fixture
def tiny(make_tiny: Callable[..., RunConfig], tmp_path: Path) -> Callable[..., RunConfig]:
    """The same, with an index of the test's own."""
    return lambda **variables: make_tiny(**{"NPY_INDEX_DIR": tmp_path / "index", **variables})


def start_ranks(config: RunConfig, work: Callable[[RunConfig], Any], meeting: Path) -> dict[Connection, ForkProcess]:
    """A forked process for each rank, in their order, by where it sends what `work` returns; they meet in a file.

    No daemons: saving a checkpoint starts processes. Whoever starts ranks ends them.
    """
    context, together = multiprocessing.get_context("fork"), config.changed(RENDEZVOUS_FILE=meeting)
    ranks = {}
    for rank in range(config.layout.world_size):
        receive, send = context.Pipe(duplex=False)
        ranks[receive] = context.Process(target=_as_rank, args=(rank, together, work, send))
    for process in ranks.values():
        process.start()
    return ranks


def run_ranks(config: RunConfig, work: Callable[[RunConfig], Any]) -> list[Any]:
    """What `work` returns on each rank of the configuration. The first rank that fails, or dies, ends the others."""
    with TemporaryDirectory(prefix="ranks_") as folder:
        return _run_ranks(start_ranks(config, work, Path(folder, "rendezvous")))


def _run_ranks(ranks: dict[Connection, ForkProcess]) -> list[Any]:
    try:
        answers = _answers(ranks)
    except BaseException:
        for process in ranks.values():
            process.kill()
        raise
    finally:
        # Who has answered ends by itself, with what it has started.
        for process in ranks.values():
            process.join()
    return answers


def _answers(ranks: dict[Connection, ForkProcess]) -> list[Any]:
    progress = Progress([pid for process in ranks.values() if (pid := process.pid) is not None])
    answers: dict[Connection, Any] = {}
    while pending := {receive: process for receive, process in ranks.items() if receive not in answers}:
        wait([*pending, *(process.sentinel for process in pending.values())], timeout=1)
        for rank, (receive, process) in enumerate(ranks.items()):
            # In this order: a rank may answer and end.
            alive = process.is_alive()
            if receive in pending and receive.poll():
                kind, answers[receive] = receive.recv()
                assert kind == "answer", answers[receive]
            elif receive in pending:
                assert alive, f"rank {rank} ended with status {process.exitcode} and no answer"
        assert not progress.stands_still(), f"no rank has worked for {STILL_S:.0f} s"
    return [answers[receive] for receive in ranks]


def _as_rank(rank: int, config: RunConfig, work: Callable[[RunConfig], Any], send: Any) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ.update(LOCAL_RANK=str(rank))
    try:
        send.send(("answer", work(config.changed(RANK=rank))))
    except BaseException:  # noqa: BLE001 - whatever a rank dies of is the test's answer
        send.send(("error", traceback.format_exc()))
