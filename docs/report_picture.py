"""Draws the page of a rehearsed result as Chromium shows it: python -m docs.report_picture docs/report.png"""

import sys
import tempfile
from pathlib import Path

from tests.compliance.launches import launch, llama31_405b

from report.write import render
from tests.browser import browser, find_browser

SYSTEM = "DGXH100_64x8"
SHAPE: dict[str, str | int] = {
    "DGXSYSTEM": SYSTEM,
    "DGXNNODES": 64,
    "DGXNGPU": 8,
    "MINIBS": 288,
    "TENSOR_MODEL_PARALLEL": 8,
    "PIPELINE_MODEL_PARALLEL": 8,
    "CONTEXT_PARALLEL": 2,
    "PRECISION": "fp8",
}
STEP_SECONDS = 55.1
"""The median of the published v5.0 result on as many GPUs."""

HEIGHT = 1180
"""Pixels of the page that are shown, from its top."""


def main(out: Path) -> None:
    program = find_browser()
    if program is None:
        sys.exit("no Chromium; as root: bash tests/install_browser.sh")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        runs = launch(folder / "rehearsal" / SYSTEM, llama31_405b(**SHAPE), step_seconds=STEP_SECONDS)
        page = folder / "report.html"
        page.write_text(render([runs]), encoding="utf-8")
        with browser(program, folder / "profile") as tab:
            tab.open(page, width=1280)
            tab.picture(out, height=HEIGHT)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
