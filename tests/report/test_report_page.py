"""The page as a browser shows it: charts, numbers, names, contrast, on every screen; see tests/install_browser.sh."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.__main__ import main
from report.telemetry import OF_GPUS, OF_NODE
from tests.browser import Page, browser, find_browser
from tests.compliance.test_against_official import PUBLISHED
from tests.launches import launch
from tests.logs import tiny
from tests.report.test_report_telemetry import write_samples

PROGRAM = find_browser()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium; as root: bash tests/install_browser.sh"),
]

SYSTEMS = ("theia_ngpu512_ngc25.09_nemo", "tyche_ngpu512_ngc25.09_nemo", "hsg_ngpu2560_ngc25.09_nemo")
CHARTS = 6
CHARTS_OF_NODES = len((*OF_GPUS, *OF_NODE))
WIDTHS = (1280, 390)
PAPER = 718
"""Pixels of an A4 page between its margins, at the 96 to an inch that CSS has."""

CONTRAST = """(() => {
  const channel = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r / 255) + 0.7152 * channel(g / 255) + 0.0722 * channel(b / 255);
  const numbers = colour => colour.match(/[0-9.]+/g).map(Number);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = numbers(getComputedStyle(element).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const ratio = (one, two) => {
    const [low, high] = [light(one), light(two)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const found = {text: [], mark: []};
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement, name = element.tagName.toLowerCase();
    if (!node.data.trim() || name === 'title' || name === 'desc') continue;
    const style = getComputedStyle(element);
    found.text.push([ratio(numbers(name === 'text' ? style.fill : style.color), behind(element)), node.data]);
  }
  for (const element of document.querySelectorAll('.line, .mark, .bar')) {
    const style = getComputedStyle(element);
    const colour = style.fill === 'none' ? style.stroke : style.fill;
    found.mark.push([ratio(numbers(colour), behind(element)), element.getAttribute('class')]);
  }
  return Object.fromEntries(Object.entries(found).map(([name, all]) => [name, all.sort((a, b) => a[0] - b[0])[0]]));
})()"""
"""The lowest contrast of a text and of a mark with what is behind it, as WCAG 2.2 defines it, and where it is."""

DRAWN = """[...document.querySelectorAll('svg.chart')].map(chart => {
  const frame = chart.getBoundingClientRect();
  const marks = [...chart.querySelectorAll('.line, .mark, .bar, .column')];
  const size = mark => { const box = mark.getBoundingClientRect(); return box.width + box.height; };
  return {
    width: frame.width, height: frame.height,
    marks: marks.filter(mark => size(mark) > 1).length,
    outside: [...chart.querySelectorAll('text')].filter(text => {
      const box = text.getBoundingClientRect();
      return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
    }).map(text => text.textContent),
  };
})"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert PROGRAM is not None
    with browser(PROGRAM, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


def paths_of(name: str, folder: Path) -> list[str]:
    """What each report is of."""
    if name == "tiny":
        runs = launch(folder / "runs", tiny())
        for node in ("n1", "n2"):
            write_samples(runs / "result_0.txt", node)
        return [str(runs)]
    if not PUBLISHED.is_dir():
        pytest.skip("the published logs are not beside this checkout")
    results = PUBLISHED / "v5.1" / "NVIDIA" / "results"
    chosen = SYSTEMS[:1] if name == "published" else SYSTEMS
    return [str(results / system) for system in chosen]


@pytest.fixture(scope="module", params=["tiny", "published", "compared"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A report, and what the commands are to be asked for the same results."""
    folder = tmp_path_factory.mktemp("report")
    arguments = paths_of(request.param, folder)
    if request.param != "tiny":
        arguments += ["--ruleset", "5.1.0"]
    file = folder / "report.html"
    extra = ["--published", str(PUBLISHED / "v5.1")] if request.param == "compared" else []
    done = CliRunner().invoke(main, ["report", *arguments, *extra, "-o", str(file)])
    assert done.exit_code == 0, done.output
    return file, arguments


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_page_is_whole_and_legible(page: Page, report: tuple[Path, list[str]], width: int, dark: bool) -> None:
    """No complaint of the browser, nothing fetched, charts with marks inside their frames, and contrast."""
    file, arguments = report
    page.complaints.clear()
    page.requests.clear()
    page.open(file, width=width, dark=dark)
    assert page.complaints == []
    assert set(page.requests) == {file.resolve().as_uri()}
    charts: list[dict[str, Any]] = page.evaluate(DRAWN)
    more = {1: CHARTS_OF_NODES, len(SYSTEMS) + 2: 1}
    assert len(charts) == CHARTS + more.get(len(arguments), 0)
    for chart in charts:
        assert chart["marks"] > 0
        assert chart["width"] > 250
        assert chart["outside"] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    contrast = page.evaluate(CONTRAST)
    assert contrast["text"][0] >= 4.5, contrast
    assert contrast["mark"][0] >= 3.0, contrast


def test_numbers_are_those_of_score(page: Page, report: tuple[Path, list[str]]) -> None:
    """Every score of the page is `compliance score --json`'s, to the last digit."""
    file, arguments = report
    page.open(file, width=1280)
    scores = json.loads(CliRunner().invoke(main, ["score", "--json", *arguments]).output)["results"]
    rows = page.evaluate(
        "[...document.querySelector('table').tBodies[0].rows].map(row => "
        "[2, 3, 4].map(cell => row.cells[cell].querySelector('data')?.value ?? null))"
    )
    expected = [[one["normalised_minutes"], one["olympic_minutes"], one["factor"]] for one in scores]
    assert [[None if value is None else float(value) for value in row] for row in rows] == expected
    minutes = page.evaluate(
        "[...document.querySelectorAll('section')].map(one => [...one.querySelector('table')"
        ".tBodies[0].rows].map(row => row.cells[3].querySelector('data')?.value ?? null))"
    )
    assert [[float(value) for value in run] for run in minutes] == [one["minutes"] for one in scores]


def test_everything_has_a_name(page: Page, report: tuple[Path, list[str]]) -> None:
    """A screen reader is told what each chart and each table is, and the headings go down one level at a time."""
    file, _ = report
    page.open(file, width=1280)
    images, tables = page.names("image") + page.names("img"), page.names("table")
    assert len(images) >= CHARTS
    assert all(len(name) > 20 for name in images), images
    assert tables
    assert all(tables)
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(one => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.evaluate("document.documentElement.lang") == "en"


def test_prints_on_paper(page: Page, report: tuple[Path, list[str]]) -> None:
    """On paper the colours are those of the light page, whatever the screen has, and no table is too wide."""
    file, _ = report
    page.open(file, width=PAPER, dark=True, media="print")
    wide = "[...document.querySelectorAll('table')].filter(one => one.offsetWidth > one.parentElement.clientWidth + 1)"
    assert page.evaluate(f"{wide}.map(one => one.ariaLabel)") == []
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    contrast = page.evaluate(CONTRAST)
    assert contrast["text"][0] >= 4.5, contrast
    assert page.pdf().startswith(b"%PDF")
