"""Charts as SVG text: lines with their range, bars, spans of time. Pure functions of numbers; no library.

A chart is drawn in units that a page scales to its width, with colours that its style sheet gives (dark or light): the
classes c0 to c7 are those of series, `axis` and `grid` what they say. Every chart has a title and a description for
those who do not see it, and every mark says its numbers when pointed at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from report.markup import Markup, join, tag
from report.series import Bin, Point, binned, histogram, log_ticks, short, spread, ticks

WIDTH, HEIGHT = 460, 280
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 12, 44
"""Of the drawing, around what is drawn."""
BAR, ROW = 16, 26
COLOURS = 8

_LABEL = 48
"""Characters of a bar's label and its note together."""

_MANY = 60
"""Points of a line up to which each is marked."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points that belong together."""

    label: str
    colour: int
    points: Sequence[Point]
    joined: bool = True
    """Whether a line goes through them."""
    parts: int | None = None
    """Of the x axis, each drawn as mean and range: for points of many at about the same places."""

    @cached_property
    def bins(self) -> list[Bin]:
        return binned(self.points) if self.parts is None else spread(self.points, self.parts)


@dataclass(frozen=True, slots=True)
class Level:
    """A value of the y axis that matters."""

    value: float
    label: str


@dataclass(frozen=True, slots=True)
class Zone:
    """A range of the x axis that matters."""

    low: float
    high: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar, made of parts: (class of its colour, from, to, what it says)."""

    label: str
    parts: Sequence[tuple[str, float, float, str]]
    note: str = ""
    """Written behind it."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Values onto a length of the drawing."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        low, high = self._scaled(self.low), self._scaled(self.high)
        return self.start + (self._scaled(value) - low) / (high - low) * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        return log_ticks(self.low, self.high) if self.logarithmic else ticks(self.low, self.high)

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.logarithmic else value


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    levels: Sequence[Level] = (),
    zones: Sequence[Zone] = (),
    logarithmic: bool = False,
) -> Markup:
    """Lines over a common x; more points than can be seen become the mean and the range of each bin.

    Raises:
        ValueError: no line has a point.
    """
    drawn = [line for line in lines if line.points]
    if not drawn:
        raise ValueError(f"no points to draw: {title}")
    bins = [bin_ for line in drawn for bin_ in line.bins]
    xs = [bin_.x for bin_ in bins] + [value for zone in zones for value in (zone.low, zone.high)]
    ys = [value for bin_ in bins for value in (bin_.low, bin_.high)] + [level.value for level in levels]
    x = _axis(xs, LEFT, WIDTH - RIGHT, logarithmic=logarithmic)
    y = _axis(ys, HEIGHT - BOTTOM, TOP, logarithmic=logarithmic)
    parts = [*_axes(x, y, x_label, y_label)]
    parts += [part for zone in zones for part in _zone(zone, x)]
    parts += [part for level in levels for part in _level(level, y)]
    parts += [part for line in drawn for part in _line(line, x, y, x_label, y_label)]
    said = [
        f"{line.label}: {len(line.points)} points, {y_label} {short(line.bins[0].mean)} to {short(line.bins[-1].mean)}"
        for line in drawn[:_MANY]
    ]
    said += [f"{level.label}: {short(level.value)}" for level in levels]
    return _drawing(title, "; ".join(said), HEIGHT, parts)


def bar_chart(title: str, bars: Sequence[Bar], *, x_label: str, level: Level | None = None) -> Markup:
    """Horizontal bars, each of one part or of several; the level is a line across them.

    Raises:
        ValueError: there is no bar with a part.
    """
    ends = [value for bar in bars for _, low, high, _ in bar.parts for value in (low, high)]
    if not ends:
        raise ValueError(f"no bars to draw: {title}")
    height = TOP + ROW * 2 * len(bars) + BOTTOM
    x = _axis([0.0, *ends, *([level.value] if level else [])], LEFT / 4, WIDTH - RIGHT, tight=True)
    bottom = height - BOTTOM
    parts = [*_x_axis(x, x_label, bottom)]
    for index, bar in enumerate(bars):
        top = TOP + ROW * 2 * index
        parts.append(_text(x.start, top + 13, _clipped(bar.label, _LABEL - len(bar.note))))
        parts.append(_text(WIDTH - RIGHT, top + 13, bar.note, anchor="end"))
        for style, low, high, said in bar.parts:
            width = max(0.5, x.at(high) - x.at(low))
            parts.append(_rectangle(said, style, x.at(low), top + 20, width, BAR))
        if level is not None:
            mark = f"M{x.at(level.value):.1f} {top + 17}v{BAR + 6}"
            parts.append(tag("path", tag("title", level.label), d=mark, class_="level"))
    said = "; ".join(f"{bar.label}: {bar.note}" for bar in bars)
    return _drawing(title, said + (f"; {level.label}" if level else ""), height, parts)


def histogram_chart(title: str, sets: Sequence[tuple[str, int, Sequence[float]]], *, x_label: str) -> Markup:
    """How often values occur: (label, colour, values) a set, each as a share of its set.

    The y axis is one of square roots, so that one value among hundreds is seen.

    Raises:
        ValueError: there are no values.
    """
    filled = [(label, colour, values) for label, colour, values in sets if values]
    if not filled:
        raise ValueError(f"no values to draw: {title}")
    low, high = min(min(values) for _, _, values in filled), max(max(values) for _, _, values in filled)
    x = _axis([low, high], LEFT, WIDTH - RIGHT)
    y = Axis(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    parts = [*_x_axis(x, x_label, HEIGHT - BOTTOM)]
    for share in (0.01, 0.1, 0.25, 0.5, 1.0):
        parts += _y_tick(y.at(math.sqrt(share)), f"{share:.0%}")
    parts.append(_y_title("share of the steps"))
    for label, colour, values in filled:
        parts += _columns(label, colour, values, x, y)
    said = "; ".join(f"{label}: {len(values)} values" for label, _, values in filled)
    return _drawing(title, f"{said}; from {short(low)} to {short(high)} {x_label}", HEIGHT, parts)


def _columns(label: str, colour: int, values: Sequence[float], x: Axis, y: Axis) -> Iterator[Markup]:
    for low, high, number in histogram(values, 48):
        if number:
            top = y.at(math.sqrt(number / len(values)))
            said = f"{label}: {number} from {low:.4g} to {high:.4g}"
            width = max(1.5, x.at(high) - x.at(low))
            yield _rectangle(said, f"column c{colour % COLOURS}", x.at(low), top, width, y.start - top)


# Parts of charts.


def _line(line: Line, x: Axis, y: Axis, x_label: str, y_label: str) -> Iterator[Markup]:
    style, bins = f"c{line.colour % COLOURS}", line.bins
    places = [(x.at(bin_.x), y.at(bin_.mean)) for bin_ in bins]
    if len(line.points) > len(bins):
        above = [f"{x.at(bin_.x):.1f} {y.at(bin_.high):.1f}" for bin_ in bins]
        below = [f"{x.at(bin_.x):.1f} {y.at(bin_.low):.1f}" for bin_ in reversed(bins)]
        yield tag("path", d=f"M{'L'.join(above + below)}Z", class_=f"range {style}")
    if line.joined:
        path = "L".join(f"{place:.1f} {height:.1f}" for place, height in places)
        yield tag("path", tag("title", line.label), d=f"M{path}", class_=f"line {style}")
    if len(bins) <= _MANY or not line.joined:
        for bin_, (place, height) in zip(bins, places, strict=True):
            said = f"{line.label}: {bin_.mean:.6g} {y_label} at {round(bin_.x, 2):,.10g} {x_label}"
            yield tag("circle", tag("title", said), cx=place, cy=height, r=3, class_=f"mark {style}")


def _level(level: Level, y: Axis) -> Iterator[Markup]:
    place = y.at(level.value)
    yield tag("path", d=f"M{LEFT} {place:.1f}H{WIDTH - RIGHT}", class_="level")
    yield _text(WIDTH - RIGHT - 4, place - 5, level.label, anchor="end")


def _zone(zone: Zone, x: Axis) -> Iterator[Markup]:
    low, high = x.at(zone.low), x.at(zone.high)
    yield _rectangle(zone.label, "zone", low, TOP, max(1.0, high - low), HEIGHT - TOP - BOTTOM)


def _axes(x: Axis, y: Axis, x_label: str, y_label: str) -> Iterator[Markup]:
    yield from _x_axis(x, x_label, HEIGHT - BOTTOM)
    for value in y.ticks:
        yield from _y_tick(y.at(value), short(value))
    yield _y_title(y_label)


def _x_axis(x: Axis, label: str, bottom: float) -> Iterator[Markup]:
    yield tag("path", d=f"M{x.start:.1f} {bottom}H{x.end:.1f}", class_="axis")
    room = -math.inf
    for value in x.ticks:
        place, text = x.at(value), short(value)
        yield tag("path", d=f"M{place:.1f} {TOP}V{bottom}", class_="grid")
        half = 4.0 * len(text)
        if place - half > room:
            room = place + half + 4
            yield _text(min(place, WIDTH - half), bottom + 16, text, anchor="middle")
    yield _text((x.start + x.end) / 2, bottom + 35, label, anchor="middle")


def _y_tick(place: float, text: str) -> Iterator[Markup]:
    yield tag("path", d=f"M{LEFT} {place:.1f}H{WIDTH - RIGHT}", class_="grid")
    yield _text(LEFT - 6, place + 4, text, anchor="end")


def _y_title(label: str) -> Markup:
    middle = (TOP + HEIGHT - BOTTOM) / 2
    return _text(13, middle, label, anchor="middle", transform=f"rotate(-90 13 {middle:.1f})")


def _axis(values: Sequence[float], start: float, end: float, *, logarithmic: bool = False, tight: bool = False) -> Axis:
    low, high = min(values), max(values)
    if logarithmic:
        return Axis(low / 1.25, high * 1.25, start, end, logarithmic=True)
    if tight:
        return Axis(low, high if high > low else low + 1.0, start, end)
    room = 0.04 * (high - low) or max(1e-3, abs(high) * 1e-3)
    return Axis(low - room, high + room, start, end)


def _rectangle(said: str, style: str, x: float, y: float, width: float, height: float) -> Markup:
    return tag("rect", tag("title", said), class_=style, x=x, y=y, width=width, height=height)


def _clipped(text: str, most: int) -> str:
    """The end of a text says more than its start: result_2.txt."""
    return text if len(text) <= most else f"…{text[1 - most :]}"


def _text(x: float, y: float, text: str, *, anchor: str = "start", transform: str | None = None) -> Markup:
    return tag("text", text, x=x, y=y, text_anchor=anchor, transform=transform)


def _drawing(title: str, said: str, height: float, parts: Sequence[Markup]) -> Markup:
    return tag(
        "svg",
        tag("title", title),
        tag("desc", said),
        join(*parts),
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        aria_label=f"{title}. {said}",
        class_="chart",
    )
