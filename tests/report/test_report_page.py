"""Tests of the page in a real browser, at two widths, light and dark, printed; see tests/install_browser.sh."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import time
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
    pytest.mark.usefixtures("drawing"),
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium; as root: bash tests/install_browser.sh"),
]

SYSTEMS = (
    "theia_ngpu512_ngc25.09_nemo",
    "tyche_ngpu512_ngc25.09_nemo",
    "hsg_ngpu2560_ngc25.09_nemo",
    "hsg_ngpu5120_ngc25.09_nemo",
)
CHARTS = 6
OVER_RUN = ("Evaluations", "Training loss", "Step time over the run")
AXE = "axe-core@4.14.1"
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
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement, name = element.tagName.toLowerCase();
    if (!node.data.trim() || name === 'script') continue;
    found.push([ratio(numbers(getComputedStyle(element).color), behind(element)), node.data]);
  }
  return found.sort((a, b) => a[0] - b[0])[0];
})()"""
"""The lowest contrast of a text with what is behind it, as WCAG 2.2 defines it, and the text."""

SETTLED = """(async () => {
  const figures = () => [...document.querySelectorAll('figure')].filter(one => one.checkVisibility());
  for (const figure of figures()) {
    figure.scrollIntoView();
    while (!figure.classList.contains('drawn')) await new Promise(done => setTimeout(done, 20));
  }
  scrollTo(0, 0);
  await new Promise(done => setTimeout(done, 50));
  return figures().map(figure => {
    const canvas = figure.querySelector('canvas');
    return {title: figure.querySelector('strong').textContent, width: canvas.clientWidth, room: figure.clientWidth};
  });
})()"""
"""Scrolls through the page until every chart is drawn; their titles and widths."""

PICTURES = """(async () => {
  await new Promise(done => setTimeout(done, 400));
  return [...document.querySelectorAll('figure.drawn')].map(one => [
    one.querySelector('strong').textContent, one.querySelector('canvas').toDataURL()]);
})()"""
"""What each chart shows now."""


LOSS_BOX = """(() => {
  const figures = [...document.querySelectorAll('figure')];
  const canvas = figures.find(one => one.textContent.includes('Training loss')).querySelector('canvas');
  canvas.scrollIntoView({block: 'center'});
  const box = canvas.getBoundingClientRect();
  return [box.left, box.top, box.width, box.height];
})()"""
"""Left, top, width and height of the chart of the loss, on the screen."""


def pictures(page: Page) -> dict[str, str]:
    return dict(page.evaluate(PICTURES))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert PROGRAM is not None
    with browser(PROGRAM, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


def paths_of(name: str, folder: Path) -> list[str]:
    """Return the paths of a report's results."""
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
    """A report, and the arguments that name the same results to other commands."""
    folder = tmp_path_factory.mktemp("report")
    arguments = paths_of(request.param, folder)
    if request.param != "tiny":
        arguments += ["--ruleset", "5.1.0"]
    file = folder / "report.html"
    extra = ["--published", str(PUBLISHED / "v5.1")] if request.param == "compared" else []
    done = CliRunner().invoke(main, ["report", *arguments, *extra, "-o", str(file)])
    assert done.exit_code == 0, done.output
    return file, arguments


def await_pictures(page: Page) -> list[str]:
    """Return the names of the charts for a screen reader; the browser builds them with a delay."""
    for _ in range(100):
        found = [name for name in page.names("image") if len(name) > 20]
        if len(found) >= CHARTS:
            break
        time.sleep(0.05)
    assert len(found) >= CHARTS, found
    return found


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_page_is_whole_and_legible(page: Page, report: tuple[Path, list[str]], width: int, dark: bool) -> None:
    """The browser reports nothing and fetches nothing; charts fit their frames; every text has enough contrast."""
    file, arguments = report
    page.complaints.clear()
    page.requests.clear()
    page.open(file, width=width, dark=dark)
    charts: list[dict[str, Any]] = page.evaluate(SETTLED)
    assert page.complaints == []
    assert {one for one in page.requests if not one.startswith("data:")} == {file.resolve().as_uri()}
    more = {1: CHARTS_OF_NODES, len(SYSTEMS) + 2: 1}
    assert len(charts) == CHARTS + more.get(len(arguments), 0)
    for chart in charts:
        assert 200 < chart["width"] <= chart["room"], chart
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    contrast = page.evaluate(CONTRAST)
    assert contrast[0] >= 4.5, contrast
    assert file.stat().st_size < 4 << 20


def test_runs_are_switched_off_in_all_charts(page: Page, report: tuple[Path, list[str]]) -> None:
    """Switching a run off changes every chart over the run; switching it on changes them back."""
    file, _ = report
    page.open(file, width=1280)
    page.evaluate(SETTLED)
    before = pictures(page)
    box = "document.querySelector('.switches input')"
    page.evaluate(f"{box}.click()")
    during = pictures(page)
    assert all(during[title] != before[title] for title in OVER_RUN)
    page.evaluate(f"{box}.click()")
    after = pictures(page)
    assert all(after[title] != during[title] for title in OVER_RUN)


def test_zoom_is_linked(page: Page, report: tuple[Path, list[str]]) -> None:
    """A drag over one chart zooms all charts over the run; so do the buttons, and one shows the whole run again."""
    file, _ = report
    page.open(file, width=1280)
    page.evaluate(SETTLED)
    before = pictures(page)
    place = page.evaluate(LOSS_BOX)
    x, y = place[0] + 0.4 * place[2], place[1] + 0.4 * place[3]
    for kind, at in (("mouseMoved", x), ("mousePressed", x), ("mouseMoved", x + 100), ("mouseReleased", x + 100)):
        page.call("Input.dispatchMouseEvent", type=kind, x=at, y=y, button="left", buttons=1, clickCount=1)
    dragged = pictures(page)
    assert dragged["Training loss"] != before["Training loss"]
    assert dragged["Step time over the run"] != before["Step time over the run"]
    page.evaluate("document.querySelector('[data-zoom=whole]').click()")
    assert pictures(page) == before
    page.evaluate("document.querySelector('[data-zoom=in]').click()")
    assert pictures(page)["Training loss"] != before["Training loss"]
    assert page.complaints == []


def test_pointing_at_a_line_shows_its_values(page: Page, report: tuple[Path, list[str]]) -> None:
    """A pointer that crosses the losses shows the run, the loss and the place of a point."""
    file, _ = report
    page.open(file, width=1280)
    page.evaluate(SETTLED)
    left, top, width, height = page.evaluate(LOSS_BOX)
    tip = "document.querySelector('#vg-tooltip-element.visible')?.textContent ?? ''"
    shown: list[str] = []
    for y in range(int(top) + 5, int(top + height) - 40, 3):
        page.call("Input.dispatchMouseEvent", type="mouseMoved", x=left + width / 2, y=y)
        if not shown:
            # The points are made once the pointer is there.
            page.evaluate("new Promise(done => setTimeout(done, 300))")
        shown.append(page.evaluate(tip))
    assert any(all(name in text for name in ("run", "value", "samples", "minutes")) for text in shown), shown


@pytest.mark.parametrize(("id_", "value"), [("axis", "minutes"), ("axis", "steps"), ("scale", "log")])
def test_axes_are_chosen(page: Page, report: tuple[Path, list[str]], id_: str, value: str) -> None:
    """Minutes or steps instead of samples, or a logarithmic y, redraw every chart over the run."""
    file, _ = report
    page.open(file, width=1280)
    page.evaluate(SETTLED)
    before = pictures(page)
    page.evaluate(
        f"(one => {{ one.value = '{value}'; one.dispatchEvent(new Event('change')) }})"
        f"(document.getElementById('{id_}'))"
    )
    after = pictures(page)
    assert all(after[title] != before[title] for title in OVER_RUN)
    assert page.complaints == []


def test_table_is_sorted_and_filtered(page: Page, report: tuple[Path, list[str]]) -> None:
    """A click on a head sorts, up and down; the filter keeps the rows that match. A table of one row has no buttons."""
    file, _ = report
    page.open(file, width=1280)
    column = (
        "[...document.querySelector('table').tBodies[0].rows].filter(row => !row.hidden)"
        ".map(row => Number(row.cells[2].querySelector('data')?.value))"
    )
    head = "document.querySelector('table').tHead.rows[0].cells[2].querySelector('button')"
    values = page.evaluate(column)
    if len(values) == 1:
        assert page.evaluate(f"{head} === null")
        return
    page.evaluate(f"{head}.click()")
    assert page.evaluate(column) == sorted(values)
    page.evaluate(f"{head}.click()")
    assert page.evaluate(column) == sorted(values, reverse=True)
    assert page.evaluate("document.querySelector('table').tHead.rows[0].cells[2].ariaSort") == "descending"
    if len(values) > 3:
        page.evaluate(
            "(one => { one.value = 'GB300 gpus>=512'; one.dispatchEvent(new Event('input')) })"
            "(document.querySelector('.filter input'))"
        )
        assert len(page.evaluate(column)) == 1
        assert page.evaluate("document.querySelector('.filter output').textContent") == f"1 of {len(values)}"


def test_keyboard_reaches_everything(page: Page, report: tuple[Path, list[str]]) -> None:
    """Tab reaches every link, button, box and scrolled table, in the order of the page."""
    file, _ = report
    page.open(file, width=1280)
    page.evaluate(SETTLED)
    marked = page.evaluate(
        "(all => { all.forEach((one, place) => one.dataset.place = place); return all.length })([...document."
        "querySelectorAll('a[href], button, input, select, summary, [tabindex=\"0\"]')]"
        ".filter(one => one.checkVisibility()))"
    )
    reached = []
    for _ in range(marked):
        for kind in ("keyDown", "keyUp"):
            page.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        reached.append(int(page.evaluate("document.activeElement.dataset.place ?? -1")))
    assert reached == list(range(marked))


def test_a_saved_page_opens_without_a_network(page: Page, report: tuple[Path, list[str]], tmp_path: Path) -> None:
    """A copy elsewhere, with the network cut off, draws every chart."""
    file, _ = report
    copy = tmp_path / "saved.html"
    copy.write_bytes(file.read_bytes())
    page.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
    try:
        page.open(copy, width=1280)
        assert page.evaluate(SETTLED)
    finally:
        page.call(
            "Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )
    assert page.complaints == []


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core, from npm."""
    if shutil.which("npm") is None:
        pytest.skip("no npm to get axe-core with")
    folder = tmp_path_factory.mktemp("axe")
    try:
        subprocess.run(["npm", "pack", "--silent", AXE], cwd=folder, capture_output=True, check=True, timeout=120)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip(f"npm cannot get {AXE}")
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as packed:
        script = packed.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing(page: Page, report: tuple[Path, list[str]], axe: str, dark: bool) -> None:
    """axe-core finds no violation of its rules, among them contrast, names and order."""
    file, _ = report
    page.open(file, width=1280, dark=dark)
    page.evaluate(SETTLED)
    page.evaluate(f"{axe};0")
    found = page.evaluate("axe.run().then(all => all.violations.map(one => [one.id, one.nodes[0].html.slice(0, 200)]))")
    assert found == []


def test_numbers_are_those_of_score(page: Page, report: tuple[Path, list[str]]) -> None:
    """Every score and every run's minutes on the page equal those of `score --json`, to the last digit."""
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
    """Each chart and each table has a name for a screen reader, and headings descend one level at a time."""
    file, _ = report
    page.open(file, width=1280)
    page.evaluate(SETTLED)
    described = await_pictures(page)
    assert len(set(described)) == len(described)
    tables = page.names("table")
    assert tables
    assert all(tables)
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(one => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.evaluate("document.documentElement.lang") == "en"


def test_prints_on_paper(page: Page, report: tuple[Path, list[str]]) -> None:
    """On paper the page is light, charts are still pictures, and no table is too wide."""
    file, _ = report
    page.open(file, width=PAPER, dark=True, media="print")
    wide = "[...document.querySelectorAll('table')].filter(one => one.offsetWidth > one.parentElement.clientWidth + 1)"
    assert page.evaluate(f"{wide}.map(one => one.ariaLabel)") == []
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    shown = "[...document.querySelectorAll('figure')].filter(one => one.checkVisibility()).map(one => one.querySelector"
    assert all(page.evaluate(f"{shown}('.still').naturalWidth)"))
    assert not any(page.evaluate(f"{shown}('.live').checkVisibility())"))
    contrast = page.evaluate(CONTRAST)
    assert contrast[0] >= 4.5, contrast
    assert page.pdf().startswith(b"%PDF")


def test_without_scripts_the_charts_are_still(page: Page, report: tuple[Path, list[str]]) -> None:
    """Without scripts each chart shows its still picture."""
    file, _ = report
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.call("Page.navigate", url=file.resolve().as_uri())
        await_pictures(page)
    finally:
        page.call("Emulation.setScriptExecutionDisabled", value=False)
