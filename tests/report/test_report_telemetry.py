"""Tests of what a report shows of the nodes' samples, whatever else their files hold."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.telemetry import COLUMNS, HEADER, NODE, file_of
from harness.launch.telemetry import gpu_cells
from report import telemetry
from report.page import MOST_ROWS, to_html
from report.results import gather
from report.series import spread
from report.telemetry import OF_GPUS, OF_NODE, NodeFacts, read_telemetry
from tests.fakes import EPOCH
from tests.launches import launch
from tests.logs import tiny

START = round(EPOCH * 1000)


def write_samples(log: Path, node: str, *, times: int = 10, gpus: int = 8, clock: int = 1755) -> Path:
    """Write a sample every ten seconds from START, with numbers that differ by GPU and time."""
    lines = [HEADER]
    for sample in range(times):
        now = START + 10_000 * sample
        for gpu in range(gpus):
            cells = [90 + gpu, 1024 * gpu, 0, 600 + sample, 50 + gpu, clock - gpu, 4 if sample % 2 else 0]
            lines.append(f"{now + gpu},{gpu},{','.join(map(str, cells))},")
        lines.append(f"{now + 20},{NODE},{sample},{2048},0,,,,,{sample / 4}")
    path = file_of(log, node)
    path.write_text("\n".join(lines) + "\n")
    return path


def one(log: Path, started_ms: float | None = START) -> NodeFacts:
    (node,) = read_telemetry(log, started_ms).nodes
    return node


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "result_0.txt"


def test_gpus_that_are_asked_together_are_one_point(log: Path) -> None:
    """GPUs that were sampled together become one point: their mean, fullest, hottest or slowest."""
    write_samples(log, "n1", times=3)
    node = one(log, START - 60_000)
    assert (node.gpus, node.samples, node.refused, node.cut) == (8, 3, 0, False)
    minutes = [1.0, 1 + 1 / 6, 1 + 2 / 6]
    expected = {
        "GPUs busy": [93.5] * 3,
        "GPU memory": [7.0] * 3,
        "GPU power": [600.0, 601.0, 602.0],
        "GPU temperature": [57.0] * 3,
        "SM clock": [1748.0] * 3,
    }
    for title, values in expected.items():
        assert node.curves[title] == [pytest.approx(point) for point in zip(minutes, values, strict=True)]
    assert [value for _, value in node.curves["Load"]] == [0, 0.25, 0.5]
    assert node.throttled == {"power cap": pytest.approx(1 / 3), "heat": 0, "hardware": 0}


def test_a_gpu_that_is_lost_leaves_the_others(log: Path) -> None:
    """A new point begins where the GPU index does not grow, so a lost GPU does not shift the others."""
    path = write_samples(log, "n1", times=4)
    third = START + 20_000
    lost = (f"{third + 3},3,", f"{third + 7},7,")
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if not line.startswith(lost)))
    temperatures = [value for _, value in one(log).curves["GPU temperature"]]
    assert temperatures == [57, 57, 56, 57]


def test_a_node_without_gpus_has_its_own_curves(log: Path) -> None:
    """A node without GPUs has its own curves; without a run_start, time starts at its first sample."""
    write_samples(log, "n1", times=2, gpus=0)
    node = one(log, None)
    assert set(node.curves) == {quantity.title for quantity in OF_NODE}
    assert node.curves["Memory of the node"] == [pytest.approx((0, 2)), pytest.approx((1 / 6, 2))]
    assert (node.samples, node.throttled) == (2, {})


def test_lines_that_are_no_samples_are_counted(log: Path) -> None:
    """Torn lines and lines of other files are counted as unreadable; a second header is not."""
    path = write_samples(log, "n1", times=2, gpus=1)
    with path.open("a") as file:
        file.write(f"{HEADER}\n{START},no\n\n<script>,{NODE},1,1,1,,,,,1\n{START},0,1e9,1,1,1,1,1,1,\n{START},0,1,1")
    assert (one(log).samples, one(log).refused) == (2, 4)


@given(st.binary(max_size=300))
def test_any_bytes_are_read(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """No bytes in a file stop a report."""
    log = tmp_path_factory.mktemp("any") / "result_0.txt"
    file_of(log, "n1").write_bytes(content)
    assert one(log).samples <= content.count(b"\n") + 1


_CELLS = st.floats(0, 1e9).map(lambda value: f"{value:.2f}") | st.sampled_from(["[N/A]", "[GPU is lost]", "0"])


@given(st.integers(0, 15), st.lists(_CELLS, min_size=6, max_size=6), st.integers(0, 0x1FF))
def test_what_a_sampler_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, gpu: int, cells: list[str], reasons: int
) -> None:
    """Each line of nvidia-smi that the sampler writes is read as a sample."""
    log = tmp_path_factory.mktemp("written") / "result_0.txt"
    row = gpu_cells(", ".join([str(gpu), *cells, f"0x{reasons:016x}"]))
    file_of(log, "n1").write_text(f"{HEADER}\n{START},{','.join(row)}\n")
    assert (one(log).samples, one(log).refused) == (1, 0)
    assert len(row) == len(COLUMNS) - 1


def test_only_the_run_s_own_files_are_read(log: Path) -> None:
    """Files of result_10 do not belong to result_1, and a pipe is ignored."""
    write_samples(log.with_name("result_10.txt"), "n1")
    (log.parent / "telemetry_1_pipe.csv").mkdir()
    assert read_telemetry(log.with_name("result_1.txt"), None).nodes == ()


def test_what_is_read_is_bounded(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long file is read from its beginning, of many files every n-th is read, and the page says so."""
    size = write_samples(log, "n0").stat().st_size
    for index in range(1, 9):
        write_samples(log, f"n{index}")
    monkeypatch.setattr(telemetry, "MOST_BYTES", 3 * size)
    found = read_telemetry(log, None)
    assert ([node.node for node in found.nodes], found.files) == (["n0", "n3", "n6"], 9)
    monkeypatch.setattr(telemetry, "MOST_OF_FILE", size // 2)
    assert [node.cut for node in read_telemetry(log, None).nodes] == [True] * 5


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(-1e6, 1e6)), min_size=1, max_size=300), st.integers(1, 40))
def test_parts_lose_no_extreme(points: list[tuple[float, float]], parts: int) -> None:
    """However few the bins, they keep the smallest and the largest value, from left to right."""
    bins = spread(points, parts)
    assert len(bins) <= parts
    assert min(one.low for one in bins) == min(value for _, value in points)
    assert max(one.high for one in bins) == max(value for _, value in points)
    places = [one.x for one in bins]
    assert places == sorted(places)


# The page.


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return launch(tmp_path / "runs", tiny())


@pytest.mark.usefixtures("drawing")
def test_page_shows_the_nodes(runs: Path) -> None:
    """The page has a chart for each quantity and a row for each node."""
    before = to_html(gather([runs]))
    for node in ("n1", "n2"):
        write_samples(runs / "result_0.txt", node)
    page = to_html(gather([runs]))
    assert "<h3>Nodes</h3>" not in before
    assert page.count("<figure") == before.count("<figure") + len((*OF_GPUS, *OF_NODE))
    row = re.search(r'<tr><th scope="row">n2</th>.*?</tr>', page)
    assert row is not None
    assert re.findall(r'<td class="number">(?:<data [^>]*>)?([^<]*)<', row[0])[:6] == [
        "8",
        "10",
        "93.5",
        "604",
        "57",
        "1748",
    ]


@pytest.mark.usefixtures("drawing")
def test_many_nodes_are_a_range(runs: Path) -> None:
    """Many nodes are drawn as a range; the table lists the slowest first, and the page says what it leaves out."""
    from report.charts import MOST_NODES, node_charts

    for index in range(MOST_ROWS + 1):
        write_samples(runs / "result_0.txt", f"n{index}", times=20, gpus=1, clock=1755 - index)
    (result,) = gather([runs])
    for chart in node_charts(result):
        assert [label for label, _ in chart.legend] == [f"result_0.txt, {MOST_ROWS + 1} nodes"]
        (rows,) = chart.spec["datasets"].values()
        for row in rows:
            assert np.all(np.array(row["least"]) <= row["value"])
            assert np.all(np.array(row["value"]) <= row["most"])
    page = to_html([result])
    assert f"{MOST_ROWS} of {MOST_ROWS + 1} nodes are listed: those with the slowest GPUs." in page
    assert page.count('<th scope="row">n') == MOST_ROWS
    assert page.index('row">n32<') < page.index('row">n31<')
    assert '<th scope="row">n0<' not in page
    assert MOST_ROWS > MOST_NODES


def test_hostile_samples_are_only_text(runs: Path) -> None:
    """A hostile node name, taken from a file's name, is shown as text."""
    hostile = '<img src=x onerror=alert(1)>"&'
    write_samples(runs / "result_0.txt", hostile)
    file_of(runs / "result_0.txt", "n2").write_text("<script>alert(1)</script>\n" * 3)
    page = to_html(gather([runs]))
    assert "<img src=x" not in page
    assert "<script>alert" not in page
    assert "3 lines could not be read as samples" in page
