"""Read system.yaml, in which a person describes a system; every value is the text as it is written.

YAML would read 22.10 as 22.1, `no` as False and 8:4:2 as 29042.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from compliance.checks.systems import FIELDS
from compliance.package.runs import NotPackageableError

MAX_BYTES = 1 << 15
"""Bytes of a system.yaml that are read at most; a full one has 3000."""

STACK = "other_software_stack"
"""The one field that may hold a mapping."""

Facts = dict[str, str | dict[str, str]]
"""Field -> its value. A field that is missing is unknown."""


class _AliasError(yaml.MarkedYAMLError):
    """The file has an alias, by which a small file can expand to gigabytes."""


class _Loader(yaml.BaseLoader):
    """Reads every value as text, and refuses aliases."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise _AliasError(
                problem="aliases are not read; write the value out", problem_mark=self.peek_event().start_mark
            )
        return super().compose_node(parent, index)


def read_facts(path: Path) -> Facts:
    """Read the fields of a YAML file that are not empty.

    Raises:
        NotPackageableError: the file cannot be read, or has a field twice or an unknown one; it lists every fault.
    """
    node = _parse(path)
    if not isinstance(node, yaml.MappingNode):
        read = "an empty file" if node is None else _kind(node)
        raise NotPackageableError([f"{path}: expected lines such as `system_name: DGX H100`, read {read}"])
    if faults := [f"{path}, {fault}" for fault in _faults(node)]:
        raise NotPackageableError(faults)
    facts = {name.value: _value(value) for name, value in node.value}
    return {name: value for name, value in facts.items() if _is_filled(value)}


def _parse(path: Path) -> yaml.Node | None:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes; expected a list of fields, about 3,000 bytes")
        return yaml.compose(content.decode("utf-8-sig"), Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise NotPackageableError([f"{path}, {_line(error.problem_mark)}: {error.problem or error.context}"]) from None
    except OSError as error:
        raise NotPackageableError([f"{path} cannot be read: {error.strerror}"]) from None
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise NotPackageableError([f"{path} cannot be read: {error}"]) from None


def _line(mark: yaml.Mark | None) -> str:
    return "line ?" if mark is None else f"line {mark.line + 1}"


def _faults(node: yaml.MappingNode) -> Iterator[str]:
    yield from _repeated(node)
    for name, value in node.value:
        if not _is_text(name):
            yield f"{_line(name.start_mark)}: expected the name of a field, read {_kind(name)}"
        elif name.value not in FIELDS:
            yield f"{_line(name.start_mark)}: {_misspelt(name.value)}"
        elif isinstance(value, yaml.MappingNode) and name.value == STACK:
            yield from _repeated(value)
            yield from (_nested(STACK, item) for pair in value.value for item in pair if not _is_text(item))
        elif not _is_text(value):
            yield _nested(name.value, value)


def _repeated(node: yaml.MappingNode) -> Iterator[str]:
    """Yield a fault for each name that is given again; YAML would take its last value."""
    first: dict[str, yaml.Mark] = {}
    for name, _ in node.value:
        if not _is_text(name):
            continue
        if name.value in first:
            yield f"{_line(name.start_mark)}: {name.value} is given again, first in {_line(first[name.value])}"
        first.setdefault(name.value, name.start_mark)


def _is_text(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode)


def _nested(name: str, node: yaml.Node) -> str:
    return f"{_line(node.start_mark)}: {name} is {_kind(node)}; expected text"


def _kind(node: yaml.Node) -> str:
    return "text" if _is_text(node) else "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


def _misspelt(name: str) -> str:
    near = difflib.get_close_matches(name, FIELDS, n=1)
    return f"{name} is not a field of a system" + (f"; did you mean {near[0]}?" if near else f"; {', '.join(FIELDS)}")


def _value(node: yaml.Node) -> str | dict[str, str]:
    if isinstance(node, yaml.MappingNode):
        return {name.value: value.value for name, value in node.value if value.value.strip()}
    return str(node.value)


def _is_filled(value: str | dict[str, str]) -> bool:
    return bool(value.strip() if isinstance(value, str) else value)
