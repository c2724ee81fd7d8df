"""Valid logs of each benchmark, made once; every test gets copies of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.config import RunConfig
from tests.compliance.logs import LogFile, llama31_8b, llama31_405b, make_log, reaching, tiny

BASES: dict[str, Callable[[], RunConfig]] = {"tiny": tiny, "405b": llama31_405b, "8b": llama31_8b}


@pytest.fixture(scope="session")
def made_logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("logs")
    made = {}
    for name, configure in BASES.items():
        config = configure()
        made[name] = make_log(folder / name, config, reaching(config))
    return made


@pytest.fixture
def valid(made_logs: dict[str, Path], tmp_path: Path) -> Callable[[str], LogFile]:
    """A copy of the valid log of a benchmark: tiny, 405b or 8b."""

    def copy(name: str) -> LogFile:
        return LogFile(Path(shutil.copy(made_logs[name], tmp_path / "result_0.txt")))

    return copy


@pytest.fixture
def log(valid: Callable[[str], LogFile]) -> LogFile:
    """A valid log of the tiny benchmark."""
    return valid("tiny")
