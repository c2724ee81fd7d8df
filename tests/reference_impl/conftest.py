"""Ranks for tests: forked after one import, so that a two-rank test takes a second."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from benchmark.config import RunConfig
from reference_impl.data.prepare import built_in
from reference_impl.tokenizer import Tokenizer, benchmark_tokenizer

TIMEOUT_S = 180


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
    """Makes a configuration of the tiny model at global batch size 8, changed by the variables given."""

    def make(**variables: object) -> RunConfig:
        defaults = {
            "BENCHMARK": "llama31_tiny",
            "DGXSYSTEM": "test",
            "DGXNNODES": 1,
            "DGXNGPU": 1,
            "MINIBS": 8,
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


def run_ranks(config: RunConfig, work: Callable[[RunConfig], Any]) -> list[Any]:
    """What `work` returns on each rank of the configuration, each a forked process."""
    with TemporaryDirectory(prefix="ranks_") as folder:
        return _run_ranks(config.model_copy(update={"rendezvous_file": Path(folder, "rendezvous")}), work)


def _run_ranks(config: RunConfig, work: Callable[[RunConfig], Any]) -> list[Any]:
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(config.world_size)]
    ranks = [
        # No daemons: saving a checkpoint starts processes. They are ended below, whatever happens.
        context.Process(target=_as_rank, args=(rank, config, work, send))
        for rank, (_, send) in enumerate(pipes)
    ]
    for process in ranks:
        process.start()
    try:
        answers = [receive.recv() if receive.poll(TIMEOUT_S) else ("error", "no answer") for receive, _ in pipes]
    finally:
        for process in ranks:
            process.join(timeout=5)
            process.kill()
    errors = [answer for kind, answer in answers if kind == "error"]
    assert not errors, "\n".join(errors)
    return [answer for _, answer in answers]


def _as_rank(rank: int, config: RunConfig, work: Callable[[RunConfig], Any], send: Any) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ.update(LOCAL_RANK=str(rank), GLOO_SOCKET_IFNAME="lo", NCCL_SOCKET_IFNAME="lo")
    try:
        send.send(("answer", work(config.model_copy(update={"rank": rank}))))
    except BaseException:  # noqa: BLE001 - whatever a rank dies of is the test's answer
        send.send(("error", traceback.format_exc()))
