"""Draw charts with vl-convert: the script of the page, and still pictures without a browser.

vl-convert holds a JavaScript engine of 150 MB, so it runs in processes of its own: their memory is freed, and a crash
is an error. Run as a file, this module is such a process: it reads descriptions as JSON, and writes pictures or the
script.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmark.errors import HarnessError
from benchmark.files import write_at_once

EXTRA = "pip install 'mlperf-llama31[report]'"
"""The command that installs the libraries that draw."""

WIDTH, WIDE = 460, 940
"""Pixels of a still picture."""

MOST_AT_ONCE = 400_000
"""Most characters of descriptions for one process: it frees no memory between pictures, and this many take 170 MB."""

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif'


class NotDrawnError(HarnessError):
    """The engine failed; the message is its last line."""


def available() -> bool:
    """Return whether the extra is installed."""
    return find_spec("altair") is not None and find_spec("vl_convert") is not None


def theme(*, dark: bool, background: str | None = None) -> dict[str, Any]:
    """Return the colours and fonts of a chart, as Vega-Lite's config."""
    text, quiet, rule = ("#e8eaed", "#a9b1bb", "#3a414b") if dark else ("#1b1f24", "#565d66", "#d3d7dd")
    return {
        "background": background,
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            "labelColor": text,
            "titleColor": text,
            "gridColor": rule,
            "domainColor": quiet,
            "tickColor": quiet,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "titlePadding": 8,
        },
        # Fewer and shorter than Vega's own, which touch one another.
        "axisXQuantitative": {"tickCount": {"expr": "ceil(width / 70)"}, "labelSeparation": 8},
        "header": {"labelColor": text, "labelFontSize": 12},
        "legend": {"labelColor": text, "titleColor": text, "labelFontSize": 12},
        "title": {"color": text, "fontSize": 13, "anchor": "start"},
        "text": {"color": text},
    }


def still(spec: Mapping[str, Any], width: int = WIDTH) -> dict[str, Any]:
    """Return a description for a still picture of a width."""
    size = {"width": width} if spec.get("width") == "container" else {}
    # The picture's place in the page has its name; names of each mark would be half of the picture.
    return {**spec, **size, "config": {**theme(dark=False, background="white"), "aria": False}}


def draw(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the still pictures of some descriptions, as SVG.

    Raises:
        NotDrawnError: the engine cannot draw one.
    """
    asked = [json.dumps(spec, allow_nan=False) for spec in specs]
    # Two at a time: each process takes 150 MB.
    with ThreadPoolExecutor(max_workers=2) as pool:
        answers = list(pool.map(_ask, (f"[{','.join(some)}]" for some in _batches(asked))))
    return [picture for answer in answers for picture in json.loads(answer)]


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the texts in lists of at most MOST_AT_ONCE characters, or of one text."""
    batch: list[str] = []
    for text in texts:
        if batch and sum(map(len, batch)) + len(text) > MOST_AT_ONCE:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


def script() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as a script, which defines `vegaEmbed`.

    Putting them together takes two seconds, so a virtual environment keeps a copy.

    Raises:
        NotDrawnError: the engine cannot put it together.
    """
    kept = Path(sys.prefix, "share", "mlperf-llama31", f"vega-{version('vl-convert-python')}.js")
    if kept.is_file():
        return kept.read_text(encoding="utf-8")
    made = _ask("")
    if sys.prefix != sys.base_prefix and os.access(sys.prefix, os.W_OK):
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_at_once(kept, made)
    return made


def _ask(text: str) -> str:
    # Not by its package's name, which need not be on the path of a bare interpreter; -P keeps this folder off it.
    done = subprocess.run([sys.executable, "-P", __file__], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotDrawnError((done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1])
    return done.stdout


def _main() -> None:
    import vl_convert

    asked = sys.stdin.read()
    if asked:
        json.dump([vl_convert.vegalite_to_svg(spec) for spec in json.loads(asked)], sys.stdout)
    else:
        sys.stdout.write(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


if __name__ == "__main__":
    _main()
