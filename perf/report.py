"""Measures a report: the whole command on the largest published result, and its page; against matplotlib if installed.

The peer draws the same number of charts of the same size from the same points as SVG, and nothing else of a report.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import click

from benchmark.checkout import ROOT
from perf.measure import Timing

PUBLISHED = ROOT.parent / "shared" / "published"
LARGEST = PUBLISHED / "v5.0" / "NVIDIA" / "results" / "eos-dfw_n1024_ngc25.01_nemo"
"""A result of 8192 GPUs: three logs of 1.8 MB."""

CHARTS = 6
"""Charts that the peer draws, as many as a report has."""

PEER = f"""
import sys
from pathlib import Path
import matplotlib
matplotlib.use("svg")
from matplotlib import pyplot
size = 0
for chart in range({CHARTS}):
    figure, axes = pyplot.subplots(figsize=(4.6, 2.8))
    for line in range(3):
        axes.plot(range(0, 322560, 1536), [7.7 - place / 100 for place in range(210)], label=str(line))
    axes.legend()
    path = Path(sys.argv[1]) / f"{{chart}}.svg"
    figure.savefig(path)
    size += path.stat().st_size
print(size)
"""


def command(folder: Path, results: Path, ruleset: str) -> list[str]:
    """Return the whole command."""
    out = str(folder / "report.html")
    return [sys.executable, "-m", "harness", "report", str(results), "--ruleset", ruleset, "-o", out]


def cost(arguments: Sequence[str]) -> Timing:
    """Time one process, including its start."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(arguments, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Timing(wall=time.perf_counter() - began, cpu=cpu)


@click.command()
@click.option("--results", type=click.Path(path_type=Path, exists=True), default=LARGEST, show_default=True)
@click.option("--ruleset", default="5.0.0", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--peer", "interpreter", help="An interpreter that has matplotlib.")
def main(results: Path, ruleset: str, rounds: int, interpreter: str | None) -> None:
    """Time the report of the largest published result.

    For example: python -m perf.report --peer /tmp/plots/bin/python
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work = {"report": command(folder, results, ruleset)}
        if interpreter is not None:
            work["matplotlib"] = [interpreter, "-c", PEER, name]
        costs: dict[str, list[Timing]] = {what: [] for what in work}
        for _ in range(rounds):
            for what, arguments in work.items():
                costs[what].append(cost(arguments))
        sizes = {
            "report": (folder / "report.html").stat().st_size,
            "matplotlib": sum(path.stat().st_size for path in folder.glob("*.svg")),
        }
    cpu = {what: median(one.cpu for one in timings) for what, timings in costs.items()}
    for what, timings in costs.items():
        wall = median(one.wall for one in timings)
        print(f"{what:<12}{wall:6.2f} s, {cpu[what]:5.2f} s of a processor {sizes[what]:>9,} bytes")
    if interpreter is not None:
        print(f"{'ratio':<12}{cpu['report'] / cpu['matplotlib']:6.2f} of the processor time")


if __name__ == "__main__":
    main()
