"""Samples of a node during a run, with and without a stand-in for nvidia-smi; they never disturb the run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from benchmark.telemetry import COLUMNS, HEADER, NODE, file_of, files_of
from harness.launch.local import Local
from harness.launch.one_run import run_once
from harness.launch.signals import Received
from harness.launch.telemetry import gpu_cells, sampled, sampler
from tests.fakes import configured
from tests.waiting import wait_until

GPU_LINE = "{gpu}, 97, 71234, 9000, 688.12, 64, 1755, 0x0000000000000004"

WAIT_FOR_SAMPLE = f"""
import sys, time
from pathlib import Path
samples = Path(sys.argv[1])
while not (samples.exists() and ",{NODE}," in samples.read_text()):
    time.sleep(0.05)
"""


@pytest.fixture
def result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log of a run on a machine without GPUs."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "bash").symlink_to("/bin/bash")
    (programs / "sleep").symlink_to("/bin/sleep")
    monkeypatch.setenv("PATH", str(programs))
    return tmp_path / "result_3.txt"


def install_smi(result: Path, script: str) -> None:
    """Put a stand-in for nvidia-smi on the PATH."""
    program = result.parent / "bin" / "nvidia-smi"
    program.write_text(f"#!/bin/bash\n{script}\n")
    program.chmod(0o755)


def rows_of(result: Path) -> list[dict[str, str]]:
    """The samples so far."""
    (path,) = files_of(result).values()
    header, *lines = path.read_text().splitlines() or [HEADER]
    assert header == HEADER
    return [dict(zip(COLUMNS, line.split(","), strict=True)) for line in lines]


def sampled_by(result: Path) -> set[str]:
    return {row["device"] for row in rows_of(result)}


def run_sampler(result: Path, devices: set[str]) -> str:
    """Sample until each of the devices is there; what the sampler said."""
    with subprocess.Popen(sampler(result, 1), stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: bool(files_of(result)) and devices <= sampled_by(result), [process.pid], "a sample of each")
        _, said = process.communicate()
    assert process.returncode == 0, said
    return said


def test_node_and_gpus_are_sampled(result: Path) -> None:
    """There is a line for each GPU, as nvidia-smi reports it, and one for the node, in the header's columns."""
    lines = "\n".join(GPU_LINE.format(gpu=gpu) for gpu in range(2))
    install_smi(result, f"echo \"$*\" >{result.parent}/asked\nwhile true; do echo '{lines}'; sleep 1; done")
    started = time.time() * 1000
    assert run_sampler(result, {"0", "1", NODE}) == ""
    rows = rows_of(result)
    assert list(rows[0].values())[1:] == ["0", "97", "71234", "9000", "688.12", "64", "1755", "4", ""]
    assert all(started <= int(row["time_ms"]) <= time.time() * 1000 for row in rows)
    node = next(row for row in rows if row["device"] == NODE)
    total = float(node["memory_used_mib"]) + float(node["memory_free_mib"])
    assert total == pytest.approx(psutil.virtual_memory().total / 2**20, abs=2)
    assert 0 <= float(node["busy_percent"]) <= 100
    assert (result.parent / "asked").read_text().endswith("--format=csv,noheader,nounits --loop=1\n")


def test_a_node_without_gpus_is_sampled(result: Path) -> None:
    """Only memory and processors are sampled, with a notice."""
    assert "nvidia-smi: No such file or directory: memory and processors only" in run_sampler(result, {NODE})
    assert {row["device"] for row in rows_of(result)} == {NODE}


def test_what_nvidia_smi_complains_of_is_said(result: Path) -> None:
    """Its complaint and its end are reported once each, and the node is still sampled."""
    install_smi(result, "echo 'Failed to initialize NVML'; echo 'Failed to initialize NVML'; exit 18")
    said = run_sampler(result, {NODE})
    assert said.count("nvidia-smi: Failed to initialize NVML") == 1
    assert "nvidia-smi ended with status 18: sampling only memory and processors from here on" in said


def test_a_run_that_goes_on_appends(result: Path) -> None:
    """The file has one header, and the samples of both parts."""
    run_sampler(result, {NODE})
    before = len(rows_of(result))
    run_sampler(result, {NODE})
    assert len(rows_of(result)) > before


@pytest.mark.parametrize(
    ("line", "cells"),
    [
        ("3, [N/A], 0, 1, [Not Supported], 30, 210, 0x01", ["3", "", "0", "1", "", "30", "210", "1", ""]),
        ("0, [GPU is lost], 1, 1, 1, 1, 1, [GPU is lost]", ["0", "", "1", "1", "1", "1", "1", "", ""]),
    ],
)
def test_what_a_gpu_does_not_measure_is_empty(line: str, cells: list[str]) -> None:
    """nvidia-smi's words in brackets become empty cells."""
    assert gpu_cells(line) == cells


@pytest.mark.parametrize(
    "line",
    ["", "No devices were found", "0, 1, 2, 3, 4, 5, 6", "x, 1, 1, 1, 1, 1, 1, 0x0", "0, nan, 1, 1, 1, 1, 1, 0x0"],
)
def test_another_line_is_no_sample(line: str) -> None:
    """Lines with too few cells, words or malformed numbers are refused."""
    with pytest.raises(ValueError, match=r".*"):
        gpu_cells(line)


def test_a_folder_that_cannot_be_written_is_said(result: Path) -> None:
    """The error names the file and the reason."""
    gone = result.parent / "gone" / "result_0.txt"
    done = subprocess.run(sampler(gone, 1), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{file_of(gone, os.uname().nodename)}: No such file or directory" in done.stderr


# Beside a run.


class Short(Local):
    """A run that ends at once, or with the first sample of the node, and any command as its sampler."""

    def __init__(self, command: Sequence[str] | None = None, *, until_sampled: Path | None = None) -> None:
        super().__init__(configured())
        self._sampler = command
        self._program = ["-c", WAIT_FOR_SAMPLE, str(until_sampled)] if until_sampled else ["-c", ""]

    def command(self) -> list[str]:
        return [sys.executable, *self._program]

    def on_each_node(self, command: Sequence[str]) -> list[str]:
        return super().on_each_node(self._sampler or command)


def run_short(result: Path, launcher: Short, interval: int = 1) -> int:
    config = configured(TELEMETRY_INTERVAL=interval).for_experiment(seed=1, result_file=result)
    with result.with_name("console.log").open("ab") as output:
        return run_once(config, output, launcher, Received()).status


def test_samples_are_taken_where_they_are_asked_for(result: Path) -> None:
    """With TELEMETRY_INTERVAL there is a file of this node; without it none. No process is left."""
    assert run_short(result, Short(), interval=0) == 0
    assert files_of(result) == {}
    assert run_short(result, Short(until_sampled=file_of(result, os.uname().nodename))) == 0
    assert set(files_of(result)) == {os.uname().nodename}
    assert rows_of(result)[-1]["device"] == NODE
    assert not list(samplers(result))


@pytest.mark.parametrize("how", ["exit 3", "kill -9 $$"])
def test_a_dying_sampler_is_said_and_no_more(result: Path, how: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A line reports it, and the run ends as it would have."""
    assert run_short(result, Short(["bash", "-c", how])) == 0
    status = {"exit 3": 3, "kill -9 $$": -9}[how]
    assert f"telemetry ended with status {status}, see above; the run does not need it" in capfd.readouterr().out


def test_samplers_end_with_who_started_them(result: Path) -> None:
    """They end even if that process is killed and can stop nothing itself."""
    starter = (
        "import sys, time; from pathlib import Path; from harness.launch.telemetry import sampled, sampler\n"
        f"with sampled(sampler(Path({str(result)!r}), 1)):\n    time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", starter], stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: bool(files_of(result)), [process.pid], "a sample")
        process.kill()
    while list(samplers(result)):
        time.sleep(0.05)


def test_a_sampler_that_does_not_end_is_ended(result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given time to end, but is not waited for without limit."""
    monkeypatch.setattr("harness.launch.telemetry._STOP_S", 0.1)
    with sampled(["sleep", "600"]):
        pass
    assert not [child for child in psutil.Process().children() if "600" in child.cmdline()]


def samplers(result: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter(["cmdline"]):
        if str(result) in (process.info["cmdline"] or ()):
            yield process
