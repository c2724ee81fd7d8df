"""Makes the documentation's pictures: python -m docs.pictures [--run]

docs/report.png shows the page of a rehearsed result in Chromium, docs/plan.svg the plan at the top of docs/plan.md.
With --run it also makes docs/run_and_time.svg, the output of the tiny benchmark, which takes minutes.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmark.checkout import ROOT
from docs.terminal_picture import picture
from report.write import render
from tests.browser import browser, find_browser
from tests.launches import launch, llama31_405b

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

HEIGHT = 1235
"""Pixels of the page that are shown, from its top."""

DRAWN = f"""(async () => {{
  const shown = [...document.querySelectorAll('figure')].filter(one => one.getBoundingClientRect().top < {HEIGHT});
  while (shown.some(one => !one.classList.contains('drawn'))) await new Promise(done => setTimeout(done, 20));
}})()"""
"""Waits until every chart that is shown is drawn."""

DOCS = ROOT / "docs"
PLANNED = "configs/config_GB200_128x4x144xtp4pp8cp2.sh"


def report() -> None:
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
            tab.evaluate(DRAWN)
            tab.picture(DOCS / "report.png", height=HEIGHT)


def plan() -> None:
    arguments = ["plan", "layout", PLANNED, "--precision", "nvfp4", "--picture", str(DOCS / "plan.svg")]
    subprocess.run([sys.executable, "-m", "harness", *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def run() -> None:
    command = ["bash", "run_and_time.sh"]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    printed = done.stdout.replace(str(ROOT), "~/llama31")
    (DOCS / "run_and_time.svg").write_text(picture(" ".join(command), printed), encoding="utf-8")


if __name__ == "__main__":
    report()
    plan()
    if "--run" in sys.argv[1:]:
        run()
