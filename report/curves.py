"""Writes the curves of runs for other programs: as CSV, or as TensorBoard's event files."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from benchmark.errors import RefusedError
from report.results import Curve, ResultSummary, RunSummary

EXTRA = "pip install 'mlperf-llama31[tensorboard]'"
HEADS = ("result", "log", "curve", "samples", "minutes", "value")


def of_run(run: RunSummary) -> dict[str, Curve]:
    """Return the curves of a run, by name."""
    return {
        "log_perplexity": run.evaluations,
        "training_loss": run.losses,
        "step_seconds": run.step_seconds,
    }


def write_csv(results: Sequence[ResultSummary], file: IO[str]) -> int:
    """Write a line for each point, with all digits, and return the number of points."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(HEADS)
    number = 0
    for row in _points(results):
        writer.writerow(row)
        number += 1
    return number


def _points(results: Sequence[ResultSummary]) -> Iterator[tuple[str, ...]]:
    for result in results:
        for run in result.runs:
            for name, curve in of_run(run).items():
                for samples, minutes, value in _rows(curve):
                    yield result.name, run.name, name, f"{samples:.0f}", repr(minutes), repr(value)


def _rows(curve: Curve) -> Iterator[tuple[float, float, float]]:
    return zip(curve.samples.tolist(), curve.minutes.tolist(), curve.values.tolist(), strict=True)


def write_tensorboard(results: Sequence[ResultSummary], folder: Path) -> int:
    """Write a folder of event files for each run. x is samples; TensorBoard's relative time is the run's own clock.

    Raises:
        RefusedError: the extra is not installed.
    """
    if find_spec("tensorboardX") is None:
        raise RefusedError(f"--tensorboard needs the library that writes its files: {EXTRA}")
    from tensorboardX import SummaryWriter

    number = 0
    for place, result in enumerate(results):
        for run in result.runs:
            # A name of a log is no path.
            with SummaryWriter(str(folder / f"{place:03}_{_plain(result.label)}" / _plain(run.number))) as writer:
                for name, curve in of_run(run).items():
                    for samples, minutes, value in _rows(curve):
                        writer.add_scalar(name, value, round(samples), walltime=60 * minutes)
                        number += 1
    return number


def _plain(text: str) -> str:
    return "".join(char if char.isalnum() or char in "-_." else "_" for char in text).strip(".")[:80] or "run"
