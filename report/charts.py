"""Which charts a report has, as Vega-Lite descriptions by Altair: data, marks, and what is said about them.

One description serves the page, where it is explored, and its still picture. The page sets its parameters: `axis` (what
x is), `hidden` (keys of runs that are switched off), `low` and `high` (the part of x that is shown), `smooth`, `dark`.
Texts of logs are values of data, never expressions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import altair as alt
import numpy as np

from report.facts import SLOW
from report.palette import Colour, colour
from report.results import Curve, Numbers, ResultSummary, RunSummary
from report.series import Point, histogram, spread
from report.telemetry import OF_GPUS, OF_NODE, Quantity

AXES = {"samples": "samples (sequences)", "steps": "optimizer steps", "minutes": "minutes from run_start"}
"""The choices for x -> their titles."""

MOST_DRAWN = 14_000
"""Points of all lines of a chart."""

MOST_RANGES = 60
"""Most lines for which the range of each bin is drawn; among more, nobody could tell whose range it is."""

MOST_OF_LINE = 400
"""Points of a line; a longer one is drawn as the mean and the range of its bins."""

MOST_BARS = 40
"""Results, or runs, that have a bar each."""

MOST_OVERLAID = 12
"""Results whose distributions of step times are drawn over one another."""

MULTIPLES_FROM = 5
"""Fewest systems for which each one also gets a small chart."""

MOST_MULTIPLES = 150

MOST_SPANS = 200
"""Spans of a run that are drawn one by one; of more, the sums."""

MOST_NODES = 16
"""Nodes of all runs that have a line each; of more, the range of each run's is drawn."""

_MARKED = 60
"""Points of a line up to which each is marked."""

_SMOOTH = 0.1
"""Weight of the newest value in the smoothed line."""

_SPAN_COLOURS = {
    "initialisation": Colour("#6b7280", "#a3abb8"),
    "training": Colour("#0b62a8", "#6cb4f0"),
    "evaluation": Colour("#b3430a", "#ff9d6b"),
    "other": Colour("#8a5a9e", "#c9a5dc"),
}

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart: its description for Vega-Lite and the texts around it."""

    title: str
    note: str
    said: str
    """The description for people who cannot see it."""
    spec: Mapping[str, Any]
    """Vega-Lite, with its data."""
    over_run: bool = False
    """Whether x follows the run, so that the page's choice of axis and zoom applies."""
    wide: bool = False
    folded: bool = False
    """Whether it is drawn only on demand."""
    legend: tuple[tuple[str, Colour], ...] = ()
    """The names of its colours, where they are not those of runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A run or a result with its place in the charts."""

    key: str
    label: str
    system: str
    colour: Colour
    result: ResultSummary
    runs: tuple[RunSummary, ...]

    @property
    def row(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "run": self.label,
            "system": self.system,
            "light": self.colour.light,
            "dark": self.colour.dark,
        }


def drawn_runs(results: Sequence[ResultSummary]) -> list[Drawn]:
    """Every run: a hue for its system, a shade for itself; of a single result, a hue for each run."""
    systems = {name: place for place, name in enumerate(dict.fromkeys(one.system_name for one in results))}
    of_system = {name: [run for one in results if one.system_name == name for run in one.runs] for name in systems}
    seen = dict.fromkeys(systems, 0)
    found = []
    for number, result in enumerate(results):
        name = result.system_name
        for place, run in enumerate(result.runs):
            shade = colour(place) if len(results) == 1 else colour(systems[name], seen[name], len(of_system[name]))
            seen[name] += 1
            label = run.name if len(results) == 1 else f"{result.label} {run.number}"
            found.append(
                Drawn(key=f"{number}.{place}", label=label, system=name, colour=shade, result=result, runs=(run,))
            )
    return found


def drawn_results(results: Sequence[ResultSummary], runs: Sequence[Drawn]) -> list[Drawn]:
    """Every result, in the colour of its first run."""
    firsts = {one.key: one for one in runs}
    return [
        replace(firsts[f"{number}.0"], key=str(number), label=result.label, runs=tuple(result.runs))
        for number, result in enumerate(results)
        if result.runs
    ]


def charts(results: Sequence[ResultSummary], published: Sequence[ResultSummary] = ()) -> Iterator[Chart]:
    """Every chart for which the logs have numbers."""
    runs = drawn_runs(results)
    yield from _evaluations(results, runs)
    yield from _over_run("Training loss", "training loss", runs, lambda run: run.losses)
    yield from _step_curve(runs)
    yield from _step_times(results, runs)
    yield from _minutes(results, runs)
    yield from _timeline(results, runs)
    yield from _scaling(results, runs, published)
    yield from _multiples(runs)


# Lines over a run.


def _evaluations(results: Sequence[ResultSummary], runs: Sequence[Drawn]) -> Iterator[Chart]:
    rows = _lines(runs, lambda run: run.evaluations)
    if not rows:
        return
    targets = sorted({one.rules.target_log_perplexity for one in results if one.rules is not None})
    zones = {
        (record.mean - record.deviation, record.mean + record.deviation): (
            f"{record.mean:,.0f} ± {record.deviation:,.0f} samples at batch size {record.global_batch_size}"
        )
        for one in results
        if (record := one.reference) is not None
    }
    note = "Each evaluation of each run. The run stops at the first one at or below the target."
    if zones and len(zones) <= 4:
        said = "; ".join(zones.values())
        note += f" The shade is the reference, its mean give or take a standard deviation: {said}."
    elif zones:
        note += f" The shades are the reference at {len(zones)} batch sizes, each its mean give or take a deviation."
    yield _line_chart(
        "Evaluations",
        "log perplexity",
        rows,
        note=note,
        levels=[{"level": value, "name": f"target {value}"} for value in targets],
        zones=[{"from": low, "to": high, "name": name} for (low, high), name in zones.items()],
    )


def _step_curve(runs: Sequence[Drawn]) -> Iterator[Chart]:
    times = [found for one in runs for run in one.runs if (found := run.step_times) is not None]
    number, of = sum(len(one.slow) for one in times), sum(one.count for one in times)
    said = f"{number:,} of {of:,} steps took {SLOW} times the median of their run or longer. "
    yield from _over_run("Step time over the run", "seconds a step", runs, lambda run: run.step_seconds, said)


def _over_run(title: str, y: str, runs: Sequence[Drawn], curve: Any, said: str = "") -> Iterator[Chart]:
    rows = _lines(runs, curve)
    if not rows:
        return
    each = max(-(-len(curve(run)) // _most_of_line(len(runs))) for one in runs for run in one.runs)
    shade = ", the shade their range" if len(runs) <= MOST_RANGES else ""
    note = "Every step." if each == 1 else f"The line is the mean of up to {each} steps{shade}."
    yield _line_chart(title, y, rows, note=said + note, smoothed=True)


def _most_of_line(lines: int) -> int:
    return max(24, min(MOST_OF_LINE, MOST_DRAWN // max(1, lines)))


def _lines(runs: Sequence[Drawn], curve: Any) -> Rows:
    """A row for each line, with its points as columns: Vega-Lite's `flatten` takes them apart."""
    most = _most_of_line(len(runs))
    rows = []
    for one in runs:
        (run,) = one.runs
        found: Curve = curve(run)
        if len(found):
            rows.append({**one.row, "batch": run.batch or 1, **_columns(found, most, ranged=len(runs) <= MOST_RANGES)})
    return rows


def _columns(curve: Curve, most: int, *, ranged: bool) -> dict[str, list[float]]:
    size = max(1, -(-len(curve) // most))
    starts = np.arange(0, len(curve), size)
    counts = np.diff([*starts, len(curve)])
    samples, minutes, values = (
        np.add.reduceat(column, starts) / counts for column in (curve.samples, curve.minutes, curve.values)
    )
    columns = {"samples": _rounded(samples, 9), "minutes": _rounded(minutes), "value": _rounded(values)}
    if ranged and size > 1:
        columns["least"] = _rounded(np.minimum.reduceat(curve.values, starts))
        columns["most"] = _rounded(np.maximum.reduceat(curve.values, starts))
    columns["smoothed"] = _rounded(_smoothed(values))
    return columns


def _rounded(values: Numbers, digits: int = 6) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in values.tolist()]


def _smoothed(values: Numbers) -> Numbers:
    """The exponentially weighted mean; the first value is its own."""
    found, mean = np.empty_like(values), values[0]
    for place, value in enumerate(values):
        mean += _SMOOTH * (value - mean)
        found[place] = mean
    return found


def _line_chart(
    title: str,
    y: str,
    rows: Rows,
    *,
    note: str,
    levels: Rows | None = None,
    zones: Rows | None = None,
    smoothed: bool = False,
) -> Chart:
    ranged = any("least" in row for row in rows)
    fields = ["samples", "minutes", "value", "smoothed", *(["least", "most"] if ranged else [])]
    for row in rows if ranged else ():
        row.setdefault("least", row["value"])
        row.setdefault("most", row["value"])
    if not smoothed:
        fields.remove("smoothed")
        for row in rows:
            del row["smoothed"]
    data = _Data()
    base = _shown(data.chart(rows)).transform_flatten([*fields])
    base = _within(base.transform_calculate(steps="datum.samples / datum.batch", x="datum[axis]"))
    base = base.transform_filter("!logarithmic || datum.value > 0")
    x = alt.X("x:Q", title=AXES["samples"], scale=alt.Scale(zero=False, nice=False))
    value = alt.Y("value:Q", title=y, scale=alt.Scale(type="linear", zero=False))
    colours, detail = alt.Color("colour:N", scale=None), alt.Detail("key:N")
    marked = len(rows) <= _MARKED and all(len(row["value"]) <= _MARKED for row in rows)
    tooltips = [alt.Tooltip("run:N"), *(alt.Tooltip(f"{name}:Q", format=",.6~g") for name in ("value", *AXES))]
    layers: list[Any] = []
    if zones:
        layers.append(
            data.chart(zones)
            .transform_filter("axis == 'samples' && low == null")
            .mark_rect(opacity=0.15, color="#0b62a8")
            .encode(x=alt.X("from:Q", title=AXES["samples"]), x2="to:Q", tooltip="name:N")
        )
    if levels:
        layers.append(
            data.chart(levels).mark_rule(strokeDash=[5, 4], color="#808080").encode(y="level:Q", tooltip="name:N")
        )
    if ranged:
        layers.append(
            base.mark_area(opacity=0.2).encode(x, alt.Y("least:Q", title=y), alt.Y2("most:Q"), colours, detail)
        )
    faded = alt.when("smooth").then(alt.value(0.3)).otherwise(alt.value(1.0)) if smoothed else alt.value(1.0)
    layers.append(base.mark_line(strokeWidth=1.6).encode(x, value, colours, detail, opacity=faded))
    if smoothed:
        over = base.transform_filter("smooth").mark_line(strokeWidth=2.2)
        layers.append(over.encode(x, alt.Y("smoothed:Q", title=y), colours, detail))
    brush = alt.selection_interval(name="brush", encodings=["x"], on=_BY_MOUSE)
    points = base.mark_point(filled=True, size=36 if marked else 60, opacity=1 if marked else 0)
    layers.append(points.encode(x, value, colours, detail, tooltip=tooltips).add_params(brush).properties(name="hover"))
    said = [f"{row['run']}: {y} {row['value'][0]:.4g} to {row['value'][-1]:.4g}" for row in rows[:_MARKED]]
    return Chart(
        title=title,
        note=note,
        said="; ".join([*said, *(row["name"] for row in levels or ())]),
        spec=_spec(data, alt.layer(*layers), height=240),
        over_run=True,
    )


_BY_MOUSE = "[pointerdown[event.pointerType === 'mouse'], window:pointerup] > window:pointermove!"
"""A finger scrolls the page."""


def _multiples(runs: Sequence[Drawn]) -> Iterator[Chart]:
    systems = list(dict.fromkeys(one.system for one in runs))
    rows = _lines(runs, lambda run: run.evaluations)
    if len(systems) < MULTIPLES_FROM or not rows:
        return
    shown = set(systems[:MOST_MULTIPLES])
    rows = [row for row in rows if row["system"] in shown]
    fields = ["samples", "minutes", "value"]
    data = _Data()
    base = _shown(data.chart(rows)).transform_flatten([*fields])
    base = _within(base.transform_calculate(steps="datum.samples / datum.batch", x="datum[axis]"))
    x = alt.X("x:Q", title=None, scale=alt.Scale(zero=False, nice=False), axis=alt.Axis(tickCount=3, format="~s"))
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False))
    tooltips = [alt.Tooltip("run:N"), alt.Tooltip("value:Q", format=",.6~g"), alt.Tooltip("x:Q", format=",.6~g")]
    line = base.mark_line(point=alt.OverlayMarkDef(size=16), strokeWidth=1.2)
    cell = line.encode(x, y, alt.Color("colour:N", scale=None), alt.Detail("key:N"), tooltip=tooltips)
    faceted = cell.properties(width=180, height=110).facet(
        facet=alt.Facet("system:N", title=None, header=alt.Header(labelLimit=180)), columns=5
    )
    left = len(systems) - len(shown)
    yield Chart(
        title="Evaluations by system",
        note="Log perplexity of the evaluations over what x is chosen to be, on the same axes for all."
        + (f" {left} more systems are left out." if left else ""),
        said=f"small charts of {', '.join(systems[:_MARKED])}",
        spec=_spec(data, faceted),
        wide=True,
        folded=True,
        over_run=True,
    )


# Bars.


def _minutes(results: Sequence[ResultSummary], runs: Sequence[Drawn]) -> Iterator[Chart]:
    rows = [{**one.row, "minutes": minutes} for one in runs for run in one.runs if (minutes := run.minutes) is not None]
    if not rows or len(results) > MOST_BARS:
        return
    data = _Data()
    note = "From run_start to run_stop, of the runs that reached the target."
    x = alt.X("minutes:Q", title="minutes", scale=alt.Scale(zero=True))
    tooltips = [alt.Tooltip("run:N"), alt.Tooltip("minutes:Q", format=",.3f")]
    names = alt.Axis(labelLimit=150)
    if len(results) == 1:
        y = alt.Y("run:N", title=None, sort=None, axis=names)
        bars = (
            _shown(data.chart(rows))
            .mark_bar(height=14)
            .encode(x, y, alt.Color("colour:N", scale=None), tooltip=tooltips)
        )
        layers: list[Any] = [bars]
        level = results[0].score.olympic_minutes
        if level is not None:
            note += f" The mark is the olympic mean, {level:.3f} min."
            layers.append(data.chart([{"level": level}]).mark_rule(strokeWidth=2, color="#808080").encode(x="level:Q"))
    else:
        labels = {one.key: one.label for one in drawn_results(results, runs)}
        rows = [{**row, "result": labels[row["key"].partition(".")[0]]} for row in rows]
        y = alt.Y("result:N", title=None, sort=alt.EncodingSortField("minutes", op="mean"), axis=names)
        base = _shown(data.chart(rows))
        bars = base.mark_bar(height=12, opacity=0.35).encode(
            alt.X("mean(minutes):Q", title="minutes", scale=alt.Scale(zero=True)),
            y,
            alt.Color("min(colour):N", scale=None),
        )
        layers = [
            bars,
            base.mark_tick(thickness=2, size=14).encode(x, y, alt.Color("colour:N", scale=None), tooltip=tooltips),
        ]
        note += " A tick for each run; the bar is their mean."
    said = "; ".join(f"{row['run']}: {row['minutes']:.3f} min" for row in rows[:_MARKED])
    yield Chart(
        title="Minutes to the target",
        note=note,
        said=said,
        spec=_spec(data, alt.layer(*layers), rows=len({row["run" if len(results) == 1 else "result"] for row in rows})),
    )


def _timeline(results: Sequence[ResultSummary], runs: Sequence[Drawn]) -> Iterator[Chart]:
    several = len(results) > 1
    shown = drawn_results(results, runs) if several else runs
    rows = [row for one in shown for row in (_sums(one) if several else _spans(one))]
    if not rows or len(shown) > MOST_BARS:
        return
    data = _Data()
    base = data.chart(rows) if several else _shown(data.chart(rows), coloured=False)
    base = base.transform_calculate(colour="dark ? datum.dark : datum.light")
    bars = base.mark_bar(height=14).encode(
        alt.X("from:Q", title="minutes from run_start", scale=alt.Scale(zero=True)),
        alt.X2("to:Q"),
        alt.Y("run:N", title=None, sort=None, axis=alt.Axis(labelLimit=150)),
        alt.Color("colour:N", scale=None),
        tooltip=[alt.Tooltip("run:N"), alt.Tooltip("kind:N"), alt.Tooltip("seconds:Q", format=",.1f")],
    )
    whose = "Of each result the mean of its runs, put together by kind." if several else "Initialisation is not timed."
    said = "; ".join(f"{one.label}: {_training_share(one)}" for one in shown)
    note = f"{whose} Training takes of the timed part, run_start to run_stop: {said}."
    yield Chart(
        title="Where the time went",
        note=note if len(shown) <= 4 else whose,
        said=said,
        spec=_spec(data, bars, rows=len({row["run"] for row in rows})),
        legend=tuple(_SPAN_COLOURS.items()),
    )


def _spans(one: Drawn) -> Iterator[dict[str, Any]]:
    """All of the timed part as `other`, and over it what it was."""
    (run,) = one.runs
    if len(run.spans) > MOST_SPANS:
        yield from _sums(one)
        return
    if run.timed > 0:
        yield _part(one, "other", 0.0, run.timed, run.shares["other"])
    for span in run.spans:
        yield _part(one, span.kind, span.start, span.end, span.seconds)


def _sums(one: Drawn) -> Iterator[dict[str, Any]]:
    """The kinds behind one another, each as long as all of it."""
    timed = [run.shares for run in one.runs if run.timed > 0]
    start = 0.0
    for kind in ("training", "evaluation", "other"):
        seconds = sum(shares.get(kind, 0.0) for shares in timed) / max(1, len(timed))
        if timed:
            yield _part(one, kind, start, start + seconds, seconds)
        start += seconds


def _part(one: Drawn, kind: str, start: float, end: float, seconds: float) -> dict[str, Any]:
    shade = _SPAN_COLOURS[kind]
    times = {"from": start / 60, "to": end / 60, "seconds": seconds}
    return {**one.row, "kind": kind, "light": shade.light, "dark": shade.dark, **times}


def _training_share(one: Drawn) -> str:
    total = sum(run.timed for run in one.runs)
    training = sum(run.shares.get("training", 0.0) for run in one.runs if run.timed > 0)
    return f"{training / total:.1%}" if total > 0 else "not stopped"


def _step_times(results: Sequence[ResultSummary], runs: Sequence[Drawn]) -> Iterator[Chart]:
    shown = runs if len(results) == 1 else drawn_results(results, runs)
    sets = [(one, np.concatenate([run.step_seconds.values for run in one.runs])) for one in shown]
    sets = [(one, values) for one, values in sets if len(values)]
    if not sets or len(sets) > MOST_OVERLAID:
        return
    rows = [
        {**one.row, "from": low, "to": high, "share": number / len(values), "number": number}
        for one, values in sets
        for low, high, number in histogram(values, 48)
        if number
    ]
    data = _Data()
    bars = (
        _shown(data.chart(rows))
        .mark_bar(opacity=0.7)
        .encode(
            alt.X("from:Q", title="seconds a step", scale=alt.Scale(zero=False)),
            alt.X2("to:Q"),
            alt.Y(
                "share:Q", title="share of the steps", stack=None, axis=alt.Axis(format=".2~%", values=_SHARES)
            ).scale(type="sqrt", zero=True),
            alt.Y2Datum(0),
            alt.Color("colour:N", scale=None),
            alt.Detail("key:N"),
            tooltip=[
                alt.Tooltip("run:N"),
                "number:Q",
                *(alt.Tooltip(f"{name}:Q", format=".4~g") for name in ("from", "to")),
            ],
        )
    )
    yield Chart(
        title="Distribution of step times",
        note="The height is the square root of the share, so that one slow step among hundreds is seen.",
        said="; ".join(f"{one.label}: {values.min():.4g} to {values.max():.4g} s" for one, values in sets),
        spec=_spec(data, bars, height=240),
    )


_SHARES = [0.0, 0.002, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 1.0]


# Rounds.


def _scaling(
    results: Sequence[ResultSummary], runs: Sequence[Drawn], published: Sequence[ResultSummary]
) -> Iterator[Chart]:
    """Minutes over accelerators, by what they are and how they compute; ours on top of the published ones."""
    others = [row for one in published if (row := _scaled(one, "published"))]
    ours = [
        {**drawn.row, **row} for drawn in drawn_results(results, runs) if (row := _scaled(drawn.result, "this report"))
    ]
    points = [*others, *ours]
    if len(points) < 3 or not (others or len({row["gpus"] for row in ours}) > 1):
        return
    kinds = list(dict.fromkeys(row["kind"] for row in points))
    shades = {kind: colour(place) for place, kind in enumerate(kinds)}
    for row in points:
        row |= {"light": shades[row["kind"]].light, "dark": shades[row["kind"]].dark}
    data = _Data()
    x = alt.X("gpus:Q", title="accelerators", scale=alt.Scale(type="log", nice=False, padding=24), axis=_POWERS)
    y = alt.Y("minutes:Q", title="minutes to the target", scale=alt.Scale(type="log", nice=False, padding=16))
    tooltips = [alt.Tooltip(f"{name}:N") for name in ("run", "submitter", "kind", "round", "benchmark", "source")] + [
        alt.Tooltip("gpus:Q", format=","),
        alt.Tooltip("minutes:Q", format=",.3f"),
    ]
    hue = alt.Color("colour:N", scale=None)
    lines = _coloured(data.chart(_ideal(points, shades))).mark_line(strokeDash=[3, 4], opacity=0.7)
    layers: list[Any] = [lines.encode(x, y, hue, alt.Detail("kind:N"))]
    if others:
        marks = _coloured(data.chart(others)).mark_point(filled=True, size=50, opacity=0.8)
        layers.append(marks.encode(x, y, hue, tooltip=tooltips))
    if ours:
        shape = "diamond" if others else "circle"
        marks = _shown(data.chart(ours)).mark_point(filled=True, size=150, shape=shape, stroke="#808080", opacity=0.9)
        layers.append(marks.encode(x, y, hue, tooltip=tooltips))
    yield Chart(
        title="Minutes over accelerators",
        note="Both axes are logarithmic. A dotted line is perfect scaling of the result of its kind with the fewest "
        "accelerator-minutes." + (" Diamonds are this report's results, dots the published ones." if others else ""),
        said="; ".join(
            f"{row['run']}: {row['gpus']} accelerators, {row['minutes']:.3f} min" for row in points[:_MARKED]
        ),
        spec=_spec(data, alt.layer(*layers), height=360),
        wide=True,
        legend=tuple(shades.items()),
    )


_POWERS = alt.Axis(values=[2**power for power in range(18)], format=",")


def _scaled(one: ResultSummary, source: str) -> dict[str, Any] | None:
    minutes = one.score.normalised_minutes or one.score.olympic_minutes
    if not one.gpus or minutes is None or minutes <= 0:
        return None
    kind = " ".join(filter(None, (one.accelerator or "unknown accelerator", one.precision)))
    benchmark = "unknown benchmark" if one.rules is None else one.rules.benchmark
    return {
        "run": one.label,
        "gpus": one.gpus,
        "minutes": minutes,
        "kind": f"{kind}, {benchmark}",
        "benchmark": benchmark,
        "submitter": one.submitter or "",
        "round": one.ruleset,
        "source": source,
    }


def _ideal(points: Rows, shades: Mapping[str, Colour]) -> Rows:
    """Of each kind the line along which accelerators times minutes is constant, as far as its results reach."""
    rows = []
    for kind, shade in shades.items():
        some = [row for row in points if row["kind"] == kind]
        best = min(row["gpus"] * row["minutes"] for row in some)
        ends = sorted({min(row["gpus"] for row in some), max(row["gpus"] for row in some)})
        rows += [
            {"kind": kind, "gpus": gpus, "minutes": best / gpus, "light": shade.light, "dark": shade.dark}
            for gpus in (ends if len(ends) == 2 else ())
        ]
    return rows


# Nodes.


def node_charts(result: ResultSummary) -> Iterator[Chart]:
    """What the nodes of a result's runs measured: a line for each node, or the range of all where they are many."""
    measured = [run for run in result.runs if run.telemetry.nodes]
    many = sum(len(run.telemetry.nodes) for run in measured) > MOST_NODES
    for quantity in (*OF_GPUS, *OF_NODE):
        rows = list(_of_runs(quantity, measured) if many else _of_nodes(quantity, measured))
        if rows:
            yield _node_chart(quantity, rows, many=many)


def _node_chart(quantity: Quantity, rows: Rows, *, many: bool) -> Chart:
    fields = ["minutes", "value", *(["least", "most"] if many else [])]
    data = _Data()
    base = _coloured(data.chart(rows)).transform_flatten([*fields])
    percent = quantity.unit.startswith("%")
    scale = alt.Scale(domain=[0, 100]) if percent else alt.Scale(zero=False)
    x = alt.X("minutes:Q", title=AXES["minutes"], scale=alt.Scale(zero=False, nice=False))
    y, hue, detail = (
        alt.Y("value:Q", title=quantity.unit, scale=scale),
        alt.Color("colour:N", scale=None),
        alt.Detail("key:N"),
    )
    layers: list[Any] = []
    if many:
        layers.append(
            base.mark_area(opacity=0.2).encode(x, alt.Y("least:Q", title=quantity.unit), alt.Y2("most:Q"), hue, detail)
        )
    layers.append(base.mark_line(strokeWidth=1.4).encode(x, y, hue, detail))
    tooltips = [alt.Tooltip("run:N"), *(alt.Tooltip(f"{name}:Q", format=",.4~g") for name in ("value", "minutes"))]
    hover = base.mark_point(filled=True, size=60, opacity=0).encode(x, y, detail, tooltip=tooltips)
    layers.append(hover.properties(name="hover"))
    said = "The line is the mean of the nodes, the shade their range." if many else ""
    return Chart(
        title=quantity.title,
        note=" ".join(filter(None, (quantity.which, said))),
        said="; ".join(f"{row['run']}: {row['value'][0]:.4g} to {row['value'][-1]:.4g}" for row in rows),
        spec=_spec(data, alt.layer(*layers), height=180),
        legend=tuple((row["run"], Colour(row["light"], row["dark"])) for row in rows),
    )


def _of_nodes(quantity: Quantity, runs: Sequence[RunSummary]) -> Iterator[dict[str, Any]]:
    nodes = [(run, node) for run in runs for node in run.telemetry.nodes]
    for place, (run, node) in enumerate(nodes):
        points = _thinned(node.curves.get(quantity.title, []))
        if points:
            label = node.node if len(runs) == 1 else f"{run.name} {node.node}"
            yield _node_row(place, label) | _of_points(points)


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    return [(one.x, one.mean) for one in spread(points, MOST_OF_LINE)] if len(points) > MOST_OF_LINE else points


def _of_points(points: Iterable[Point]) -> dict[str, list[float]]:
    minutes, values = zip(*points, strict=True)
    return {"minutes": _rounded(np.array(minutes)), "value": _rounded(np.array(values))}


def _of_runs(quantity: Quantity, runs: Sequence[RunSummary]) -> Iterator[dict[str, Any]]:
    for place, run in enumerate(runs):
        curves = [node.curves.get(quantity.title, []) for node in run.telemetry.nodes]
        points = [point for curve in curves for point in curve]
        if points:
            bins = spread(points, min(max(map(len, curves)), MOST_OF_LINE))
            yield _node_row(place, f"{run.name}, {len(curves)} nodes") | {
                "minutes": [one.x for one in bins],
                "value": [one.mean for one in bins],
                "least": [one.low for one in bins],
                "most": [one.high for one in bins],
            }


def _node_row(place: int, label: str) -> dict[str, Any]:
    shade = colour(place)
    return {"key": f"node {place}", "run": label, "light": shade.light, "dark": shade.dark}


# Parts of descriptions.


class _Data(dict[str, Rows]):
    """The data of a chart, by the names that its description has for it: Altair would look at every value of it."""

    def chart(self, rows: Rows) -> alt.Chart:
        name = f"rows{len(self)}"
        self[name] = rows
        return alt.Chart(alt.NamedData(name=name))


def _coloured(base: alt.Chart) -> alt.Chart:
    return base.transform_calculate(colour="dark ? datum.dark : datum.light")


def _shown(base: alt.Chart, *, coloured: bool = True) -> alt.Chart:
    """Without the runs that are switched off, whose keys, or whose result's, are in `hidden`."""
    base = base.transform_filter("indexof(hidden, datum.key) < 0")
    return _coloured(base) if coloured else base


def _within(base: alt.Chart) -> alt.Chart:
    return base.transform_filter("low == null || (datum.x >= low && datum.x <= high)")


_PARAMETERS: Mapping[str, Any] = {
    "axis": "samples",
    "hidden": [],
    "low": None,
    "high": None,
    "smooth": False,
    "logarithmic": False,
    "dark": False,
}


def _spec(data: _Data, chart: Any, *, height: int | None = None, rows: int | None = None) -> dict[str, Any]:
    """The description with its data and the page's parameters, as wide as its place where it is no facet."""
    # Vega-Lite's own height by rows warns of each chart that is as wide as its place.
    tall = _ROW * rows if rows is not None else height
    size = {} if tall is None else {"height": tall, "width": "container"}
    spec: dict[str, Any] = chart.properties(**size).to_dict()
    del spec["config"]
    spec["datasets"] = dict(data)
    spec["params"] = [*({"name": name, "value": value} for name, value in _PARAMETERS.items()), *spec.get("params", ())]
    return spec


_ROW = 22
"""Pixels of a bar and the space below it."""
