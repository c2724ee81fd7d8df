"""Compares two results: lists what differs and counts what is the same.

Numbers are compared by value, not by how they are written, and curves at the places that both have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from benchmark.errors import RefusedError
from benchmark.plurals import counted
from compliance.formats import printable
from report.results import Curve, ResultSummary, flatten, gather
from report.table import RESULT_COLUMNS, STEP_COLUMNS, RunRow

PLACES = 8
"""Number of places at which the training losses are compared, equally spaced over what both were trained on."""

_ABSENT = "–"
_OF_A_RUN = frozenset({"seed", "config_filename", "init_start", "init_stop", "run_start", "run_stop"})
"""Events that always differ between two runs."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One property of both results."""

    name: str
    one: str
    other: str

    @property
    def differs(self) -> bool:
        return self.one != self.other


@dataclass(frozen=True, slots=True)
class Section:
    """Properties of one kind."""

    title: str
    pairs: tuple[Compared, ...]

    @property
    def different(self) -> list[Compared]:
        return [pair for pair in self.pairs if pair.differs]


def open_one(path: Path, ruleset: str | None = None) -> ResultSummary:
    """Return the one result under a path.

    Raises:
        NoLogsError: as report.results.gather.
        RefusedError: it holds several results.
    """
    summaries = gather([path], ruleset)
    if len(summaries) > 1:
        names = ", ".join(summary.name for summary in summaries[:5])
        raise RefusedError(f"{path} holds {len(summaries)} results ({names}); expected one")
    return summaries[0]


def compare(one: ResultSummary, other: ResultSummary) -> list[Section]:
    """Return everything that can be compared."""
    configurations = [_settings(result) for result in (one, other)]
    records = [result.record.model_dump(mode="json", exclude_defaults=True) for result in (one, other)]
    parts = [
        Section("configuration (run.json)", _pairs(*configurations)),
        Section("configuration (logs)", _pairs(*(_logged(result) for result in (one, other)))),
    ]
    for title, keys in _RECORDED.items():
        chosen = [dict(flatten({key: record[key] for key in keys if key in record})) for record in records]
        parts.append(Section(title, _pairs(*chosen)))
    parts += [
        Section("system", _pairs(dict(flatten(one.system)), dict(flatten(other.system)))),
        Section("results", _pairs(_results(one), _results(other))),
        Section("step times, mean of the runs", _pairs(_steps(one), _steps(other))),
        Section("log perplexity by samples, mean of the runs", _pairs(*_evaluations(one, other))),
        Section("training loss by samples, mean of the runs", _pairs(*_losses(one, other))),
        Section("findings", _pairs(_findings(one), _findings(other))),
    ]
    return [part for part in parts if part.pairs]


_RECORDED = {
    "versions": ("versions", "layer_spec", "libraries", "never_on_a_gpu"),
    "code": ("code",),
    "machine": ("machine",),
    "data": ("data",),
}


def lines(one: ResultSummary, other: ResultSummary, parts: Sequence[Section]) -> Iterator[str]:
    """Yield the lines of a comparison: the parts that differ, then the names of those that do not."""
    yield f"A  {one.path}"
    yield f"B  {other.path}"
    for part in parts:
        different = part.different
        if different:
            yield f"\n{part.title}: {len(different)} of {len(part.pairs)} differ"
            width = max(len(pair.name) for pair in different)
            yield from (f"  {pair.name:{min(width, 40)}}  {pair.one}  |  {pair.other}" for pair in different)
    same = [f"{part.title} ({len(part.pairs)})" for part in parts if not part.different]
    if same:
        yield f"\nidentical: {', '.join(same)}"


def text(one: ResultSummary, other: ResultSummary) -> str:
    """Return the whole comparison."""
    return printable("\n".join(lines(one, other, compare(one, other)))) + "\n"


def _pairs(one: Mapping[str, str], other: Mapping[str, str]) -> tuple[Compared, ...]:
    names = dict.fromkeys([*one, *other])
    return tuple(Compared(name, one.get(name, _ABSENT), other.get(name, _ABSENT)) for name in names)


def _settings(result: ResultSummary) -> dict[str, str]:
    return {name: str(setting.value) for name, setting in result.record.configuration.items()}


def _logged(result: ResultSummary) -> dict[str, str]:
    """Return what the first run logged once: hyperparameters, schedule, and who submits."""
    settings = result.runs[0].settings if result.runs else {}
    return {key: value for key, value in settings.items() if key not in _OF_A_RUN}


def _results(result: ResultSummary) -> dict[str, str]:
    return {column.name: column.text(result) for column in RESULT_COLUMNS if column.name != "result"}


def _steps(result: ResultSummary) -> dict[str, str]:
    rows = [RunRow(result, run) for run in result.runs if run.step_times is not None]
    return {
        column.name: f"{fmean(float(column.value(row) or 0) for row in rows):,.4f}"
        for column in STEP_COLUMNS[2:]
        if rows
    }


def _evaluations(one: ResultSummary, other: ResultSummary) -> list[dict[str, str]]:
    """Return the evaluations of both at every place where both have one."""
    found = [_by_place(result) for result in (one, other)]
    shared = sorted(set(found[0]) & set(found[1]))
    return [{f"{place:,}": f"{fmean(values[place]):.4f}" for place in shared} for values in found]


def _by_place(result: ResultSummary) -> dict[int, list[float]]:
    places: dict[int, list[float]] = {}
    for run in result.runs:
        for place, value in zip(run.evaluations.samples.tolist(), run.evaluations.values.tolist(), strict=True):
            places.setdefault(round(place), []).append(value)
    return places


def _losses(one: ResultSummary, other: ResultSummary) -> list[dict[str, str]]:
    """Return the losses of both at equally spaced places, each as the mean of the steps around it."""
    curves = [[run.losses for run in result.runs if len(run.losses)] for result in (one, other)]
    if not all(curves):
        return [{}, {}]
    end = min(float(curve.samples.max()) for some in curves for curve in some)
    places = [end * part / PLACES for part in range(1, PLACES + 1)]
    return [
        {f"{place:,.0f}": f"{fmean(_around(curve, place, end / PLACES / 4) for curve in some):.4f}" for place in places}
        for some in curves
    ]


def _around(curve: Curve, place: float, half: float) -> float:
    inside = np.abs(curve.samples - place) <= half
    return float(curve.values[inside].mean()) if inside.any() else float(np.interp(place, curve.samples, curve.values))


def _findings(result: ResultSummary) -> dict[str, str]:
    names: dict[str, int] = {}
    for finding in result.findings:
        name = f"{finding.severity} {finding.rule}"
        names[name] = names.get(name, 0) + 1
    return {name: counted(number, "finding") for name, number in names.items()}
