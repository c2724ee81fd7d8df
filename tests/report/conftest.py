"""Pages without charts for all tests but those of what is drawn."""

from __future__ import annotations

import pytest

from report import vega

DRAWS = vega.available()


@pytest.fixture(scope="module")
def drawing() -> None:
    """For tests of what is drawn."""
    if not DRAWS:
        pytest.skip(f"draws charts: {vega.EXTRA}")


@pytest.fixture(autouse=True)
def _without_charts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts take a second, so that other tests have pages without."""
    if "drawing" not in request.fixturenames:
        monkeypatch.setattr(vega, "available", lambda: False)
