"""A report as one HTML page that needs nothing else: no script, no network; light, dark and on paper."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import nlargest, nsmallest
from pathlib import Path

from compliance.convergence.rcp import Limit
from compliance.findings import Finding, Severity, count
from compliance.ruleset import judged_by
from compliance.run import FREE_IN_OPEN
from report.charts import MOST_RUNS, Chart, charts, comparison, node_charts
from report.facts import ResultFacts
from report.markup import Markup, tag
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

MOST_FINDINGS = 200
"""Of a result, that are listed."""

MOST_RESULTS = 100
"""That have a section of their own; the first table and the CSV have all."""

MOST_ROWS = 32
"""Nodes, and slow ranks, of a result that are listed."""

MOST_TEXT = 2000
"""Characters of a value of run.json or of a system's description that are shown."""

MOST_VALUES = 400
"""Of them."""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Nothing of a log can run in the page or reach the network, even if it should get past the escaping."""


def to_html(results: Sequence[ResultFacts], published: Sequence[ResultFacts] = ()) -> str:
    """The page's text."""
    title = f"MLPerf results: {results[0].name}" if len(results) == 1 else f"MLPerf results: {len(results)} compared"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(Path(__file__).with_name("style.css").read_text(encoding="utf-8"))),
    )
    body = tag("body", tag("main", tag("h1", title), *_sections(results, published)))
    return "<!DOCTYPE html>\n" + tag("html", head, body, lang="en") + "\n"


def _sections(results: Sequence[ResultFacts], published: Sequence[ResultFacts]) -> Iterator[Markup]:
    yield from (tag("p", text, class_="quiet") for text in _about(results))
    yield tag("div", *(_card(result) for result in results[:MOST_RUNS]), class_="cards")
    yield tag("h2", "Scores and speed")
    yield _table("Scores and speed of each result", RESULT_COLUMNS, results)
    yield from _formulas(results)
    yield tag("h2", "Charts")
    number = sum(len(result.runs) for result in results)
    if number > MOST_RUNS:
        yield tag("p", f"Of {number} runs the first {MOST_RUNS} are drawn; the tables have all.")
    yield tag("div", *(_figure(chart) for chart in charts(results)), class_="charts")
    if published:
        yield tag("h2", "Published results")
        chart = comparison(results, published)
        yield tag("div", *([] if chart is None else [_figure(chart)]), class_="charts")
        yield _table("Published results", PUBLISHED_COLUMNS, published)
    for result in results[:MOST_RESULTS]:
        yield tag("section", *_result(result))


def _about(results: Sequence[ResultFacts]) -> Iterator[str]:
    rows = dict.fromkeys(
        f"{row.benchmark} {judged_by(one.result)}" for one in results if (row := one.rules) is not None
    )
    yield f"{', '.join(rows) or 'unknown benchmark'}; lengths are in sequences, which MLPerf calls samples."
    if free := [one.name for one in results if one.result.is_open]:
        yield f"Of the open division, where nobody judges {FREE_IN_OPEN}: {'; '.join(free)}."
    marked = [f"{one.name} ({', '.join(one.result.marks)})" for one in results if one.result.marks]
    if marked:
        yield f"Of no runs that count, as their logs say: {'; '.join(marked)}."


def _card(result: ResultFacts) -> Markup:
    errors, warnings = (count(result.findings, severity) for severity in (Severity.ERROR, Severity.WARNING))
    score = result.score
    if score.normalised_minutes is not None:
        value, said = f"{score.normalised_minutes:.3f} min", f"olympic mean {score.olympic_minutes:.3f} min"
        said += (
            " of the open division, where convergence makes no factor"
            if score.is_open
            else f" × {score.factor:.4f} for convergence"
        )
    elif score.olympic_minutes is not None:
        value, said = f"{score.olympic_minutes:.3f} min", "olympic mean, not normalised: no reference to compare with"
    else:
        reached = sum(minutes is not None for minutes in score.minutes)
        value, said = "no score", f"{reached} of {len(score.minutes)} runs reached the target"
    return tag(
        "div",
        tag("div", result.name, class_="name"),
        tag("div", result.verdict, class_="verdict"),
        tag("div", value, class_="score"),
        tag("div", said, class_="quiet"),
        tag("div", f"{errors} errors, {warnings} warnings", class_="quiet"),
        class_=f"card {'pass' if result.passed else 'fail'}",
    )


def _formulas(results: Sequence[ResultFacts]) -> Iterator[Markup]:
    sizes = {}
    for result in results:
        if result.rules is not None and result.network is not None and result.flops_per_sequence is not None:
            sizes[result.network.name] = (
                result.flops_per_sequence,
                result.rules.sequence_length,
            )
    for name, (flops, length) in sizes.items():
        yield tag(
            "p",
            f"TFLOP/s each = batch size × FLOP of a sequence / median step / GPUs / 10¹², with {flops:.5g} FLOP to "
            f"train Llama 3.1 {name} on a sequence of {length} tokens: six for each weight and token, attention in "
            "full, nothing computed twice. Model FLOPs utilisation (MFU) is that over the dense peak of the GPU; over "
            "its bf16 peak it may exceed 100 % where layers compute in fewer bits.",
            class_="quiet",
        )


def _figure(chart: Chart) -> Markup:
    legend = [tag("li", _swatch(style), label) for style, label in chart.legend]
    return tag(
        "figure",
        tag("figcaption", tag("strong", chart.title), chart.note),
        chart.drawing,
        *([tag("ul", *legend, class_="legend")] if legend else []),
    )


def _swatch(style: str) -> Markup:
    square = tag("rect", width=10, height=10, rx=2, class_="bar")
    return tag("svg", square, viewBox="0 0 10 10", aria_hidden="true", class_=style)


def _result(result: ResultFacts) -> Iterator[Markup]:
    yield tag("h2", result.name)
    yield tag("h3", "Runs")
    rows = [RunRow(result, run) for run in result.runs]
    yield _table(f"Runs of {result.name}", RUN_COLUMNS, rows)
    yield tag("h3", "Step times")
    yield _table(f"Step times of {result.name}", STEP_COLUMNS, rows)
    yield from _slow_ranks(result)
    yield tag("h3", "Findings")
    yield from _findings(result.findings)
    yield tag("h3", "Convergence")
    yield from (tag("p", text) for text in _convergence(result))
    yield from _speed(result)
    yield from _measures(result)
    yield from _nodes(result)
    yield from _values("System", result.system)
    yield from _values("Provenance (run.json)", result.record.model_dump(mode="json", exclude_defaults=True))


def _slow_ranks(result: ResultFacts) -> Iterator[Markup]:
    rows = [SlowRow(run, slow) for run in result.runs[:MOST_RUNS] for slow in run.slow_ranks]
    if rows:
        yield tag("h3", "Slowest ranks")
        yield tag("p", "By the time of a rank's own forward pass over that of the median rank of its pipeline stage.")
        slowest = nlargest(MOST_ROWS, rows, key=lambda row: row.slow.median)
        yield _table(f"Slowest ranks of {result.name}", SLOW_COLUMNS, slowest)


def _findings(findings: Sequence[Finding]) -> Iterator[Markup]:
    if not findings:
        yield tag("p", "None: every rule that could be judged is kept.")
        return
    rows = [
        tag(
            "tr",
            tag("td", finding.severity, class_=finding.severity.value),
            tag("td", tag("code", finding.rule)),
            tag("td", Path(finding.file).name + ("" if finding.line is None else f":{finding.line}"), class_="text"),
            tag("td", finding.message, class_="text"),
            tag("td", finding.expected or "–", class_="text", data_name="expected"),
            tag("td", finding.actual or "–", class_="text", data_name="actual"),
        )
        for finding in findings[:MOST_FINDINGS]
    ]
    heads = ("severity", "rule", "where", "finding", "expected", "actual")
    yield _scrolled("Findings", heads, rows, style="stacked")
    if len(findings) > MOST_FINDINGS:
        yield tag("p", f"{len(findings) - MOST_FINDINGS} more are not listed; `compliance check` has them.")


def _convergence(result: ResultFacts) -> Iterator[str]:
    found = result.convergence
    if found.record is not None and found.match is not None:
        record = found.record
        yield (
            f"The reference ({found.match}) needs {record.mean:,.1f} sequences at batch size "
            f"{record.global_batch_size}, with a standard deviation of {record.deviation:,.1f}."
        )
    if found.fault:
        yield f"Not compared with the reference: {found.fault}."
    if found.mean is not None:
        yield f"The result needs {found.mean:,.1f} (olympic mean)."
    if found.is_open:
        yield "The reference is the closed division's; in the open one convergence is not judged."
        return
    limits = (("policy", found.policy), ("official tool", found.official))
    yield from (_limit(name, limit) for name, limit in limits if limit is not None)
    if not found.fault:
        yield f"The score is multiplied by {found.factor}, the reference's mean over the result's, at least 1."


def _limit(name: str, limit: Limit) -> str:
    beside = "above" if limit.margin >= 0 else "below"
    verdict = "accepted" if limit.passed else "refused"
    return f"By the {name}: {verdict}; {abs(limit.margin):,.1f} {beside} the smallest mean of {limit.minimum:,.1f}."


def _speed(result: ResultFacts) -> Iterator[Markup]:
    if result.teraflops is None:
        return
    known = [name for name in dict.fromkeys(("bf16", "fp8", result.precision or "bf16")) if name in _PRECISIONS]
    shares = [f"{share:.1%} of its {name} peak" for name in known if (share := result.utilisation(name)) is not None]
    kind = "ranks" if result.gpu is None else result.gpu.name
    text = f"{', '.join([f'{result.teraflops:,.4g} TFLOP/s on each of {result.gpus} {kind}', *shares])}."
    if result.precision is not None:
        text += f" Linear layers compute in {result.precision}, say the logs or run.json."
    yield tag("h3", "Speed")
    yield tag("p", text)


_VERDICTS = {"PASS": "pass", "FAIL": "fail"}
_PRECISIONS = ("bf16", "fp8", "mxfp8", "nvfp4")


def _measures(result: ResultFacts) -> Iterator[Markup]:
    rows = [
        tag(
            "tr",
            tag("th", run.name, scope="row"),
            tag("td", measure.name, class_="text"),
            tag("td", measure.count, class_="number"),
            *(tag("td", f"{value:,.6g}", class_="number") for value in (measure.low, measure.median, measure.high)),
        )
        for run in result.runs[:MOST_RUNS]
        for measure in run.measures
    ]
    if rows:
        yield tag("h3", "Other measurements in the logs")
        table = _scrolled("Other measurements", ("log", "name", "times", "smallest", "median", "largest"), rows)
        yield tag("details", tag("summary", "Memory, throughput and times, as the logs name them"), table)


def _nodes(result: ResultFacts) -> Iterator[Markup]:
    runs = result.runs[:MOST_RUNS]
    rows = [NodeRow(run, node) for run in runs for node in run.telemetry.nodes]
    if not rows:
        return
    yield tag("h3", "Nodes")
    yield from (tag("p", f"{run.name}: {said}.") for run in runs if (said := "; ".join(_left_out(run.telemetry))))
    yield tag("div", *(_figure(chart) for chart in node_charts(runs)), class_="charts")
    if len(rows) > MOST_ROWS:
        yield tag("p", f"Of {len(rows)} rows the {MOST_ROWS} are listed whose slowest GPU was slowest.")
        rows = nsmallest(MOST_ROWS, rows, key=lambda row: slowest_clock(row) or math.inf)
    measured = [column for column in NODE_COLUMNS if any(column.value(row) is not None for row in rows)]
    yield _table(f"Nodes of {result.name}", measured, rows)


def _left_out(telemetry: Telemetry) -> Iterator[str]:
    read, refused = len(telemetry.nodes), sum(node.refused for node in telemetry.nodes)
    cut = sum(node.cut for node in telemetry.nodes)
    if read < telemetry.files:
        yield f"of {telemetry.files} nodes' files {read} are read, evenly chosen"
    if cut:
        yield f"of {cut} files the first {MOST_OF_FILE >> 20} MiB are read"
    if refused:
        yield f"{refused} lines are no samples"


def _values(title: str, values: Mapping[str, object]) -> Iterator[Markup]:
    flat = list(_flat("", values))
    if not flat:
        return
    rows = [
        tag("tr", tag("th", name, scope="row"), tag("td", text[:MOST_TEXT], class_="text"))
        for name, text in flat[:MOST_VALUES]
    ]
    yield tag("h3", title)
    yield tag("details", tag("summary", f"{len(flat)} values"), _scrolled(title, ("name", "value"), rows))


def _flat(name: str, value: object, depth: int = 0) -> Iterator[tuple[str, str]]:
    """The leaves of a document, with their paths; a configuration's value stands with where it came from."""
    if isinstance(value, Mapping) and set(value) == {"value", "origin"}:
        yield name, f"{value['value']} ({value['origin']})"
    elif isinstance(value, Mapping) and depth < 5:
        for key, item in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), item, depth + 1)
    elif isinstance(value, list) and depth < 5:
        for index, item in enumerate(value):
            yield from _flat(f"{name}.{index}", item, depth + 1)
    elif value not in ("", None):
        yield name, str(value)


def _table(title: str, columns: Sequence[Column[Row]], rows: Iterable[Row]) -> Markup:
    lines = [tag("tr", *(_cell(column, row, first=index == 0) for index, column in enumerate(columns))) for row in rows]
    return _scrolled(title, [column.name for column in columns], lines)


def _cell(column: Column[Row], row: Row, *, first: bool) -> Markup:
    value, text = column.value(row), column.text(row)
    if first:
        return tag("th", text, scope="row")
    if isinstance(value, int | float):
        return tag("td", tag("data", text, value=repr(value)), class_="number")
    return tag("td", text, class_=_VERDICTS.get(text))


def _scrolled(title: str, heads: Sequence[str], rows: Sequence[Markup], style: str | None = None) -> Markup:
    """A table that scrolls by itself where the screen is narrow; by keyboard too."""
    head = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in heads)))
    table = tag("table", head, tag("tbody", *rows), aria_label=title, class_=style)
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=title)
