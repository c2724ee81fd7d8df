"""Describe the charts of a report for Vega-Lite, by Altair: their data, their marks, and the texts around them.

One description serves the page, where it is explored, and its still picture. The page sets its parameters: `axis` (what
x is), `hidden` (keys of runs that are switched off), `low` and `high` (the part of x that is shown), `smooth`,
`logarithmic`, `dark`, and `pointing` (whether the pointer is over the chart).
Texts of logs are values of data, never expressions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import altair as alt
import numpy as np

from report.facts import SLOW
from report.palette import Colour, colour
from report.results import Curve, ResultSummary, RunSummary, labels
from report.series import histogram, spread
from report.telemetry import OF_GPUS, OF_NODE, Quantity

AXES = {"samples": "samples", "steps": "optimizer steps", "minutes": "minutes from run_start"}
"""The choices for x -> their titles."""

MOST_DRAWN = 8_000
"""Most points of all lines of a chart. A browser draws so many in a quarter of a second."""

MOST_OF_LINE, LEAST_OF_LINE = 400, 16
"""Points of a line; a longer one is drawn as the mean and the range of its bins."""

MOST_RANGES = 60
"""Most lines for which the range of each bin is drawn; among more, nobody could tell whose range it is."""

MOST_BARS = 40
"""Most results, or runs, that get a bar each."""

MOST_OVERLAID = 12
"""Most results whose distributions of step times are drawn over one another."""

MULTIPLES_FROM = 5
"""Fewest systems for which each one also gets a small chart."""

MOST_MULTIPLES = 150
"""Most systems that get a small chart."""

MOST_SPANS = 200
"""Most spans of a run that are drawn one by one; of more, the sums are drawn."""

MOST_NODES = 16
"""Most nodes, of all runs together, that get a line each; of more, the range over each run's nodes is drawn."""

MOST_MARKED = 60
"""Most lines, and most points of each, for which every point is marked."""

_SMOOTHED = 20
"""Points of which a smoothed line is the mean."""

_SPAN_COLOURS = {
    "initialisation": Colour("#6b7280", "#a3abb8"),
    "training": Colour("#0b62a8", "#6cb4f0"),
    "evaluation": Colour("#b3430a", "#ff9d6b"),
    "other": Colour("#8a5a9e", "#c9a5dc"),
}

_GREY = "#808080"
"""Colour of marks that belong to none of the runs; legible on both the light and the dark page."""

Row = dict[str, Any]
Rows = list[Row]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart: its description for Vega-Lite and the texts around it."""

    title: str
    note: str
    description: str
    """For people who cannot see it."""
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
    def row(self) -> Row:
        return _row(self.key, self.label, self.colour)


def _row(key: str, label: str, shade: Colour) -> Row:
    return {"key": key, "run": label, "light": shade.light, "dark": shade.dark}


def drawn_runs(results: Sequence[ResultSummary]) -> list[Drawn]:
    """Return every run: a hue for its system, a shade for itself; of a single result, a hue for each run."""
    runs = [
        (number, place, result, run) for number, result in enumerate(results) for place, run in enumerate(result.runs)
    ]
    counts = Counter(result.system_name for _, _, result, _ in runs)
    systems, seen = list(counts), Counter[str]()
    drawn = []
    for number, place, result, run in runs:
        name = result.system_name
        single = len(results) == 1
        shade = colour(place) if single else colour(systems.index(name), seen[name], counts[name])
        seen[name] += 1
        label = run.name if single else f"{result.label} {run.number}"
        drawn.append(Drawn(key=f"{number}.{place}", label=label, system=name, colour=shade, result=result, runs=(run,)))
    return drawn


def drawn_results(results: Sequence[ResultSummary], runs: Sequence[Drawn]) -> list[Drawn]:
    """Return every result, in the colour of its first run."""
    firsts = {run.key: run for run in runs}
    return [
        replace(firsts[f"{number}.0"], key=str(number), label=result.label, runs=tuple(result.runs))
        for number, result in enumerate(results)
        if result.runs
    ]


def charts(results: Sequence[ResultSummary], published: Sequence[ResultSummary] = ()) -> Iterator[Chart]:
    """Yield every chart for which the logs have numbers."""
    runs = drawn_runs(results)
    yield from _evaluations(results, runs)
    yield from _steps("Training loss", "training loss", runs, lambda run: run.losses)
    yield from _steps("Step time over the run", "seconds per step", runs, lambda run: run.step_seconds, _slow(runs))
    yield from _step_times(results, runs)
    yield from _minutes(results, runs)
    yield from _timeline(results, runs)
    yield from _scaling(results, runs, published)
    yield from _multiples(runs)


# Lines over a run.


def _evaluations(results: Sequence[ResultSummary], runs: Sequence[Drawn]) -> Iterator[Chart]:
    rows = _evaluated(runs)
    if not rows:
        return
    targets = sorted({result.rules.target_log_perplexity for result in results if result.rules is not None})
    references = {result.reference for result in results if result.reference is not None}
    zones = {
        f"{record.mean:,.0f} ± {record.deviation:,.0f} samples at batch size {record.global_batch_size}": record
        for record in sorted(references, key=lambda record: record.global_batch_size)
    }
    note = "Each evaluation of each run. A run stops at the first one at or below the target."
    if 0 < len(zones) <= 4:
        note += f" The shaded zone is the reference's mean ± one standard deviation: {'; '.join(zones)}."
    elif zones:
        note += f" The shaded zones are the reference's means ± one standard deviation at {len(zones)} batch sizes."
    data = _Data()
    bounds = [
        {"name": name, "from": zone.mean - zone.deviation, "to": zone.mean + zone.deviation}
        for name, zone in zones.items()
    ]
    shade = data.bind(alt.Chart(), bounds).transform_filter("axis == 'samples' && low == null")
    levels = data.bind(alt.Chart(), [{"level": value, "name": f"target {value}"} for value in targets])
    below = [
        shade.mark_rect(opacity=0.15, color="#0b62a8").encode(
            alt.X("from:Q", title=AXES["samples"]), x2="to:Q", tooltip="name:N"
        ),
        levels.mark_rule(strokeDash=[5, 4], color=_GREY).encode(y="level:Q", tooltip="name:N"),
    ]
    yield Chart(
        title="Evaluations",
        note=note,
        description="; ".join([_ends(rows, "log perplexity"), *(f"target {value}" for value in targets)]),
        spec=_spec(data, alt.layer(*below, _lines(data, rows, "log perplexity")), height=240),
        over_run=True,
    )


def _evaluated(runs: Sequence[Drawn]) -> Rows:
    """Return the lines of the evaluations, each with a short name of its system."""
    systems = list(dict.fromkeys(run.system for run in runs))
    names = dict(zip(systems, labels(systems), strict=True))
    name_of = {run.key: names[run.system] for run in runs}
    return [row | {"system": name_of[row["key"]]} for row in _curves(runs, lambda run: run.evaluations)]


def _slow(runs: Sequence[Drawn]) -> str:
    times = [times for drawn in runs for run in drawn.runs if (times := run.step_times) is not None]
    slow, steps = sum(len(one.slow) for one in times), sum(one.count for one in times)
    return f"{slow:,} of {steps:,} steps took {SLOW} times the median of their run or longer. "


def _steps(
    title: str, y: str, runs: Sequence[Drawn], curve: Callable[[RunSummary], Curve], note: str = ""
) -> Iterator[Chart]:
    rows = _curves(runs, curve)
    if not rows:
        return
    longest = max(len(curve(run)) for drawn in runs for run in drawn.runs)
    steps = -(-longest // _most_of_line(len(runs)))
    shade = ", the shade their range" if "least" in rows[0] else ""
    note += "Every step is drawn." if steps == 1 else f"The line is the mean of up to {steps} steps{shade}."
    data = _Data()
    yield Chart(
        title=title,
        note=note,
        description=_ends(rows, y),
        spec=_spec(data, _lines(data, rows, y, smoothed=True), height=240),
        over_run=True,
    )


def _multiples(runs: Sequence[Drawn]) -> Iterator[Chart]:
    rows = _evaluated(runs)
    systems = list(dict.fromkeys(row["system"] for row in rows))
    if len(systems) < MULTIPLES_FROM:
        return
    shown = systems[:MOST_MULTIPLES]
    rows = [row for row in rows if row["system"] in shown]
    data = _Data()
    x = alt.X("x:Q", title=None, scale=_SNUG, axis=alt.Axis(tickCount=3, format="~s"))
    line = alt.Chart().mark_line(point=alt.OverlayMarkDef(size=16), strokeWidth=1.2)
    cell = _over_run(line.encode(x, _y("value", None), HUE, EACH, tooltip=_tips(value=_ANY, x=_ANY)), data, rows)
    left_out = len(systems) - len(shown)
    yield Chart(
        title="Evaluations by system",
        note="The log perplexity of the evaluations, on the same axes for all systems."
        + (f" {left_out} more systems are left out." if left_out else ""),
        description=f"small charts of {', '.join(systems[:MOST_MARKED])}",
        spec=_spec(
            data,
            cell.properties(width=180, height=110).facet(
                facet=alt.Facet("system:N", title=None, header=alt.Header(labelLimit=180)), columns=5
            ),
        ),
        wide=True,
        folded=True,
        over_run=True,
    )


def _most_of_line(lines: int) -> int:
    return max(LEAST_OF_LINE, min(MOST_OF_LINE, MOST_DRAWN // max(1, lines)))


def _curves(runs: Sequence[Drawn], curve: Callable[[RunSummary], Curve]) -> Rows:
    """Return a row for each line, with its points as columns, which `_flattened` takes apart."""
    curves = [(drawn, run, points) for drawn in runs for run in drawn.runs if len(points := curve(run))]
    most = _most_of_line(len(runs))
    ranged = len(runs) <= MOST_RANGES and any(len(points) > most for *_, points in curves)
    return [
        {**drawn.row, "batch": run.batch or 1, **_columns(points, most, ranged=ranged)} for drawn, run, points in curves
    ]


def _columns(curve: Curve, most: int, *, ranged: bool) -> dict[str, list[float]]:
    starts = np.arange(0, len(curve), max(1, -(-len(curve) // most)))
    counts = np.diff([*starts, len(curve)])
    sums = {"samples": curve.samples, "minutes": curve.minutes, "value": curve.values}
    columns = {name: np.add.reduceat(values, starts) / counts for name, values in sums.items()}
    if ranged:
        columns["least"] = np.minimum.reduceat(curve.values, starts)
        columns["most"] = np.maximum.reduceat(curve.values, starts)
    return {name: _rounded(values, 9 if name == "samples" else 6) for name, values in columns.items()}


def _rounded(values: Iterable[float], digits: int = 6) -> list[float]:
    short = (float(f"{value:.{digits}g}") for value in values)
    return [int(value) if value.is_integer() else value for value in short]


def _ends(rows: Rows, y: str) -> str:
    return "; ".join(f"{row['run']}: {y} {row['value'][0]:.4g} to {row['value'][-1]:.4g}" for row in rows[:MOST_MARKED])


def _lines(data: _Data, rows: Rows, y: str, *, smoothed: bool = False) -> Any:
    """Return the lines over a run: ranges, smoothed lines, points that answer the pointer, and the zoom by a drag."""
    value = _y("value", y)
    faded = alt.when("smooth").then(alt.value(0.3)).otherwise(alt.value(1.0)) if smoothed else alt.value(1.0)
    smooth = alt.Chart().transform_filter("smooth").mark_line(strokeWidth=2.2).encode(_y("smoothed", y))
    marked = len(rows) <= MOST_MARKED and all(len(row["value"]) <= MOST_MARKED for row in rows)
    points = _points(marked=marked).encode(value, tooltip=_tips(value=_ANY, samples=_ANY, steps=_ANY, minutes=_ANY))
    layers = [
        *_ranges(rows, y),
        alt.Chart().mark_line(strokeWidth=1.6).encode(value, opacity=faded),
        *([smooth] if smoothed else []),
        points.add_params(alt.selection_interval(name="brush", encodings=["x"], on=_BY_MOUSE)).properties(
            name="points"
        ),
    ]
    x = alt.X("x:Q", title=AXES["samples"], scale=_SNUG)
    return _over_run(alt.layer(*layers).encode(x, HUE, EACH), data, rows, smoothed=smoothed)


_BY_MOUSE = "[pointerdown[event.pointerType === 'mouse'], window:pointerup] > window:pointermove!"
"""A finger scrolls the page."""


def _over_run(chart: Any, data: _Data, rows: Rows, *, smoothed: bool = False) -> Any:
    """Return a chart with points over the run, on the axis that the page has chosen, as far as it shows them."""
    chart = _flattened(_shown(data.bind(chart, rows)), rows)
    chart = chart.transform_calculate(steps="datum.samples / datum.batch", x="datum[axis]")
    if smoothed:
        chart = chart.transform_window(smoothed="mean(value)", frame=[1 - _SMOOTHED, 0], groupby=["key"])
    chart = chart.transform_filter("low == null || (datum.x >= low && datum.x <= high)")
    return chart.transform_filter("!logarithmic || datum.value > 0")


def _flattened(chart: Any, rows: Rows) -> Any:
    """Return a chart with a datum for each point, made of the columns of its rows."""
    return chart.transform_flatten([name for name, values in rows[0].items() if isinstance(values, list)])


def _ranges(rows: Rows, y: str) -> list[Any]:
    area = alt.Chart().mark_area(opacity=0.2).encode(_y("least", y), alt.Y2("most:Q"))
    return [area] if "least" in rows[0] else []


def _points(*, marked: bool = False) -> Any:
    """Return a layer of points for tooltips. Unmarked ones are made only once the pointer is over the chart."""
    if marked:
        return alt.Chart().mark_point(filled=True, size=36, opacity=1)
    # Clipped, or the chart would grow by those at its edges.
    return alt.Chart().transform_filter("pointing").mark_point(filled=True, size=60, opacity=0, clip=True)


# Bars.


def _minutes(results: Sequence[ResultSummary], runs: Sequence[Drawn]) -> Iterator[Chart]:
    """Yield a tick for each run on the bar of its result; of a single result, a bar for each run."""
    single = len(results) == 1
    rows = [
        drawn.row | {"bar": drawn.label if single else drawn.result.label, "minutes": run.minutes}
        for drawn in runs
        for run in drawn.runs
        if run.minutes is not None
    ]
    if not rows or len(results) > MOST_BARS:
        return
    level = results[0].score.olympic_minutes if single else None
    note = "From run_start to run_stop, of the runs that reached the target."
    if level is not None:
        note += f" The line is the olympic mean, {level:.3f} min."
    elif not single:
        note += " Each run is a tick; the bar is their mean."
    data = _Data()
    minutes = alt.X("mean(minutes):Q", title="minutes", scale=_FROM_ZERO)
    bars = (
        alt.Chart()
        .mark_bar(height=12, opacity=1 if single else 0.35)
        .encode(minutes, color=alt.Color("min(colour):N", scale=None))
    )
    ticks = alt.Chart().mark_tick(thickness=2, size=14).encode(HUE, x="minutes:Q", tooltip=_tips(minutes=",.3f"))
    order = None if single else alt.EncodingSortField("minutes", op="mean")
    layers = [_shown(data.bind(alt.layer(bars, ticks), rows)).encode(_names("bar", order))]
    if level is not None:
        mean = data.bind(alt.Chart(), [{"level": level}]).mark_rule(strokeWidth=2, color=_GREY)
        layers.append(mean.encode(x="level:Q"))
    yield Chart(
        title="Minutes to the target",
        note=note,
        description="; ".join(f"{row['run']}: {row['minutes']:.3f} min" for row in rows[:MOST_MARKED]),
        spec=_spec(data, alt.layer(*layers), rows=len({row["bar"] for row in rows})),
    )


def _timeline(results: Sequence[ResultSummary], runs: Sequence[Drawn]) -> Iterator[Chart]:
    several = len(results) > 1
    shown = drawn_results(results, runs) if several else runs
    rows = [row for drawn in shown for row in (_sums(drawn) if several else _spans(drawn))]
    if not rows or len(shown) > MOST_BARS:
        return
    data = _Data()
    start = alt.X("from:Q", title=AXES["minutes"], scale=_FROM_ZERO)
    bars = data.bind(alt.Chart(), rows).mark_bar(height=14)
    bars = bars.encode(start, alt.X2("to:Q"), _names("run"), HUE, tooltip=_tips(kind="", seconds=",.1f"))
    shares = "; ".join(f"{drawn.label}: {_training_share(drawn)}" for drawn in shown)
    description = f"Training's share of the time from run_start to run_stop: {shares}."
    note = "The mean of each result's runs, by kind." if several else "Initialisation is not part of the timed run."
    yield Chart(
        title="Where the time went",
        note=f"{note} {description}" if len(shown) <= 4 else note,
        description=description,
        spec=_spec(data, _coloured(bars) if several else _shown(bars), rows=len({row["run"] for row in rows})),
        legend=tuple(
            (kind, shade) for kind, shade in _SPAN_COLOURS.items() if any(row["kind"] == kind for row in rows)
        ),
    )


def _spans(drawn: Drawn) -> Iterator[Row]:
    """Yield all of the timed part as `other`, and over it the spans that are known."""
    (run,) = drawn.runs
    if len(run.spans) > MOST_SPANS:
        yield from _sums(drawn)
        return
    if run.timed > 0:
        yield _part(drawn, "other", 0.0, run.timed, run.shares["other"])
    for span in run.spans:
        yield _part(drawn, span.kind, span.start, span.end, span.seconds)


def _sums(drawn: Drawn) -> Iterator[Row]:
    """Yield the kinds one after another, each as long as all of its spans together."""
    timed = [run.shares for run in drawn.runs if run.timed > 0]
    start = 0.0
    for kind in ("training", "evaluation", "other") if timed else ():
        seconds = sum(shares.get(kind, 0.0) for shares in timed) / len(timed)
        yield _part(drawn, kind, start, start + seconds, seconds)
        start += seconds


def _part(drawn: Drawn, kind: str, start: float, end: float, seconds: float) -> Row:
    row = _row(drawn.key, drawn.label, _SPAN_COLOURS[kind])
    return row | {"kind": kind, "from": start / 60, "to": end / 60, "seconds": seconds}


def _training_share(drawn: Drawn) -> str:
    total = sum(run.timed for run in drawn.runs)
    training = sum(run.shares.get("training", 0.0) for run in drawn.runs if run.timed > 0)
    return f"{training / total:.1%}" if total > 0 else "not stopped"


def _step_times(results: Sequence[ResultSummary], runs: Sequence[Drawn]) -> Iterator[Chart]:
    shown = runs if len(results) == 1 else drawn_results(results, runs)
    sets = [(drawn, np.concatenate([run.step_seconds.values for run in drawn.runs])) for drawn in shown]
    sets = [(drawn, values) for drawn, values in sets if len(values)]
    if not sets or len(sets) > MOST_OVERLAID:
        return
    rows = [
        drawn.row | {"from": low, "to": high, "share": steps / len(values), "steps": steps}
        for drawn, values in sets
        for low, high, steps in histogram(values, 48)
        if steps
    ]
    data = _Data()
    share = alt.Y("share:Q", title="share of the steps", stack=None, axis=alt.Axis(format=".2~%", values=_SHARES))
    bars = _shown(data.bind(alt.Chart(), rows)).mark_bar(opacity=0.7)
    bars = bars.encode(
        alt.X("from:Q", title="seconds per step", scale=_NOT_FROM_ZERO),
        alt.X2("to:Q"),
        share.scale(type="sqrt", zero=True),
        alt.Y2Datum(0),
        HUE,
        EACH,
        tooltip=_tips(steps=",", **{"from": ".4~g", "to": ".4~g"}),
    )
    yield Chart(
        title="Distribution of step times",
        note="The height is the square root of the share, so that one slow step among hundreds can be seen.",
        description="; ".join(f"{drawn.label}: {values.min():.4g} to {values.max():.4g} s" for drawn, values in sets),
        spec=_spec(data, bars, height=240),
    )


_SHARES = [0.0, 0.002, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 1.0]


# Rounds.


def _scaling(
    results: Sequence[ResultSummary], runs: Sequence[Drawn], published: Sequence[ResultSummary]
) -> Iterator[Chart]:
    """Yield minutes over accelerators, by accelerator and precision: this report's results and the published ones."""
    rows = [row for result in published for row in _scaled(result, "published")]
    compared = bool(rows)
    rows += [drawn.row | row for drawn in drawn_results(results, runs) for row in _scaled(drawn.result, "this report")]
    if len(rows) < 3 or not (compared or len({row["gpus"] for row in rows}) > 1):
        return
    shades = {kind: colour(place) for place, kind in enumerate(dict.fromkeys(row["kind"] for row in rows))}
    for row in rows:
        row |= {"light": shades[row["kind"]].light, "dark": shades[row["kind"]].dark}
    data = _Data()
    ideal = _coloured(alt.Chart()).transform_calculate(work="datum.gpus * datum.minutes")
    ideal = ideal.transform_aggregate(work="min(work)", few="min(gpus)", many="max(gpus)", groupby=["kind", "colour"])
    ideal = ideal.transform_fold(["few", "many"], as_=["end", "gpus"])
    ideal = ideal.transform_calculate(minutes="datum.work / datum.gpus")
    ours = alt.when("datum.source == 'this report'")
    layers = [
        ideal.mark_line(strokeDash=[3, 4], opacity=0.7).encode(detail="kind:N"),
        _shown(alt.Chart())
        .mark_point(filled=True, stroke=_GREY, opacity=0.9)
        .encode(
            shape=ours.then(alt.value("diamond")).otherwise(alt.value("circle")),
            size=ours.then(alt.value(150)).otherwise(alt.value(50)),
            tooltip=_tips(submitter="", kind="", round="", source="", gpus=",", minutes=",.3f"),
        ),
    ]
    x = alt.X("gpus:Q", title="accelerators", scale=alt.Scale(type="log", nice=False, padding=24), axis=_POWERS)
    y = alt.Y("minutes:Q", title="minutes to the target", scale=alt.Scale(type="log", nice=False, padding=16))
    yield Chart(
        title="Minutes over accelerators",
        note="Both axes are logarithmic. A dotted line is perfect scaling from the result of its kind that took the "
        "fewest accelerator-minutes."
        + (" Diamonds are this report's results, dots the published ones." if compared else ""),
        description="; ".join(
            f"{row['run']}: {row['gpus']} accelerators, {row['minutes']:.3f} min" for row in rows[:MOST_MARKED]
        ),
        spec=_spec(data, data.bind(alt.layer(*layers), rows).encode(x, y, HUE), height=360),
        wide=True,
        legend=tuple(shades.items()),
    )


_POWERS = alt.Axis(values=[2**power for power in range(18)], format=",")


def _scaled(result: ResultSummary, source: str) -> Iterator[Row]:
    minutes = result.score.normalised_minutes or result.score.olympic_minutes
    if not result.gpus or minutes is None or minutes <= 0:
        return
    kind = " ".join(filter(None, (result.accelerator or "unknown accelerator", result.precision)))
    benchmark = "unknown benchmark" if result.rules is None else result.rules.benchmark
    yield {
        "run": result.label,
        "gpus": result.gpus,
        "minutes": minutes,
        "kind": f"{kind}, {benchmark}",
        "submitter": result.submitter or "",
        "round": result.ruleset,
        "source": source,
    }


# Nodes.


def node_charts(result: ResultSummary) -> Iterator[Chart]:
    """Yield what the nodes of a result's runs measured: a line for each node; of many, the range over each run's."""
    measured = [run for run in result.runs if run.telemetry.nodes]
    many = sum(len(run.telemetry.nodes) for run in measured) > MOST_NODES
    for quantity in (*OF_GPUS, *OF_NODE):
        rows = list((_of_runs if many else _of_nodes)(quantity.title, measured))
        if rows:
            yield _node_chart(quantity, rows)


def _node_chart(quantity: Quantity, rows: Rows) -> Chart:
    scale = alt.Scale(domain=[0, 100]) if quantity.unit.startswith("%") else _NOT_FROM_ZERO
    value = alt.Y("value:Q", title=quantity.unit, scale=scale)
    ranges = _ranges(rows, quantity.unit)
    line = alt.Chart().mark_line(strokeWidth=1.4).encode(value)
    points = _points().encode(value, tooltip=_tips(value=_ANY, minutes=_ANY))
    x = alt.X("minutes:Q", title=AXES["minutes"], scale=_SNUG)
    data = _Data()
    lines = data.bind(alt.layer(*ranges, line, points).encode(x, HUE, EACH), rows)
    note = "The line is the mean of the nodes, the shade their range." if ranges else ""
    return Chart(
        title=quantity.title,
        note=" ".join(filter(None, (quantity.which, note))),
        description=_ends(rows, quantity.unit),
        spec=_spec(data, _flattened(_coloured(lines), rows), height=180),
        legend=tuple((row["run"], Colour(row["light"], row["dark"])) for row in rows),
    )


def _of_nodes(title: str, runs: Sequence[RunSummary]) -> Iterator[Row]:
    nodes = [(run, node) for run in runs for node in run.telemetry.nodes]
    for place, (run, node) in enumerate(nodes):
        points = node.curves.get(title, [])
        if len(points) > MOST_OF_LINE:
            points = [(one.x, one.mean) for one in spread(points, MOST_OF_LINE)]
        if points:
            label = node.node if len(runs) == 1 else f"{run.name} {node.node}"
            minutes, values = map(_rounded, zip(*points, strict=True))
            yield _row(f"node {place}", label, colour(place)) | {"minutes": minutes, "value": values}


def _of_runs(title: str, runs: Sequence[RunSummary]) -> Iterator[Row]:
    for place, run in enumerate(runs):
        curves = [node.curves.get(title, []) for node in run.telemetry.nodes]
        points = [point for curve in curves for point in curve]
        if points:
            bins = spread(points, min(max(map(len, curves)), MOST_OF_LINE))
            yield _row(f"node {place}", f"{run.name}, {len(curves)} nodes", colour(place)) | {
                "minutes": _rounded(one.x for one in bins),
                "value": _rounded(one.mean for one in bins),
                "least": _rounded(one.low for one in bins),
                "most": _rounded(one.high for one in bins),
            }


# Parts of descriptions.

HUE = alt.Color("colour:N", scale=None)
EACH = alt.Detail("key:N")
_FROM_ZERO = alt.Scale(zero=True)
_NOT_FROM_ZERO = alt.Scale(zero=False)
_SNUG = alt.Scale(zero=False, nice=False)
_ANY = ",.6~g"
"""How a tooltip writes a number of any size."""


class _Data(dict[str, Rows]):
    """The data of a chart, by the names that its description uses. Altair would look at every value of it."""

    def bind(self, chart: Any, rows: Rows) -> Any:
        name = f"rows{len(self)}"
        self[name] = rows
        return chart.properties(data=alt.NamedData(name=name))


def _y(field: str, title: str | None) -> alt.Y:
    """Return a vertical axis, which the page may make logarithmic: it looks for the type."""
    return alt.Y(f"{field}:Q", title=title, scale=alt.Scale(type="linear", zero=False))


def _names(field: str, sort: alt.EncodingSortField | None = None) -> alt.Y:
    """Return the axis of bars that have names."""
    return alt.Y(f"{field}:N", title=None, sort=sort, axis=alt.Axis(labelLimit=180))


def _tips(**formats: str) -> list[alt.Tooltip]:
    """Return what a tooltip shows below the run's name: fields, and how to write their numbers; "" for texts."""
    fields = [
        alt.Tooltip(f"{name}:Q", format=text) if text else alt.Tooltip(f"{name}:N") for name, text in formats.items()
    ]
    return [alt.Tooltip("run:N"), *fields]


def _coloured(chart: Any) -> Any:
    return chart.transform_calculate(colour="dark ? datum.dark : datum.light")


def _shown(chart: Any) -> Any:
    """Return a chart without the runs that are switched off, whose keys, or whose result's, are in `hidden`."""
    return _coloured(chart.transform_filter("indexof(hidden, datum.key) < 0"))


_PARAMETERS: Mapping[str, Any] = {
    "axis": "samples",
    "hidden": [],
    "low": None,
    "high": None,
    "smooth": False,
    "logarithmic": False,
    "dark": False,
    "pointing": False,
}


def _spec(data: _Data, chart: Any, *, height: int | None = None, rows: int | None = None) -> dict[str, Any]:
    """Return the description with its data and the page's parameters, as wide as its place unless it has facets."""
    # Vega-Lite's own height by rows warns of each chart that is as wide as its place.
    tall = _ROW * rows if rows is not None else height
    size = {} if tall is None else {"height": tall, "width": "container"}
    spec: dict[str, Any] = chart.properties(**size).to_dict()
    spec.pop("config", None)
    spec["datasets"] = dict(data)
    spec["params"] = [*({"name": name, "value": value} for name, value in _PARAMETERS.items()), *spec.get("params", ())]
    return spec


_ROW = 22
"""Pixels of a bar and the space below it."""
