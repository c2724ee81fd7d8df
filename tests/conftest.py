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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that none of them is left to one process at the end while another idles."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
