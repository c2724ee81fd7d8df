"""The environment of the null device."""

from __future__ import annotations

import pytest

from tests.environments import interpreter_of


@pytest.fixture(scope="session")
def null_python() -> str:
    return interpreter_of("--null-gpu", ".venv-null", "2.6 GB")
