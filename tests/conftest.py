"""What all tests share."""

from __future__ import annotations

import pytest
from hypothesis import settings

from benchmark.config import NAMES

# No deadline, because the machine may be busy. Derandomised, so that a test fails for the change that broke it.
settings.register_profile("harness", deadline=None, derandomize=True)
settings.load_profile("harness")


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the harness is set, whatever the shell exported that runs the tests."""
    for name in (*NAMES, "HARNESS_PYTHON"):
        monkeypatch.delenv(name, raising=False)


LONGEST = (
    "test_run_and_time.py",
    "test_job.py",
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
    """The longest files come first, so that none of them is left to one process at the end while another idles."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
