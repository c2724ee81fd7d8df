"""What all tests share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from benchmark.config import NAMES, RunConfig
from tests.logs import LogFile, llama31_8b, llama31_405b, make_log, reaching, tiny

# No deadline, because the machine may be busy. Derandomised, so that a test fails for the change that broke it.
settings.register_profile("harness", deadline=None, derandomize=True)
settings.load_profile("harness")


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset every variable of the harness, whatever the shell that runs the tests has exported."""
    for name in (*NAMES, "HARNESS_PYTHON"):
        monkeypatch.delenv(name, raising=False)


# Valid logs of each benchmark, made once; every test gets copies of its own.

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


LONGEST = (
    "test_run_and_time.py",
    "test_endurance.py",
    "test_shapes.py",
    "test_job.py",
    "test_killing.py",
    "test_nemo.py",
    "test_checkpoint_training.py",
    "test_configs.py",
    "test_resume.py",
    "test_step.py",
    "test_layouts.py",
    "test_data_prepare.py",
    "test_setup.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, so that none of them is left to one process at the end while another idles."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
