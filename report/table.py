"""Defines the columns of a report's tables, once for the page, Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Generic, TypeVar

from compliance.formats import printable
from report.facts import SLOW, SlowRankCount
from report.results import Curve, ResultSummary, RunSummary
from report.telemetry import REASONS, NodeFacts

Row = TypeVar("Row")
Value = str | int | float | None


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """A column of a table."""

    name: str
    """The heading, with its unit."""
    value: Callable[[Row], Value]
    form: str = ""
    """The format of a number."""

    def text(self, row: Row) -> str:
        """Return a cell's text; a dash for an unknown value."""
        value = self.value(row)
        if value is None:
            return "–"
        return format(value, self.form) if isinstance(value, int | float) else value


RESULT_COLUMNS: tuple[Column[ResultSummary], ...] = (
    Column("result", lambda one: one.name),
    Column("verdict", lambda one: one.verdict),
    Column("score, minutes", lambda one: one.score.normalised_minutes, ".3f"),
    Column("raw, minutes", lambda one: one.score.olympic_minutes, ".3f"),
    Column("factor", lambda one: one.score.factor, ".4f"),
    Column("runs", lambda one: len(one.runs)),
    Column("submitter", lambda one: one.submitter),
    Column("accelerator", lambda one: one.accelerator),
    Column("GPUs", lambda one: one.gpus),
    Column("nodes", lambda one: one.nodes),
    Column("precision", lambda one: one.precision),
    Column("TP", lambda one: one.shape.tensor),
    Column("PP", lambda one: one.shape.pipeline),
    Column("VP", lambda one: one.shape.virtual),
    Column("CP", lambda one: one.shape.context),
    Column("batch size", lambda one: one.global_batch_size),
    Column("samples to target", lambda one: one.convergence.mean, ",.0f"),
    Column("median step, s", lambda one: one.median_step, ".3f"),
    Column("tokens/s", lambda one: one.tokens_per_second, ",.0f"),
    Column("TFLOP/s each", lambda one: one.teraflops, ",.4g"),
    Column("of bf16 peak", lambda one: one.utilisation("bf16"), ".1%"),
    Column("division", lambda one: one.division),
    Column("availability", lambda one: one.availability),
    Column("ruleset", lambda one: one.ruleset),
)

PUBLISHED_COLUMNS = tuple(column for column in RESULT_COLUMNS if column.name != "verdict")
"""Without a verdict: published results were judged when they were published."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run and the result that it is part of."""

    result: ResultSummary
    run: RunSummary


RUN_COLUMNS: tuple[Column[RunRow], ...] = (
    Column("log", lambda row: row.run.name),
    Column("seed", lambda row: row.run.seed),
    Column("status", lambda row: row.run.status),
    Column("minutes", lambda row: row.run.minutes, ".3f"),
    Column("samples to target", lambda row: row.run.samples, ",d"),
    Column("evaluations", lambda row: len(row.run.evaluations)),
    Column("last log perplexity", lambda row: _last(row.run.evaluations), ".4f"),
    Column("initialisation, s", lambda row: row.run.shares.get("initialisation"), ",.1f"),
    Column("warm-up, s", lambda row: row.run.warm_up, ",.1f"),
    Column("training, s", lambda row: row.run.shares.get("training"), ",.1f"),
    Column("evaluation, s", lambda row: row.run.shares.get("evaluation"), ",.1f"),
    Column("other, s", lambda row: row.run.shares.get("other"), ",.1f"),
)
"""How a run went."""

STEP_COLUMNS: tuple[Column[RunRow], ...] = (
    Column("log", lambda row: row.run.name),
    Column("steps", lambda row: _steps(row, "count")),
    Column("median step, s", lambda row: _steps(row, "median"), ".4f"),
    Column("mean, s", lambda row: _steps(row, "mean"), ".4f"),
    Column("deviation, s", lambda row: _steps(row, "deviation"), ".4f"),
    Column("99th percentile, s", lambda row: _steps(row, "p99"), ".4f"),
    Column("longest, s", lambda row: _steps(row, "longest"), ".4f"),
    Column(
        f"{SLOW} × median or longer", lambda row: None if row.run.step_times is None else len(row.run.step_times.slow)
    ),
)
"""How long its steps took."""


@dataclass(frozen=True, slots=True)
class SlowRow:
    """A rank and the run that reported it."""

    run: RunSummary
    slow: SlowRankCount


SLOW_COLUMNS: tuple[Column[SlowRow], ...] = (
    Column("rank", lambda row: row.slow.rank),
    Column("node", lambda row: row.slow.node),
    Column("log", lambda row: row.run.name),
    Column("times named", lambda row: row.slow.count),
    Column("median ratio", lambda row: row.slow.median, ".3f"),
    Column("largest ratio", lambda row: row.slow.high, ".3f"),
)
"""The slowest ranks of a result."""


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node and the run that it took part in."""

    run: RunSummary
    node: NodeFacts


def _of_curve(title: str, over: Callable[[list[float]], float]) -> Callable[[NodeRow], float | None]:
    def value(row: NodeRow) -> float | None:
        points = row.node.curves.get(title)
        return over([number for _, number in points]) if points else None

    return value


def _slowed(reason: str) -> Callable[[NodeRow], float | None]:
    return lambda row: row.node.throttled.get(reason)


slowest_clock = _of_curve("SM clock", fmean)


NODE_COLUMNS: tuple[Column[NodeRow], ...] = (
    Column("node", lambda row: row.node.node),
    Column("log", lambda row: row.run.name),
    Column("GPUs", lambda row: row.node.gpus),
    Column("samples", lambda row: row.node.samples),
    Column("GPUs busy, %", _of_curve("GPUs busy", fmean), ".1f"),
    Column("power, W each", _of_curve("GPU power", fmean), ".0f"),
    Column("hottest, °C", _of_curve("GPU temperature", max), ".0f"),
    Column("SM clock of the slowest, MHz", slowest_clock, ".0f"),
    *(Column(f"slowed by {reason}", _slowed(reason), ".0%") for reason in REASONS),
    Column("GPU memory, GiB", _of_curve("GPU memory", max), ".1f"),
    Column("processors busy, %", _of_curve("Processors busy", fmean), ".1f"),
    Column("memory, GiB", _of_curve("Memory of the node", max), ".1f"),
)
"""What the nodes measured: means, but the maxima of memory and temperature."""


def _last(curve: Curve) -> float | None:
    return float(curve.values[-1]) if len(curve) else None


def _steps(row: RunRow, name: str) -> int | float | None:
    times = row.run.step_times
    return None if times is None else getattr(times, name)


def to_csv(results: Sequence[ResultSummary]) -> str:
    """Return a line for each run, with the columns of its result and all digits of numbers."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    of_run = [*RUN_COLUMNS, *STEP_COLUMNS[1:]]
    writer.writerow([*(f"result: {column.name}" for column in RESULT_COLUMNS), *(column.name for column in of_run)])
    for result in results:
        of_result = [column.value(result) for column in RESULT_COLUMNS]
        for run in result.runs:
            values = [*of_result, *(column.value(RunRow(result, run)) for column in of_run)]
            writer.writerow([_cell(value) for value in values])
    return stream.getvalue()


def _cell(value: Value) -> str:
    """Return a cell that a spreadsheet takes for text even if it begins like a formula."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return repr(value)
    text = printable(value).replace("\n", " ")
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
