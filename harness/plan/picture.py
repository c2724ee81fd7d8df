"""A plan as a picture: memory by pipeline stage, and where the time of a step goes. SVG as text, no library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from html import escape

from harness.plan import memory
from harness.plan.planner import Plan

WIDTH, BAR, ROW, LEFT, RIGHT = 900, 14, 22, 170, 90
"""Pixels."""

# Okabe and Ito's colours, which colour-blind readers tell apart.
_COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#999999", "#D55E00", "#F0E442", "#000000")


def svg(plan: Plan) -> str:
    """The picture's text."""
    capacity = plan.job.gpu.memory
    scale = (WIDTH - LEFT - RIGHT) / max(capacity, plan.worst.total)
    rows = len(plan.stages)
    shapes: list[str] = []
    y = 30
    shapes.append(_text(10, y, f"{plan.config.system}: memory of a GPU by pipeline stage, GiB", bold=True))
    y += 12
    shapes += _legend(memory.PARTS, y)
    y += 24
    for stage in plan.stages:
        shapes.append(_text(10, y + BAR - 2, f"stage {stage.stage}, {stage.layers} layers"))
        shapes += _stack(stage.parts, y, scale)
        shapes.append(_text(LEFT + stage.total * scale + 6, y + BAR - 2, f"{stage.total / memory.GIB:.1f}"))
        y += ROW
    limit = LEFT + capacity * scale
    shapes.append(
        f'<path d="M{limit:.1f} {y - rows * ROW - 4}V{y}" stroke="#D55E00" stroke-width="2" stroke-dasharray="4 3"/>'
    )
    shapes.append(_text(limit, y + 12, f"{plan.job.gpu.name}: {capacity / memory.GIB:.1f}", anchor="end"))
    y += 44
    step = plan.pace.step
    shapes.append(_text(10, y, f"a step: {step:.2f} s, give or take {plan.pace.spread:.0%}", bold=True))
    y += 12
    longest = max(plan.parts.values())
    for part, seconds in plan.parts.items():
        width = (WIDTH - LEFT - RIGHT) * seconds / longest
        shapes.append(_text(10, y + BAR - 2, part))
        shapes.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{_COLOURS[0]}"/>')
        shapes.append(_text(LEFT + width + 6, y + BAR - 2, f"{seconds:.3f} s"))
        y += ROW
    body = "\n".join(shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 10}" '
        f'viewBox="0 0 {WIDTH} {y + 10}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def _stack(parts: Mapping[str, float], y: float, scale: float) -> Iterator[str]:
    x = float(LEFT)
    for colour, (part, size) in zip(_COLOURS, parts.items(), strict=False):
        width = size * scale
        title = f"<title>{escape(part)}: {size / memory.GIB:.1f} GiB</title>"
        yield f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}">{title}</rect>'
        x += width


def _legend(parts: Iterable[str], y: float) -> Iterator[str]:
    x = LEFT
    for colour, part in zip(_COLOURS, parts, strict=False):
        yield f'<rect x="{x}" y="{y}" width="10" height="10" fill="{colour}"/>'
        yield _text(x + 14, y + 9, part)
        x += 30 + 7 * len(part)


def _text(x: float, y: float, text: str, *, bold: bool = False, anchor: str = "start") -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'
