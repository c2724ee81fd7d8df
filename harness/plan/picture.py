"""Draws a plan with the report's libraries: memory by pipeline stage, and the parts of the step time."""

from __future__ import annotations

from typing import Any

from benchmark.errors import RefusedError
from harness.plan import memory
from harness.plan.planner import Plan
from report import vega

WIDTH, ROW = 620, 24
"""Pixels."""

# Okabe and Ito's colours, which colour-blind readers can tell apart.
_COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#999999", "#D55E00", "#F0E442", "#000000")
_LIMIT = "#D55E00"


def svg(plan: Plan) -> str:
    """Return the picture as SVG text.

    Raises:
        RefusedError: the libraries that draw are not installed.
    """
    if not vega.available():
        raise RefusedError(f"--picture needs libraries that are not installed here: {vega.EXTRA}")
    import altair as alt

    config = vega.theme(dark=False, background="white")
    (picture,) = vega.draw([{**alt.vconcat(_memory(plan), _step(plan)).to_dict(), "config": config}])
    return picture


def _memory(plan: Plan) -> Any:
    import altair as alt

    rows = [
        {"stage": f"stage {stage.stage}, {stage.layers} layers", "part": part, "order": order, "GiB": size / memory.GIB}
        for stage in plan.stages
        for order, (part, size) in enumerate(stage.parts.items())
    ]
    totals = [
        {"stage": f"stage {stage.stage}, {stage.layers} layers", "GiB": stage.total / memory.GIB}
        for stage in plan.stages
    ]
    capacity = plan.job.gpu.memory / memory.GIB
    y = alt.Y("stage:N", title=None, sort=None, axis=alt.Axis(labelLimit=200))
    colours = alt.Color("part:N", title=None, sort=list(memory.PARTS), scale=alt.Scale(range=list(_COLOURS)))
    bars = alt.Chart(alt.InlineData(values=rows)).mark_bar(height=16)
    text = alt.Chart(alt.InlineData(values=totals)).mark_text(align="left", dx=6)
    limit = alt.Chart(alt.InlineData(values=[{"GiB": capacity}])).mark_rule(color=_LIMIT, strokeWidth=2)
    return alt.layer(
        bars.encode(
            alt.X("GiB:Q", title="GiB", stack="zero"), y, colours.legend(orient="top", columns=4), alt.Order("order:Q")
        ),
        text.encode(alt.X("GiB:Q"), y, alt.Text("GiB:Q", format=".1f")),
        limit.encode(x="GiB:Q"),
    ).properties(
        width=WIDTH,
        height=ROW * len(plan.stages),
        title=f"{plan.config.system}: memory of a GPU by pipeline stage; the line is the {capacity:.1f} GiB "
        f"of {plan.job.gpu.name}",
    )


def _step(plan: Plan) -> Any:
    import altair as alt

    rows = [{"part": part, "seconds": seconds} for part, seconds in plan.parts.items()]
    base = alt.Chart(alt.InlineData(values=rows))
    x = alt.X("seconds:Q", title="seconds")
    y = alt.Y("part:N", title=None, sort=None, axis=alt.Axis(labelLimit=200))
    return alt.layer(
        base.mark_bar(height=16, color=_COLOURS[0]).encode(x, y),
        base.mark_text(align="left", dx=6).encode(x, y, alt.Text("seconds:Q", format=".3f")),
    ).properties(
        width=WIDTH,
        height=ROW * len(rows),
        title=f"a step: {plan.pace.step:.2f} s, give or take {plan.pace.spread:.0%}",
    )
