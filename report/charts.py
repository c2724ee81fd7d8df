"""Which charts a report has, from the facts: what is drawn, in which colour, and what is said about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from report.chart import Bar, Level, Line, Zone, bar_chart, histogram_chart, line_chart
from report.facts import SLOW, ResultFacts, RunFacts
from report.markup import Markup
from report.series import MOST_POINTS
from report.telemetry import OF_GPUS, OF_NODE

MOST_RUNS = 24
"""Runs that are drawn; all are in the tables."""

MOST_SPANS = 200
"""Spans of a run that are drawn one by one; of more, the sums."""

MOST_NODES = 16
"""Nodes of all runs that have a line each; of more, the range of each run's is drawn."""

_SPAN_STYLES = {"initialisation": "bar c5", "training": "bar c0", "evaluation": "bar c1", "other": "bar c4"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A drawing and what stands below it."""

    title: str
    drawing: Markup
    note: str
    legend: tuple[tuple[str, str], ...] = ()
    """(class of the colour, label)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """A run with its place in the charts."""

    run: RunFacts
    label: str
    colour: int


def charts(results: Sequence[ResultFacts]) -> Iterator[Chart]:
    """Every chart for which the logs have numbers."""
    runs = _drawn(results)
    legend = _legend(results, runs)
    makers = (_evaluations, _losses, _step_times, _step_curve)
    yield from (chart for maker in makers for chart in maker(results, runs, legend))
    yield from _minutes(results, runs)
    yield from _timeline(runs)


def _drawn(results: Sequence[ResultFacts]) -> list[_Drawn]:
    """The first runs, coloured by result where there are several, else one by one."""
    several = len(results) > 1
    found = [
        _Drawn(run=run, label=f"{result.name} {run.name}" if several else run.name, colour=index if several else number)
        for index, result in enumerate(results)
        for number, run in enumerate(result.runs)
    ]
    return found[:MOST_RUNS]


def _legend(results: Sequence[ResultFacts], runs: Sequence[_Drawn]) -> tuple[tuple[str, str], ...]:
    if len(results) > 1:
        return tuple((f"c{index % 8}", result.name) for index, result in enumerate(results[:MOST_RUNS]))
    return tuple((f"c{one.colour % 8}", f"{one.label}, seed {one.run.seed}") for one in runs)


Legend = tuple[tuple[str, str], ...]


def _evaluations(results: Sequence[ResultFacts], runs: Sequence[_Drawn], legend: Legend) -> Iterator[Chart]:
    lines = [Line(label=one.label, colour=one.colour, points=one.run.evaluations) for one in runs]
    if not any(line.points for line in lines):
        return
    targets = {result.rules.target_log_perplexity for result in results if result.rules is not None}
    zones = [zone for result in results for zone in _reference(result)]
    unique = list({(zone.low, zone.high): zone for zone in zones}.values())
    note = "Each evaluation of each run. The run stops at the first one at or below the target."
    if unique:
        said = "; ".join(zone.label for zone in unique)
        note += f" The shade is the reference, its mean give or take a standard deviation: {said}."
    yield Chart(
        title="Evaluations",
        drawing=line_chart(
            "Log perplexity of the evaluations",
            lines,
            x_label="sequences",
            y_label="log perplexity",
            levels=[Level(value, f"target {value}") for value in sorted(targets)],
            zones=unique,
        ),
        note=note,
        legend=legend,
    )


def _reference(result: ResultFacts) -> Iterator[Zone]:
    record = result.reference
    if record is not None:
        label = f"{record.mean:,.0f} ± {record.deviation:,.0f} sequences at batch size {record.global_batch_size}"
        yield Zone(record.mean - record.deviation, record.mean + record.deviation, label)


def _losses(_results: Sequence[ResultFacts], runs: Sequence[_Drawn], legend: Legend) -> Iterator[Chart]:
    lines = [Line(label=one.label, colour=one.colour, points=one.run.losses) for one in runs]
    if any(line.points for line in lines):
        drawing = line_chart("Training loss", lines, x_label="sequences", y_label="training loss")
        yield Chart(title="Training loss", drawing=drawing, note=_note_on_bins(lines), legend=legend)


def _step_curve(_results: Sequence[ResultFacts], runs: Sequence[_Drawn], legend: Legend) -> Iterator[Chart]:
    lines = [Line(label=one.label, colour=one.colour, points=one.run.step_seconds) for one in runs]
    if any(line.points for line in lines):
        drawing = line_chart("Time of each step", lines, x_label="sequences", y_label="seconds a step")
        slow = [times for one in runs if (times := one.run.step_times) is not None]
        number, of = sum(len(times.slow) for times in slow), sum(times.count for times in slow)
        note = f"{number} of {of} steps took {SLOW} times the median of their run or longer. {_note_on_bins(lines)}"
        yield Chart(title="Step time over the run", drawing=drawing, note=note.strip(), legend=legend)


def _note_on_bins(lines: Sequence[Line]) -> str:
    longest = max(len(line.points) for line in lines)
    if longest <= MOST_POINTS:
        return "Every step."
    each = -(-longest // MOST_POINTS)
    return f"The line is the mean of up to {each} steps, the shade their range: no step is left out."


def _step_times(results: Sequence[ResultFacts], runs: Sequence[_Drawn], legend: Legend) -> Iterator[Chart]:
    if len(results) > 1:
        sets = [
            (result.name, index, [value for run in result.runs for _, value in run.step_seconds])
            for index, result in enumerate(results[:MOST_RUNS])
        ]
    else:
        sets = [(one.label, one.colour, [value for _, value in one.run.step_seconds]) for one in runs]
    if any(values for _, _, values in sets):
        note = "The height is the square root of the share, so that one slow step among hundreds is seen."
        drawing = histogram_chart("Distribution of step times", sets, x_label="seconds a step")
        yield Chart(title="Distribution of step times", drawing=drawing, note=note, legend=legend)


def _minutes(results: Sequence[ResultFacts], runs: Sequence[_Drawn]) -> Iterator[Chart]:
    bars = [
        Bar(
            label=one.label,
            parts=[(f"bar c{one.colour % 8}", 0.0, minutes, f"{one.label}: {minutes:.3f} min")],
            note=f"{minutes:.3f} min",
        )
        for one in runs
        if (minutes := one.run.minutes) is not None
    ]
    if bars:
        score = results[0].score.olympic_minutes if len(results) == 1 else None
        level = None if score is None else Level(score, f"olympic mean {score:.3f} min")
        note = "From run_start to run_stop, of the runs that reached the target."
        note += f" The mark is the {level.label}." if level else ""
        drawing = bar_chart("Minutes to the target", bars, x_label="minutes", level=level)
        yield Chart(title="Minutes to the target", drawing=drawing, note=note)


def _timeline(runs: Sequence[_Drawn]) -> Iterator[Chart]:
    bars = [Bar(label=one.label, parts=list(_spans(one.run)), note=_share(one.run)) for one in runs]
    if any(bar.parts for bar in bars):
        drawing = bar_chart("Where the time went", bars, x_label="minutes from run_start")
        legend = tuple((style.removeprefix("bar "), kind) for kind, style in _SPAN_STYLES.items())
        note = "Initialisation is not timed. The share is that of training in the timed part, run_start to run_stop."
        yield Chart(title="Timeline", drawing=drawing, note=note, legend=legend)


def _spans(run: RunFacts) -> Iterator[tuple[str, float, float, str]]:
    """All of the timed part as `other`, and over it what it was."""
    if run.timed > 0:
        yield _part("other", 0.0, run.timed, f"other: {run.shares['other']:.1f} s")
    if len(run.spans) <= MOST_SPANS:
        for span in run.spans:
            yield _part(span.kind, span.start, span.end, f"{span.kind}: {span.seconds:.1f} s")
        return
    start = 0.0
    for kind in ("training", "evaluation"):
        yield _part(kind, start, start + run.shares.get(kind, 0.0), f"{kind}: {run.shares.get(kind, 0.0):.1f} s in all")
        start += run.shares.get(kind, 0.0)


def _part(kind: str, start: float, end: float, said: str) -> tuple[str, float, float, str]:
    return _SPAN_STYLES[kind], start / 60, end / 60, said


def _share(run: RunFacts) -> str:
    total = run.timed
    return f"{run.shares['training'] / total:.1%} training" if total > 0 else "not stopped"


def node_charts(runs: Sequence[RunFacts]) -> Iterator[Chart]:
    """What the nodes of a result's runs measured: a line for each node, or the range of all where they are many."""
    measured = [run for run in runs[:MOST_RUNS] if run.telemetry.nodes]
    number = sum(len(run.telemetry.nodes) for run in measured)
    zones = _evaluated(measured[0]) if len(measured) == 1 else []
    for quantity in (*OF_GPUS, *OF_NODE):
        lines = _of_nodes(quantity.title, measured) if number <= MOST_NODES else _of_runs(quantity.title, measured)
        if not any(line.points for line in lines):
            continue
        drawing = line_chart(
            quantity.title, lines, x_label="minutes from run_start", y_label=quantity.unit, zones=zones
        )
        note = [quantity.which, "The line is the mean of the nodes, the shade their range." * (number > MOST_NODES)]
        note += ["The stripes are evaluations." * bool(zones)]
        legend = tuple((f"c{line.colour % 8}", line.label) for line in lines if line.points)
        yield Chart(title=quantity.title, drawing=drawing, note=" ".join(filter(None, note)), legend=legend)


def _of_nodes(title: str, runs: Sequence[RunFacts]) -> list[Line]:
    nodes = [(run, node) for run in runs for node in run.telemetry.nodes]
    return [
        Line(
            label=node.node if len(runs) == 1 else f"{run.name} {node.node}",
            colour=index,
            points=node.curves.get(title, []),
        )
        for index, (run, node) in enumerate(nodes)
    ]


def _of_runs(title: str, runs: Sequence[RunFacts]) -> list[Line]:
    found = []
    for index, run in enumerate(runs):
        curves = [node.curves.get(title, []) for node in run.telemetry.nodes]
        longest = max(map(len, curves))
        points = [point for curve in curves for point in curve]
        label = f"{run.name}, {len(curves)} nodes"
        found.append(Line(label=label, colour=index, points=points, parts=min(longest, MOST_POINTS)))
    return found


def _evaluated(run: RunFacts) -> list[Zone]:
    spans = [span for span in run.spans if span.kind == "evaluation"]
    return [Zone(span.start / 60, span.end / 60, "evaluation") for span in spans[:MOST_SPANS]]


def comparison(results: Sequence[ResultFacts], published: Sequence[ResultFacts]) -> Chart | None:
    """Scores over the number of GPUs, ours among the published ones; None where neither has both numbers."""
    lines = [
        Line(label="published", colour=5, points=_scaling(published), joined=False),
        *(_point(one, index) for index, one in enumerate(results)),
    ]
    filled = [line for line in lines if line.points]
    if not filled:
        return None
    title = "Score over the number of GPUs"
    drawing = line_chart(title, filled, x_label="GPUs", y_label="minutes, normalised", logarithmic=True)
    legend = tuple((f"c{line.colour % 8}", line.label) for line in filled)
    return Chart(title=title, drawing=drawing, note="Both axes are logarithmic.", legend=legend)


def _point(result: ResultFacts, colour: int) -> Line:
    return Line(label=result.name, colour=colour, points=_scaling([result]), joined=False)


def _scaling(results: Sequence[ResultFacts]) -> list[tuple[float, float]]:
    found = ((one.gpus, one.score.normalised_minutes) for one in results)
    return [(float(gpus), minutes) for gpus, minutes in found if gpus and minutes is not None and minutes > 0]
