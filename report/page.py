"""Render a report as one self-contained HTML page: offline, light and dark, on a phone and on paper.

Its charts need the extra `report`; without it the page has the tables and the command that installs the extra. The
template escapes every text. If one got past it, the policy would still run only the two scripts whose hashes it lists.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from heapq import nlargest, nsmallest
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import markupsafe

from benchmark.convergence import Match
from benchmark.plurals import counted
from compliance.convergence.rcp import Limit
from compliance.findings import Finding, Severity, count
from compliance.formats import printable
from compliance.run import FREE_IN_OPEN
from report import vega
from report.palette import Colour
from report.results import ResultSummary, flatten, is_official
from report.table import (
    NODE_COLUMNS,
    PUBLISHED_COLUMNS,
    RESULT_COLUMNS,
    RUN_COLUMNS,
    SLOW_COLUMNS,
    STEP_COLUMNS,
    Column,
    NodeRow,
    Row,
    RunRow,
    SlowRow,
    slowest_clock,
)
from report.telemetry import MOST_OF_FILE, Telemetry

MOST_CARDS = 24
"""Most results that get a card each, and their other measurements; of more, the first table has the scores."""

TALL = 30
"""Fewest rows with which a table scrolls by itself."""

MOST_FINDINGS = 200
"""Most findings of a result that are listed."""

MOST_PLACES = 12
"""Most logs and lines of a finding that are named."""

MOST_RESULTS = 150
"""Most results that get a section each. The first table and the CSV have all of them."""

UNFOLDED = 4
"""Most results whose sections are open from the start."""

MOST_ROWS = 32
"""Most nodes, and most slow ranks, of a result that are listed."""

MOST_RUNS = 24
"""Most runs of a result whose nodes, slow ranks, checkpoints and measurements are shown."""

MOST_FAULTS = 20
"""Most faults of a run's checkpoints that are shown."""

MOST_TEXT = 2000
"""Most characters of a value of run.json or of a system's description that are shown."""

MOST_VALUES = 400
"""Most of these values that are shown."""

_PRECISIONS = ("bf16", "fp8", "mxfp8", "nvfp4")
_VERDICTS = {"PASS": "pass", "FAIL": "fail"}
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Cell:
    text: str
    style: str | None = None
    number: str | None = None
    """The number with all its digits, for sorting and copying, where the text does not have them."""


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a table."""

    cells: Sequence[Cell]
    key: str | None = None
    """The key by which the runs of the result are switched on and off."""
    href: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    heads: Sequence[str]
    rows: Sequence[Line]
    sortable: bool = False

    @property
    def tall(self) -> bool:
        return len(self.rows) >= TALL


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart and its still picture, as a data URL."""

    id: str
    chart: Any
    still: str
    json: str


def to_html(results: Sequence[ResultSummary], published: Sequence[ResultSummary] = ()) -> str:
    """Return the page's text.

    Raises:
        NotDrawnError: as report.vega.draw.
    """
    drawn = _Drawn() if not vega.available() else _drawn(results, published)
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    style = (_HERE / "style.css").read_text(encoding="utf-8")
    title = f"MLPerf results: {results[0].name}" if len(results) == 1 else f"MLPerf results: {len(results)} compared"
    firsts = _firsts(results)
    sections = [
        _section(number, one, firsts[number], results, drawn) for number, one in enumerate(results[:MOST_RESULTS])
    ]
    text: str = _template().render(
        title=title,
        policy=_policy([script, *filter(None, [drawn.engine])], style),
        style=style,
        script=script,
        engine=drawn.engine,
        about=list(_about(results)),
        banners=list(_banners(results)),
        contents=list(_contents(results, published)),
        cards=[_card(number, result) for number, result in enumerate(results)] if len(results) <= MOST_CARDS else [],
        results=_result_table(results),
        formulas=list(_formulas(results)),
        no_charts=""
        if drawn.engine
        else f"The libraries that draw them are not installed; to install them: {vega.EXTRA}",
        axes=drawn.axes,
        switches=drawn.switches,
        figures=drawn.figures,
        data=drawn.data,
        published=_published_table(published),
        sections=sections,
        page_json=_json({"axes": drawn.axes, "ends": drawn.ends, "themes": _THEMES}),
    )
    return text


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters["breakable"] = _breakable
    return environment.get_template("page.html")


def _breakable(name: str) -> markupsafe.Markup:
    """Return a name, escaped, with a possible line break after each of its parts."""
    return markupsafe.Markup("<wbr>").join(re.split(r"(?<=[_/])", printable(name)))


_THEMES = {"light": vega.theme(dark=False), "dark": vega.theme(dark=True)}


def _policy(scripts: Sequence[str], style: str) -> str:
    """Return a content policy that runs the page's own scripts, applies its own style and loads nothing."""
    hashes = [_hash(text) for text in scripts]
    return f"default-src 'none'; script-src {' '.join(hashes)}; style-src {_hash(style)}; img-src data:"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(value: object) -> str:
    """Return JSON for a script element, which a `<` could end."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


# Charts.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Switch:
    key: str
    name: str | None
    colour: Colour


@dataclass(frozen=True, slots=True, kw_only=True)
class _ResultSwitch:
    key: str
    name: str | None
    runs: Sequence[_Switch]


@dataclass(frozen=True, slots=True, kw_only=True)
class _SystemSwitch:
    name: str | None
    colour: Colour
    results: Sequence[_ResultSwitch]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """The parts of a page that need the libraries of the extra."""

    engine: str = ""
    axes: Mapping[str, str] = field(default_factory=dict)
    ends: Mapping[str, float] = field(default_factory=dict)
    """The end of the longest run on each axis."""
    switches: Sequence[_SystemSwitch] = ()
    figures: Sequence[Figure] = ()
    data: Mapping[str, str] = field(default_factory=dict)
    """The rows of charts, as JSON -> the id of the element that holds them; charts of the same rows share it."""
    of_nodes: Mapping[int, Sequence[Figure]] = field(default_factory=dict)
    """Charts of nodes, by the number of the result."""


def _drawn(results: Sequence[ResultSummary], published: Sequence[ResultSummary]) -> _Drawn:
    from report import charts

    runs = charts.drawn_runs(results)
    general = list(charts.charts(results, published))
    of_nodes = {number: list(charts.node_charts(one)) for number, one in enumerate(results[:MOST_RESULTS])}
    every = [*general, *(chart for some in of_nodes.values() for chart in some)]
    # Folded charts are not printed, and the small charts of a round would take seconds.
    stills = [vega.still(one.spec, vega.WIDE if one.wide else vega.WIDTH) for one in every if not one.folded]
    pictures = iter(vega.draw(stills))
    data: dict[str, str] = {}
    figures = [
        Figure(f"chart-{place}", one, "" if one.folded else _address(next(pictures)), _without_rows(one.spec, data))
        for place, one in enumerate(every)
    ]
    places = iter(figures[len(general) :])
    return _Drawn(
        engine=vega.script(),
        axes=charts.AXES,
        ends=_ends(results),
        switches=_switches(runs, several=len(results) > 1),
        figures=figures[: len(general)],
        data=data,
        of_nodes={number: [next(places) for _ in some] for number, some in of_nodes.items()},
    )


def _without_rows(spec: Mapping[str, Any], data: dict[str, str]) -> str:
    """Return a description as JSON, with the ids of its rows in their place; they are added to `data`."""
    ids = {name: data.setdefault(_json(rows), f"rows-{len(data)}") for name, rows in spec["datasets"].items()}
    return _json({**spec, "datasets": ids})


_UNSEEN = re.compile(r' (?:class|role|aria-[a-z]+|pointer-events)="[^"]*"')
_EMPTY = re.compile(r'<path d="[^"]*"(?: display="none")?/>')
"""Paths that have no colour."""
_PATH = re.compile(r' d="[^"]*"')
_DIGITS = re.compile(r"(\.\d)\d+")
_QUOTED = re.compile(r"""="([^"']*)\"""")


def _address(svg: str) -> str:
    """Return a picture as a data URL, without what nobody sees: names of groups, digits below a tenth of a pixel."""
    short = _EMPTY.sub("", _UNSEEN.sub("", svg))
    short = _PATH.sub(lambda found: _DIGITS.sub(r"\1", found[0]), short)
    return "data:image/svg+xml," + quote(_QUOTED.sub(r"='\1'", short), safe=" ='/:,;()!*@+-._~")


def _ends(results: Sequence[ResultSummary]) -> dict[str, float]:
    curves = [
        (curve, run.batch or 1)
        for result in results
        for run in result.runs
        for curve in (run.evaluations, run.losses, run.step_seconds)
        if len(curve)
    ]
    return {
        "samples": max((float(curve.samples.max()) for curve, _ in curves), default=1.0),
        "steps": max((float(curve.samples.max()) / batch for curve, batch in curves), default=1.0),
        "minutes": max((float(curve.minutes.max()) for curve, _ in curves), default=1.0),
    }


def _switches(runs: Sequence[Any], *, several: bool) -> list[_SystemSwitch]:
    """Return the switches of systems, their results and their runs. A single one of a kind gets none."""
    systems: dict[str, dict[str, list[Any]]] = {}
    for one in runs:
        systems.setdefault(one.system, {}).setdefault(one.key.partition(".")[0], []).append(one)
    return [
        _SystemSwitch(
            name=name if several else None,
            colour=next(iter(found.values()))[0].colour,
            results=[
                _ResultSwitch(
                    key=key,
                    name=some[0].result.label if len(found) > 1 else None,
                    runs=[
                        _Switch(
                            key=one.key,
                            name=one.runs[0].number if several else f"{one.label}, seed {one.runs[0].seed}",
                            colour=one.colour,
                        )
                        for one in some
                    ],
                )
                for key, some in found.items()
            ],
        )
        for name, found in systems.items()
    ]


# The head of the page.


def _about(results: Sequence[ResultSummary]) -> Iterator[str]:
    rows = dict.fromkeys(
        f"{result.rules.benchmark}, ruleset {result.ruleset}" for result in results if result.rules is not None
    )
    yield f"{'; '.join(rows) or 'Unknown benchmark'}. A sample is one sequence of tokens."


def _banners(results: Sequence[ResultSummary]) -> Iterator[tuple[str, str]]:
    """Yield the reasons why some results are not scores of the closed division, each with its text."""
    said: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for caveat in caveats(result):
            said.setdefault(caveat, []).append(result.label)
    for (name, text), labels in said.items():
        shown = f"{', '.join(labels[:8])}{f' and {len(labels) - 8} more' if len(labels) > 8 else ''}"
        yield name, text if len(results) == len(labels) else f"{shown}: {text[0].lower()}{text[1:]}"


def caveats(result: ResultSummary) -> Iterator[tuple[str, str]]:
    """Yield a heading and an explanation for each reason why a result does not count."""
    for mark in result.marks:
        if mark == "simulated":
            yield "SIMULATED", "A rehearsal in virtual time: nothing was trained, and no number was measured."
        else:
            yield mark.upper(), "Its logs say that its runs do not count."
    if result.rules is not None and not is_official(result.rules):
        yield (
            result.rules.benchmark.upper(),
            "A benchmark of this project, for trying it out; this is not an MLPerf result.",
        )
    if result.is_open:
        yield "OPEN DIVISION", f"Not judged: {FREE_IN_OPEN}. The score has no convergence factor."
    if result.made_for is not None:
        yield "RESUBMITTED", f"Its runs were made for round {result.made_for} and are judged by a later round's rules."


def _contents(results: Sequence[ResultSummary], published: Sequence[ResultSummary]) -> Iterator[tuple[str, str]]:
    yield "#results", "Scores and speed"
    yield "#charts", "Charts"
    if published:
        yield "#published", "Published results"
    if len(results) > 1:
        yield from ((f"#result-{number}", result.label) for number, result in enumerate(results[:MOST_RESULTS]))


def _card(number: int, result: ResultSummary) -> dict[str, str]:
    errors, warnings = (count(result.findings, severity) for severity in (Severity.ERROR, Severity.WARNING))
    score, said = score_of(result)
    return {
        "id": f"result-{number}",
        "style": "pass" if result.counts else ("fail" if not result.passed else "apart"),
        "name": result.label,
        "verdict": result.verdict,
        "score": score,
        "said": said,
        "findings": f"{counted(errors, 'error')}, {counted(warnings, 'warning')}",
    }


def score_of(result: ResultSummary) -> tuple[str, str]:
    """Return the number on its card and the line below it."""
    score = result.score
    if score.normalised_minutes is not None:
        of = "of the open division" if score.is_open else f"× {score.factor:.4f} for convergence"
        return f"{score.normalised_minutes:.3f} min", f"olympic mean {score.olympic_minutes:.3f} min {of}"
    if score.olympic_minutes is not None:
        return f"{score.olympic_minutes:.3f} min", "olympic mean, not normalised: there is no reference to compare with"
    reached = [minutes for minutes in score.minutes if minutes is not None]
    needed = "" if result.rules is None else f"; {result.rules.runs} runs make a score"
    if len(score.minutes) == 1:
        return (
            (f"{reached[0]:.3f} min", f"of one run{needed}")
            if reached
            else ("no score", f"its one run missed the target{needed}")
        )
    said = f"{len(reached)} of {len(score.minutes)} runs reached the target{needed}"
    if not reached or (result.rules is not None and len(score.minutes) >= result.rules.runs):
        return "no score", said
    low, high = min(reached), max(reached)
    return f"{low:.3f} to {high:.3f} min" if low < high else f"{low:.3f} min", said


def _result_table(results: Sequence[ResultSummary]) -> Table:
    columns = _known(RESULT_COLUMNS, results)
    rows = [
        Line(
            [Cell(result.label), *_cells(columns[1:], result)],
            key=str(number),
            href=f"#result-{number}" if number < MOST_RESULTS else None,
        )
        for number, result in enumerate(results)
    ]
    return Table("Scores and speed of each result", [column.name for column in columns], rows, sortable=True)


def _published_table(published: Sequence[ResultSummary]) -> Table:
    columns = _known(PUBLISHED_COLUMNS, published)
    rows = [Line([Cell(result.label), *_cells(columns[1:], result)]) for result in published]
    return Table("Published results", [column.name for column in columns], rows, sortable=True)


def _known(columns: Sequence[Column[ResultSummary]], results: Sequence[ResultSummary]) -> list[Column[ResultSummary]]:
    """Return the columns for which some result has a value, and the first five in any case."""
    return [
        column
        for place, column in enumerate(columns)
        if place < 5 or any(column.value(result) is not None for result in results)
    ]


def _formulas(results: Sequence[ResultSummary]) -> Iterator[str]:
    sizes = {
        result.network.name: (result.flops_per_sequence, result.rules.sequence_length)
        for result in results
        if result.rules is not None and result.network is not None and result.flops_per_sequence is not None
    }
    for name, (flops, length) in sizes.items():
        yield (
            f"TFLOP/s each = batch size × FLOP per sample / median step / GPUs / 10¹². Training Llama 3.1 {name} on a "
            f"sample of {length} tokens takes {flops:.5g} FLOP: six for each weight and token, full attention, and "
            "nothing recomputed. Model FLOPs utilisation (MFU) is TFLOP/s over the dense peak of the GPU. Over the "
            "bf16 peak it may exceed 100 % where layers compute in fewer bits."
        )


# A result's own section.


def _section(
    number: int, result: ResultSummary, first: int, results: Sequence[ResultSummary], drawn: _Drawn
) -> dict[str, Any]:
    """Return what the section of a result shows; findings about its submission are left to the `first` one of it."""
    rows = [RunRow(result, run) for run in result.runs]
    runs = result.runs[:MOST_RUNS]
    score, said = score_of(result)
    submission = _submission(result)
    own = [found for found in result.findings if first == number or found.file != submission]
    elsewhere, findings = len(result.findings) - len(own), list(_findings(own))
    return {
        "id": f"result-{number}",
        "name": result.name,
        "folded": len(results) > UNFOLDED,
        "summary": f"{result.verdict}, {score}, {said}",
        "runs": _table(f"Runs of {result.name}", RUN_COLUMNS, rows),
        "steps": _table(f"Step times of {result.name}", STEP_COLUMNS, rows),
        "profiles": list(_profiles(result)),
        "checkpoint_faults": [f"{run.name}: {fault}" for run in runs for fault in run.checkpoint_faults[:MOST_FAULTS]],
        "slow": _table(f"Slowest ranks of {result.name}", SLOW_COLUMNS, slow_rows(result, MOST_ROWS)),
        "findings": findings[:MOST_FINDINGS],
        "more_findings": max(0, len(findings) - MOST_FINDINGS),
        "of_submission": counted(elsewhere, "finding") if elsewhere else "",
        "first": {"href": f"#result-{first}", "label": results[first].label},
        "convergence": list(_convergence(result)),
        "speed": _speed(result),
        "measures": _measures(result) if len(results) <= MOST_CARDS else None,
        "nodes": _nodes(result),
        "nodes_left_out": [f"{run.name}: {said}." for run in runs if (said := "; ".join(_left_out(run.telemetry)))],
        "node_figures": drawn.of_nodes.get(number, ()),
        "documents": list(_values(result)),
    }


def slow_rows(result: ResultSummary, most: int) -> list[SlowRow]:
    """Return the ranks that its runs reported as slow, the slowest first."""
    rows = (SlowRow(run, rank) for run in result.runs[:MOST_RUNS] for rank in run.slow_ranks)
    return nlargest(most, rows, key=lambda row: row.slow.median)


def _firsts(results: Sequence[ResultSummary]) -> list[int]:
    """Return for each result the number of the first one of its submission."""
    firsts: dict[str, int] = {}
    return [firsts.setdefault(_submission(result), number) for number, result in enumerate(results)]


def _submission(result: ResultSummary) -> str:
    """Return the tree of the submission that a result is part of, else its own path."""
    return str(result.group.organisation or result.path)


def _findings(findings: Iterable[Finding]) -> Iterator[dict[str, str]]:
    """Yield the findings, errors first; those that differ only in their places become one."""
    places: dict[tuple[str, ...], list[str]] = {}
    for found in sorted(findings, key=lambda found: _BY_SEVERITY.index(found.severity)):
        where = Path(found.file).name + ("" if found.line is None else f":{found.line}")
        what = (found.severity.value, found.rule, found.message, found.actual, found.expected)
        places.setdefault(what, []).append(where)
    for (severity, rule, message, there, expected), some in places.items():
        where = ", ".join(some[:MOST_PLACES]) + (f" and {len(some) - MOST_PLACES} more" if some[MOST_PLACES:] else "")
        yield {
            "severity": severity,
            "rule": rule,
            "where": where,
            "message": message,
            "there": there,
            "expected": expected,
        }


_BY_SEVERITY = (Severity.ERROR, Severity.WARNING, Severity.INFO)


def _profiles(result: ResultSummary) -> Iterator[tuple[str, str]]:
    """Yield links to the traces of PROFILE=torch, for a page in the same folder."""
    for path in sorted(result.group.paths[0].parent.glob("profile_*.json.gz"))[:MOST_ROWS]:
        yield quote(path.name), path.name


def _convergence(result: ResultSummary) -> Iterator[str]:
    compared = result.convergence
    if compared.record is not None and compared.match is not None:
        record = compared.record
        yield (
            f"The reference needs {record.mean:,.1f} samples at batch size {record.global_batch_size}, with a standard "
            f"deviation of {record.deviation:,.1f}{'' if compared.match is Match.FOUND else f' ({compared.match})'}."
        )
    if compared.fault:
        yield f"Not compared with the reference: {compared.fault}."
    if compared.mean is not None:
        yield f"The result needs {compared.mean:,.1f} samples (olympic mean)."
    if compared.is_open:
        yield "The reference belongs to the closed division; convergence is not judged in the open one."
        return
    limits = (("policy", compared.policy), ("official tool", compared.official))
    yield from (_limit(name, limit) for name, limit in limits if limit is not None)
    if not compared.fault:
        yield f"The score is multiplied by {compared.factor:.6g}: the reference's mean over the result's, at least 1."


def _limit(name: str, limit: Limit) -> str:
    where = "above" if limit.margin >= 0 else "below"
    return (
        f"The {name} {'accepts' if limit.passed else 'refuses'} it: its mean is {abs(limit.margin):,.1f} samples "
        f"{where} the smallest that is accepted, {limit.minimum:,.1f}."
    )


def _speed(result: ResultSummary) -> str:
    if result.teraflops is None:
        return ""
    known = [name for name in dict.fromkeys(("bf16", "fp8", result.precision or "bf16")) if name in _PRECISIONS]
    shares = [f"{share:.1%} of its {name} peak" for name in known if (share := result.utilisation(name)) is not None]
    each = f"{counted(result.gpus or 0, 'rank')}" if result.gpu is None else f"{result.gpus} {result.gpu.name}"
    text = f"{', '.join([f'{result.teraflops:,.4g} TFLOP/s on each of {each}', *shares])}."
    if result.precision is not None:
        text += f" Linear layers compute in {result.precision}, according to the logs or run.json."
    return text


def _measures(result: ResultSummary) -> Table:
    rows = [
        Line(
            [Cell(run.name), Cell(measure.name, style="text"), Cell(str(measure.count), style="number")]
            + [Cell(f"{value:,.6g}", style="number") for value in (measure.low, measure.median, measure.high)]
        )
        for run in result.runs[:MOST_RUNS]
        for measure in run.measures
    ]
    return Table("Other measurements", ("log", "name", "times", "smallest", "median", "largest"), rows)


def _nodes(result: ResultSummary) -> Table:
    rows = [NodeRow(run, node) for run in result.runs[:MOST_RUNS] for node in run.telemetry.nodes]
    if len(rows) > MOST_ROWS:
        rows = nsmallest(MOST_ROWS, rows, key=lambda row: slowest_clock(row) or math.inf)
    measured = [column for column in NODE_COLUMNS if any(column.value(row) is not None for row in rows)]
    return _table(f"Nodes of {result.name}", measured, rows, sortable=True)


def _left_out(telemetry: Telemetry) -> Iterator[str]:
    read, refused = len(telemetry.nodes), sum(node.refused for node in telemetry.nodes)
    cut = sum(node.cut for node in telemetry.nodes)
    if read < telemetry.files:
        yield f"{read} of the {telemetry.files} nodes' files were read, evenly chosen"
    if cut:
        yield f"{counted(cut, 'file')} were read up to {MOST_OF_FILE >> 20} MiB"
    if refused:
        yield f"{counted(refused, 'line')} could not be read as samples"
    if read > MOST_ROWS:
        yield f"{MOST_ROWS} of {read} nodes are listed: those with the slowest GPUs"


def _values(result: ResultSummary) -> Iterator[Table]:
    recorded = result.record.model_dump(mode="json", exclude_defaults=True)
    for title, values in (("System", result.system), ("Provenance (run.json)", recorded)):
        flat = list(flatten(values))
        rows = [Line([Cell(name), Cell(text[:MOST_TEXT], style="text")]) for name, text in flat[:MOST_VALUES]]
        if rows:
            yield Table(title, ("name", "value"), rows)


# Tables.


def _table(title: str, columns: Sequence[Column[Row]], rows: Iterable[Row], *, sortable: bool = False) -> Table:
    lines = [Line(_cells(columns, row)) for row in rows]
    return Table(title, [column.name for column in columns], lines, sortable)


def _cells(columns: Sequence[Column[Row]], row: Row) -> list[Cell]:
    return [_cell(column, row) for column in columns]


def _cell(column: Column[Row], row: Row) -> Cell:
    value, text = column.value(row), column.text(row)
    if isinstance(value, int | float):
        return Cell(text, style="number", number=None if text == str(value) else repr(value))
    return Cell(text, style=_VERDICTS.get(text))
