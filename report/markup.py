"""HTML and SVG as text: every string is escaped unless it was made here, so that no log can write into a page."""

from __future__ import annotations

from html import escape

from compliance.formats import printable

_VOID = frozenset({"meta", "br", "hr"})
"""Elements without content, which HTML forbids to close."""


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, /, *content: object, **attributes: object) -> Markup:
    """An element.

    Args:
        content: texts, which are escaped, and Markup, which is not.
        attributes: `class_` stands for class, `stroke_width` for stroke-width; None and False leave one out, True gives
            it without a value.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items() if value not in (None, False))
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(*content)}</{name}>")


def join(*content: object) -> Markup:
    """What comes after one another."""
    return Markup("".join(part if isinstance(part, Markup) else escape(printable(str(part))) for part in content))


def _attribute(key: str, value: object) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(printable(_text(value)))}"'


def _text(value: object) -> str:
    """A coordinate to a tenth of a pixel, which is more than a screen shows; anything else as it is."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
