"""Measures `verify` against sha256sum, md5sum, xxh128sum and cat on the same files, from the page cache and the disk.

Each is a process of its own, started as a user would. The files are random bytes in a temporary folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click

from benchmark.checkout import ROOT
from reference_impl.files.checksum import cores

PIECE_BYTES = 8 << 20
"""Bytes that are written at a time when the files are made."""

POLL_S = 0.002
"""Seconds between two measurements of memory."""


@dataclass(frozen=True)
class VerifyCost:
    """The cost of one process and everything that it started."""

    wall: float
    cpu: float
    """Seconds, user and system."""
    peak_mib: float
    """The largest resident set of the process itself."""


def commands(folder: Path, files: list[Path]) -> dict[str, list[str]]:
    ours = [sys.executable, "-m", "reference_impl.data", "verify", str(folder)]
    names = [str(file) for file in files]
    tools = [name for name in ("sha256sum", "md5sum", "xxh128sum", "cat") if shutil.which(name)]
    together = ["xargs", "-a", str(folder / ".names"), "-P", str(cores()), "-n", "1"]
    (folder / ".names").write_text("\n".join(names), encoding="utf-8")
    return {
        "verify": ours,
        "verify --jobs 1": [*ours, "--jobs", "1"],
        "verify --quick": [*ours, "--quick"],
        **{tool: [tool, *names] for tool in tools},
        **{f"{tool}, {cores()} at a time": [*together, tool] for tool in tools},
    }


def cost(command: list[str]) -> VerifyCost:
    begun, peak = time.perf_counter(), 0.0
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        # Polled, because wait4 reports at least this process's own memory from before the exec.
        while (done := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            peak = max(peak, resident_mib(process.pid))
            time.sleep(POLL_S)
        _, status, usage = done
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return VerifyCost(time.perf_counter() - begun, usage.ru_utime + usage.ru_stime, peak)


def resident_mib(process: int) -> float:
    """Return the peak so far, in MiB; 0 for a process that has ended."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def forget(files: list[Path]) -> None:
    """Drop the files from the page cache."""
    for file in files:
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(work: Mapping[str, list[str]], rounds: int, before: Callable[[], None]) -> dict[str, VerifyCost]:
    """Return the medians of all commands, run in turns."""
    costs: dict[str, list[VerifyCost]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, command in work.items():
            before()
            costs[name].append(cost(command))
    return {
        name: VerifyCost(*(median(getattr(one, what) for one in several) for what in ("wall", "cpu", "peak_mib")))
        for name, several in costs.items()
    }


def make(folder: Path, number: int, size: int) -> list[Path]:
    files = [folder / f"{index}.bin" for index in range(number)]
    for file in files:
        with file.open("wb") as stream:
            for start in range(0, size, PIECE_BYTES):
                stream.write(os.urandom(min(PIECE_BYTES, size - start)))
            os.fsync(stream.fileno())
    return files


@click.command()
@click.option("--files", "number", default=4, help="Files.")
@click.option("--gib", default=0.5, help="GiB of each.")
@click.option("--rounds", default=3)
@click.option("--folder", type=click.Path(path_type=Path), help="Where to put them; a temporary folder if not given.")
def main(number: int, gib: float, rounds: int, folder: Path | None) -> None:
    """Measure verification, out of the page cache and from the disk."""
    size = int(gib * 2**30)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        files = make(Path(place), number, size)
        work = commands(Path(place), files)
        init = [sys.executable, "-m", "reference_impl.data", "verify", "--init", place]
        subprocess.run(init, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        print(f"{number} files of {size / 1e9:.2f} GB, {cores()} cores, median of {rounds} rounds")
        for title, before in (("from the page cache", lambda: None), ("from the disk", lambda: forget(files))):
            print(f"\n{title:24} {'s':>7} {'GB/s':>7} {'CPU s':>7} {'peak MiB':>9}   sha256sum's time / its own")
            costs = measure(work, rounds, before)
            for name, timing in costs.items():
                rate = number * size / timing.wall / 1e9
                share = costs["sha256sum"].wall / timing.wall
                print(
                    f"{name:24} {timing.wall:7.2f} {rate:7.2f} {timing.cpu:7.2f} {timing.peak_mib:9.0f} {share:10.2f}"
                )


if __name__ == "__main__":
    main()
