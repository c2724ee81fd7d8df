"""Tests of a report's numbers, and that a log cannot inject anything into it."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from compliance.check import check_paths, find_logs, open_result
from compliance.convergence.score import score
from harness.__main__ import main
from report import vega
from report.markdown import escaped, to_markdown
from report.page import caveats, score_of, slow_rows, to_html
from report.palette import DARK, LEAST, LIGHT, colour, contrast
from report.results import ResultSummary, gather, labels, names_of, published
from report.series import binned, histogram
from report.table import SlowRow, to_csv
from tests.compliance.test_against_official import PUBLISHED
from tests.compliance.test_against_official import published as needs_published
from tests.launches import launch, llama31_405b
from tests.logs import EVALUATION_SECONDS, INIT_SECONDS, STEP_SECONDS, LogFile

V51 = PUBLISHED / "v5.1"
EOS = PUBLISHED / "v5.0" / "NVIDIA" / "results" / "eos-dfw_n64_ngc25.01_nemo"
HOSTILE = "</title></script><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[2J\"'&|`@someone [x](http://y)"


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result of three rehearsed 405B runs."""
    return launch(tmp_path_factory.mktemp("report") / "runs", llama31_405b())


def one(path: Path, ruleset: str | None = None) -> ResultSummary:
    (result,) = gather([path], ruleset)
    return result


# Facts.


def test_verdict_and_score_are_those_of_the_commands(rehearsed: Path) -> None:
    """Findings are `check`'s and the score is `score`'s."""
    result, checked = one(rehearsed), check_paths([rehearsed])
    assert set(result.findings) == set(checked.findings)
    assert result.passed == checked.passed
    assert result.score == score(open_result(find_logs([rehearsed])[0]))


def test_time_of_a_run_is_accounted_for(log: LogFile) -> None:
    """Initialisation, training, evaluations and the rest are what the clock of the run says."""
    (run,) = one(log.path).runs
    steps, evaluations = len(run.losses), len(run.evaluations)
    assert run.shares == pytest.approx(
        {
            "initialisation": INIT_SECONDS,
            "training": steps * STEP_SECONDS,
            "evaluation": evaluations * EVALUATION_SECONDS,
            "other": 0.5,
        }
    )
    assert run.minutes == pytest.approx(run.timed / 60)
    times = run.step_times
    assert times is not None
    assert (times.count, times.median, times.deviation, times.slow) == (steps, STEP_SECONDS, 0, ())


def test_slow_steps_are_found(log: LogFile) -> None:
    """A step that takes 1.2 times the median or longer is reported with its position."""
    log.get("tracked_stats", 4)["value"]["train_step_time"] = 1.2 * STEP_SECONDS
    place = log.get("tracked_stats", 4)["metadata"]["samples_count"]
    (run,) = one(log.save()).runs
    assert run.step_times is not None
    assert run.step_times.slow == ((place, 1.2 * STEP_SECONDS),)


def test_slow_ranks_are_told(log: LogFile) -> None:
    """Slow ranks come slowest first, with their counts; malformed entries are ignored."""
    first, second = {"rank": 9, "node": "n2", "ratio": 1.5}, {"rank": 3, "node": "n1", "ratio": 1.1}
    more = [
        5,
        {},
        {"rank": 10**400, "node": "n1", "ratio": 1.0},
        {"rank": 1, "node": 2, "ratio": 1.0},
        {"rank": 1, "node": "n1", "ratio": 1e300},
    ]
    at = log.events.index(log.get("eval_start"))
    for named in ([first, second], [second | {"ratio": 1.2}, *more], 5):
        log.events.insert(at, log.get("tracked_stats", 0) | {"value": {"slowest_ranks": named}})
    result = one(log.save())
    (run,) = result.runs
    assert [(slow.rank, slow.count, slow.high) for slow in run.slow_ranks] == [(9, 1, 1.5), (3, 2, 1.2)]
    assert SlowRow(run, run.slow_ranks[1]) == slow_rows(result, 24)[1]


def test_checkpoint_faults_are_shown(log: LogFile) -> None:
    """Saves that failed and damaged checkpoints are listed with the log that reported them."""
    at = log.events.index(log.get("eval_start"))
    event = log.get("tracked_stats", 0)
    log.events.insert(at, event | {"value": {"save_failed": "no room"}, "metadata": {"step": 8, "samples_count": 0}})
    log.events.insert(at, event | {"value": {"damaged": ["step_4 is damaged: <b>"]}})
    page = to_html([one(log.save())])
    assert "<h3>Checkpoint faults</h3>" in page
    assert f"<li>{log.path.name}: step 8 was not saved: no room</li>" in page
    assert f"<li>{log.path.name}: step_4 is damaged: &lt;b&gt;</li>" in page


def test_the_same_finding_in_several_logs_is_listed_once(rehearsed: Path, tmp_path: Path) -> None:
    """A finding that several logs share is one entry with every place; errors come first."""
    folder = Path(shutil.copytree(rehearsed, tmp_path / "runs"))
    for path in folder.glob("result_*.txt"):
        log = LogFile(path)
        log.drop("opt_gradient_clip_norm")
        log.save()
    page = to_html(gather([folder]))
    assert page.count("opt_gradient_clip_norm is missing") == 1
    assert '<span class="quiet">result_0.txt, result_1.txt, result_2.txt</span>' in page
    severities = re.findall(r'<span class="severity (\w+)">', page)
    assert severities == sorted(severities, key=["ERROR", "WARNING", "INFO"].index)


@needs_published
def test_findings_about_a_submission_are_listed_once() -> None:
    """Its first result lists them; the others link there."""
    results = gather([V51 / "NVIDIA"])
    findings = {one.message for one in results[-1].findings if one.file == str(results[-1].group.organisation)}
    page = html.unescape(to_html(results))
    assert findings
    assert all(page.count(f"<div>{message}</div>") == 1 for message in findings)
    assert page.count(f'about the whole submission: see <a href="#result-0">{results[0].label}</a>') == len(results) - 1


@needs_published
def test_speed_of_a_published_result() -> None:
    """512 H100 at 55.13 s per step: 874.5 TFLOP/s each. The submitter counts a larger vocabulary: 877.7."""
    (result,) = published(EOS)
    assert result.gpu is not None
    assert (result.gpu.name, result.gpus, result.global_batch_size) == ("H100", 512, 1152)
    assert result.median_step == pytest.approx(55.13, abs=0.01)
    assert result.teraflops == pytest.approx(877.7 * 21430 / 21508, rel=1e-3)
    assert result.utilisation("fp8") == pytest.approx(0.4435 * 21430 / 21508, rel=1e-3)


@needs_published
def test_every_finding_is_somewhere() -> None:
    """Every finding of `check` about a tree of results belongs to some result, those about systems too."""
    results, checked = gather([V51], "5.1.0"), check_paths([V51], "5.1.0")
    assert {finding for result in results for finding in result.findings} == set(checked.findings)


@needs_published
def test_published_results_are_of_their_round() -> None:
    """A published result is judged by the round that its path names, and the tables name it."""
    assert ",5.0.0 (from the folder v5.0)," in to_csv(gather([EOS]))
    assert published(EOS)[0].ruleset == "5.0.0 (from the folder v5.0)"
    assert {result.score.factor for result in published(V51)} == {1.0}


# Forms.


def test_csv_has_a_line_for_each_run_in_full(rehearsed: Path) -> None:
    """Numbers are not rounded, so that another program can compute with them."""
    result = one(rehearsed)
    rows = list(csv.DictReader(io.StringIO(to_csv([result]))))
    assert [float(row["minutes"]) for row in rows] == list(result.score.minutes)
    assert {float(row["result: score, minutes"]) for row in rows} == {result.score.normalised_minutes}


def test_markdown_shows_the_score(rehearsed: Path) -> None:
    """The first table has the verdict and the score."""
    result = one(rehearsed)
    row = to_markdown([result]).splitlines()[4]
    assert "| PASS, SIMULATED |" in row
    assert f"| {result.score.normalised_minutes:.3f} |" in row


def test_commands_write_all_forms(rehearsed: Path, tmp_path: Path) -> None:
    """`report -o` writes a page; `--md` and `--csv` print to the terminal if no file is named."""
    page = tmp_path / "report.html"
    assert CliRunner().invoke(main, ["report", str(rehearsed), "-o", str(page)]).exit_code == 0
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert CliRunner().invoke(main, ["report", str(rehearsed), "--md"]).output.startswith("# Results")
    assert CliRunner().invoke(main, ["report", str(rehearsed), "--csv"]).output.startswith("result: result,")
    assert CliRunner().invoke(main, ["report", str(tmp_path / "none")]).exit_code == 2
    assert CliRunner().invoke(main, ["report", str(rehearsed), "-o", str(tmp_path / "none" / "a")]).exit_code == 2


@pytest.mark.usefixtures("drawing")
def test_page_needs_nothing_else(rehearsed: Path) -> None:
    """The page has no links but those within it, and its policy runs only its own two scripts."""
    page = to_html(gather([rehearsed]))
    outside = re.sub(r"<script.*?</script>|src=\"data:image/svg[^\"]*\"", "", page, flags=re.DOTALL)
    assert not re.search(r"https?://|src=|href=\"(?!#)|url\(|@import", outside)
    (policy,) = map(html.unescape, re.findall(r'Policy" content="([^"]*)"', page))
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts}
    assert set(re.findall(r"sha256-([^']*)'", policy.split("style-src")[0])) == hashes
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


def test_without_the_extra_the_page_has_tables(rehearsed: Path) -> None:
    """Without the extra the page names the command that installs it, and has everything but the charts."""
    result = one(rehearsed)
    page = to_html([result])
    assert vega.EXTRA in html.unescape(page)
    assert "<figure" not in page
    assert f"{result.score.normalised_minutes:.3f} min" in page


# Hostile logs.


class Tags(HTMLParser):
    """Collects the elements of a page and checks that they are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "br", "hr", "input", "img", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def hostile(rehearsed: Path, tmp_path: Path) -> Path:
    """A result whose texts are all attacks, and whose numbers are as large as JSON allows."""
    folder = tmp_path / "=cmd|<b>"
    folder.mkdir()
    log = LogFile(rehearsed / "result_0.txt")
    log.path = folder / "result_<img src=x>.txt"
    for event in log.events:
        if isinstance(event["value"], str):
            event["value"] = HOSTILE
    log.set("submission_benchmark", "llama31_405b")
    log.set("seed", HOSTILE)
    for nth, number in enumerate((1e308, -1e308, 10**400, 1e-320)):
        log.get("tracked_stats", 5 + nth)["value"].update({HOSTILE: number, "train_step_time": number})
        log.get("tracked_stats", 5 + nth)["metadata"]["samples_count"] = number
    log.get("run_stop")["metadata"]["status"] = HOSTILE
    log.save()
    (folder / "run.json").write_text(json.dumps({HOSTILE: [HOSTILE, {"value": HOSTILE, "origin": HOSTILE}]}))
    return folder


@pytest.mark.usefixtures("drawing")
def test_hostile_text_is_only_text(hostile: Path, rehearsed: Path) -> None:
    """The page of a hostile log has only elements and attributes that the page of a good one has."""
    page, good = Tags(to_html(gather([hostile]))), Tags(to_html(gather([rehearsed])))
    assert page.open == []
    # A good log has no findings, whose ids are code.
    assert page.seen <= good.seen | {"code", "dl", "dt", "dd"}
    assert page.attributes <= good.attributes
    assert "\x1b" not in to_html(gather([hostile]))


def test_hostile_markdown_is_only_text(hostile: Path) -> None:
    """Hostile text makes no markup, no link, no mention and no further column."""
    text = to_markdown(gather([hostile]))
    assert not re.search(r"<|@|\]\(|`|\x1b", text)
    assert len({line.count("|") for line in text.splitlines()[2:5]}) == 1


def test_hostile_csv_is_no_formula(hostile: Path) -> None:
    """No cell begins like a spreadsheet's formula."""
    cells = [cell for row in csv.reader(io.StringIO(to_csv(gather([hostile])))) for cell in row]
    assert not any(re.match(r"[=@+]|-(?![0-9])", cell) for cell in cells)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b":::MLLOG {}\n", b"noise\n"])
def test_no_log_at_all(tmp_path: Path, content: bytes) -> None:
    """Files that hold no run get a report, which says FAIL."""
    (tmp_path / "result_0.txt").write_bytes(content)
    results = gather([tmp_path])
    assert not results[0].passed
    assert "FAIL" in to_html(results)
    assert "FAIL" in to_markdown(results)


@pytest.mark.usefixtures("drawing")
def test_charts_of_a_long_log_are_bounded(log: LogFile) -> None:
    """Ten times the steps make a chart at most a tenth longer: it draws the ranges of bins."""
    from report.charts import charts

    def size(times: int) -> int:
        steps = [
            event for event in log.events if event["key"] == "tracked_stats" and "reduced_train_loss" in event["value"]
        ]
        at = log.events.index(steps[-1])
        longer = LogFile(log.path)
        longer.events[at:at] = steps * times
        longer.path = log.path.with_name(f"result_{times}.txt")
        return sum(len(json.dumps(chart.spec)) for chart in charts([one(longer.save())]))

    assert size(200) < 1.1 * size(20)


@pytest.mark.usefixtures("drawing")
def test_charts_of_a_round_are_bounded(log: LogFile) -> None:
    """Hundreds of runs have no more points than a few, and the small charts share the rows of the large one."""
    from report.charts import MOST_DRAWN, charts

    result = one(log.path)
    drawn = {chart.title: chart.spec for chart in charts([replace(result, name=str(place)) for place in range(300)])}
    rows = drawn["Training loss"]["datasets"]["rows0"]
    assert len(rows) == 300
    assert sum(len(row["value"]) for row in rows) <= MOST_DRAWN
    few = drawn["Evaluations by system"]["datasets"]["rows0"]
    assert all(row in drawn["Evaluations"]["datasets"]["rows2"] for row in few)


@pytest.mark.usefixtures("drawing")
def test_texts_of_logs_are_data_of_charts(hostile: Path) -> None:
    """Texts of a log are values in a chart's data, never expressions, titles or fields of its description."""
    from report.charts import charts

    for chart in charts(gather([hostile])):
        assert "alert" not in json.dumps({**chart.spec, "datasets": {}})


# Names.


def test_labels_are_short_and_tell_results_apart() -> None:
    """A label is the shortest start of a name that is unique; names that end alike stay whole."""
    names = ["v5.1/theia_ngpu512_nemo", "v5.1/tyche_ngpu512_25.09", "v5.0/tyche_ngpu512_25.04", "a/x", "b/x"]
    assert labels(names) == ["theia", "tyche_ngpu512_25.09", "tyche_ngpu512_25.04", "a/x", "b/x"]
    assert labels(["b/a"]) == ["a"]


def test_two_benchmarks_of_a_system_have_two_names(tmp_path: Path) -> None:
    """The benchmark's folder is part of a name only if it distinguishes results."""
    paths = [tmp_path / "results" / "eos" / name for name in ("llama31_405b", "llama31_8b")]
    assert names_of(paths) == ["llama31_405b", "llama31_8b"]


@given(st.integers(0, 300), st.integers(0, 9))
def test_colours_are_seen_on_both_pages(system: int, run: int) -> None:
    """However many systems and runs there are, a mark stands out from its background."""
    found = colour(system, run, 10)
    assert contrast(found.light, LIGHT) >= LEAST
    assert contrast(found.dark, DARK) >= LEAST


# What a run is.


def test_a_rehearsal_has_a_banner_and_no_green_score(rehearsed: Path) -> None:
    """A rehearsal passes every check, yet its card is not the green one of a result that counts."""
    (result,) = gather([rehearsed])
    assert result.passed
    assert not result.counts
    assert [name for name, _ in caveats(result)] == ["SIMULATED"]
    page = to_html([result])
    assert '<div class="card apart">' in page
    assert "<strong>SIMULATED</strong>" in page


def test_what_is_no_result_of_mlperf_says_so(valid: Callable[[str], LogFile]) -> None:
    """The tiny benchmark and the open division have banners; a single run shows its minutes and the runs of a score."""
    log = valid("tiny")
    log.set("submission_division", "open")
    (result,) = gather([log.save()])
    assert [name for name, _ in caveats(result)] == ["LLAMA31_TINY", "OPEN DIVISION"]
    (minutes,) = result.score.minutes
    assert score_of(result) == (f"{minutes:.3f} min", "of one run; 3 runs make a score")


# Drawing.


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=2000), st.integers(1, 400))
def test_bins_lose_no_extreme(values: list[float], most: int) -> None:
    """However few the bins, they keep the smallest, the largest and the mean of all values."""
    bins = binned([(float(index), value) for index, value in enumerate(values)], most)
    assert len(bins) <= most
    assert min(one.low for one in bins) == min(values)
    assert max(one.high for one in bins) == max(values)
    if len(values) % len(bins) == 0 and len(values) // len(bins) * len(bins) == len(values) and len(values) <= most:
        assert fmean(one.mean for one in bins) == pytest.approx(fmean(values), abs=1e-6)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.integers(1, 60))
def test_histogram_counts_every_value(values: list[float], bins: int) -> None:
    """Each value is in one bin, and the bins cover all values."""
    found = histogram(values, bins)
    assert sum(number for _, _, number in found) == len(values)
    assert found[0][0] <= min(values)


@given(st.text())
def test_markdown_escapes_text(text: str) -> None:
    """Escaped text has nothing that Markdown acts on."""
    assert not re.search(r"[<>|`*\[\]\n]", escaped(text))


def test_numbers_beyond_all_measure_are_not_drawn(log: LogFile) -> None:
    """NaN and numbers larger than any measurement are left out of the curves."""
    log.get("tracked_stats", 2)["value"]["train_step_time"] = 1e300
    (run,) = one(log.save()).runs
    assert len(run.step_seconds) == len(run.losses) - 1
    assert all(math.isfinite(value) for value in run.step_seconds.values)


def test_large_descriptions_are_drawn_by_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process gets more than its share of descriptions, and the pictures keep their order."""
    asked: list[str] = []

    def draws_nothing(text: str) -> str:
        asked.append(text)
        return json.dumps([spec["name"] for spec in json.loads(text)])

    monkeypatch.setattr(vega, "_ask", draws_nothing)
    monkeypatch.setattr(vega, "MOST_AT_ONCE", 50)
    specs = [{"name": "a", "x": "." * 90}, {"name": "b"}, {"name": "c"}, {"name": "d", "x": "." * 20}]
    assert vega.draw(specs) == ["a", "b", "c", "d"]
    assert sorted(len(json.loads(text)) for text in asked) == [1, 1, 2]
    assert vega.draw([]) == []


@pytest.mark.usefixtures("drawing")
def test_valid_logs_of_every_benchmark_have_charts(valid: Callable[[str], LogFile]) -> None:
    """One run of each benchmark gets every chart, and each chart has a still picture."""
    from report.charts import charts

    drawn = [chart for name in ("tiny", "405b", "8b") for chart in charts(gather([valid(name).path]))]
    assert len(drawn) == 3 * 6
    pictures = vega.draw([vega.still(chart.spec) for chart in drawn])
    assert all(picture.count("<path") > 2 for picture in pictures)
