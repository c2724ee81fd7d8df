"""Gives pages without charts to all tests except those of drawing."""

from __future__ import annotations

import pytest

from report import vega

DRAWS = vega.available()


@pytest.fixture(scope="module")
def drawing() -> None:
    """Let a test draw charts."""
    if not DRAWS:
        pytest.skip(f"draws charts: {vega.EXTRA}")


@pytest.fixture(autouse=True)
def _without_charts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave charts out of other tests' pages: they take a second."""
    if "drawing" not in request.fixturenames:
        monkeypatch.setattr(vega, "available", lambda: False)
