"""Chooses colours: a hue for each system and a shade for each of its runs, legible on the light and the dark page."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

LIGHT, DARK = "#f5f6f8", "#1d2127"
"""The backgrounds of charts, as in style.css."""

LEAST = 3.0
"""Least contrast of a mark with its background, by WCAG 2.2."""

_HUES = (0.575, 0.07, 0.44, 0.80, 0.125, 0.93, 0.30, 0.68)
"""Blue, orange, green, purple, ochre, pink, grass, indigo: neighbours are far apart."""

_GOLDEN = 0.6180339887
"""Step between hues beyond the table: the golden ratio keeps them apart the longest."""


@dataclass(frozen=True, slots=True)
class Colour:
    """A colour as it is on the light page and on the dark one."""

    light: str
    dark: str


def colour(system: int, run: int = 0, of: int = 1) -> Colour:
    """Return the colour of a run of a system; the first run has the strongest."""
    hue = _HUES[system] if system < len(_HUES) else (system * _GOLDEN) % 1.0
    place = run / max(1, of - 1) if of > 1 else 0.0
    return Colour(
        light=_legible(hue, 0.24 + 0.22 * place, 0.85 - 0.25 * place, LIGHT, -0.01),
        dark=_legible(hue, 0.76 - 0.16 * place, 0.80 - 0.20 * place, DARK, 0.01),
    )


def _legible(hue: float, lightness: float, saturation: float, behind: str, step: float) -> str:
    """Return the colour, made lighter or darker until it stands out from its background."""
    found = _hex(hue, lightness, saturation)
    while contrast(found, behind) < LEAST:
        lightness += step
        found = _hex(hue, lightness, saturation)
    return found


def _hex(hue: float, lightness: float, saturation: float) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, lightness, saturation))


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours, as WCAG 2.2 defines it."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(text: str) -> float:
    parts = [int(text[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
