"""Decode JSON, YAML and pickles that others wrote, within limits of type, size and depth.

Nothing here executes what it reads. Whatever is refused raises MalformedError, whose message is one short line.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import reprlib
import stat
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, ClassVar

from benchmark.errors import HarnessError

DEEPEST = 64
"""The deepest nesting that is decoded; Python's own decoders recurse."""

MOST_NODES = 20_000
"""The most nodes of a YAML document, counted with every alias expanded; NeMo's model.yaml has under 500."""


class MalformedError(HarnessError, ValueError):
    """The input cannot be decoded, or it exceeds a limit."""


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        OSError: it cannot be opened.
        MalformedError: it is a pipe, a device or a folder.
    """
    # Opening a pipe would wait for a writer otherwise.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise MalformedError("not a regular file")
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, most_bytes: int) -> bytes:
    """Read all bytes of a regular file.

    Raises:
        OSError: it cannot be read.
        MalformedError: it is a pipe, a device or a folder, or larger.
    """
    with open_regular(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise MalformedError(f"larger than {most_bytes:,} bytes")
    return content


_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def json_depth(content: bytes) -> int:
    """Count how deeply arrays and objects are nested, up to DEEPEST + 1."""
    depth = deepest = 0
    for match in _BRACKETS.finditer(content):
        first = content[match.start()]
        depth += (first in b"[{") - (first in b"]}")
        deepest = max(deepest, depth)
        if deepest > DEEPEST:
            break
    return deepest


def from_json(content: bytes, decoder: json.JSONDecoder | None = None) -> Any:
    """Decode JSON in UTF-8.

    Args:
        decoder: Python's own if None.

    Raises:
        MalformedError: it is not JSON in UTF-8, or it is nested too deeply.
    """
    if json_depth(content) > DEEPEST:
        raise MalformedError(f"arrays and objects are nested more than {DEEPEST} deep")
    try:
        return (decoder or _JSON).decode(content.decode())
    except ValueError as error:
        raise MalformedError(one_line(error)) from None


_JSON = json.JSONDecoder()


def from_yaml(content: bytes) -> Any:
    """Decode a YAML document; every scalar is text, as it is written.

    Raises:
        MalformedError: it is not YAML, or it is too deep or, with its aliases expanded, too large.
    """
    import yaml

    try:
        _refuse_growth(yaml.parse(content, Loader=yaml.BaseLoader), yaml)
        return yaml.load(content, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise MalformedError(one_line(error)) from None


def _refuse_growth(events: Any, yaml: Any) -> None:
    """Raise MalformedError for a document that is too deep or, with its aliases expanded, too large."""
    sizes: dict[str, int] = {}
    """Anchor of a complete node -> number of its nodes."""
    total, open_at = 0, list[tuple[str | None, int]]()
    for event in events:
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            if anchor not in sizes:
                raise MalformedError(f"the alias {shown(anchor)} refers to a node that is not complete")
            total += sizes[anchor]
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if anchor is not None:
                sizes[anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_at.append((anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            name, start = open_at.pop()
            if name is not None:
                sizes[name] = total - start
        if total > MOST_NODES:
            raise MalformedError(f"more than {MOST_NODES:,} values with its aliases expanded")
        if len(open_at) > DEEPEST:
            raise MalformedError(f"lists and mappings are nested more than {DEEPEST} deep")


class PickledObject:
    """Stands for an object of a pickle, without its class: the arguments of its constructor, and its state."""

    state: Any = MappingProxyType({})

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __getitem__(self, name: str) -> Any:
        """Return a field of its state; raises KeyError if there is none."""
        if not isinstance(self.state, dict):
            raise KeyError(name)
        return self.state[name]


def from_pickle(
    content: bytes, named: Callable[[str, str], Any], persistent: Callable[[Any], Any] | None = None, *, number: int = 1
) -> Any:
    """Decode a pickle without importing anything; only functions that `named` returns are called.

    Time and memory are linear in its size. Python's own decoder is not used as it is: it trusts every memo index and
    length, and recurses without a limit when it hashes a tuple.

    Args:
        named: returns what stands for a class, by its module and name; raises MalformedError for an unexpected one.
        persistent: returns what stands for an object that is stored elsewhere, by its id; all are refused if None.
        number: how many pickles follow each other in `content`; the last one is returned.

    Raises:
        MalformedError: it is not a pickle, or needs more than plain data does.
    """
    try:
        file = BytesIO(content)
        return [_Unpickler(file, named, persistent).load() for _ in range(number)][-1]
    except MalformedError:
        raise
    except _ODD_PICKLE as error:
        raise MalformedError(one_line(error)) from None


_ODD_PICKLE = (
    *(pickle.UnpicklingError, EOFError, AttributeError, KeyError, IndexError, TypeError, ValueError),
    *(OverflowError, struct.error),
)

_OPERATIONS = frozenset(
    b"\x80\x95."  # PROTO FRAME STOP
    b"(012"  # MARK POP POP_MARK(1) DUP
    b"N\x88\x89IJKMLF\x8a\x8bG"  # none, booleans, numbers
    b"SUTVX\x8c\x8dBC\x8e"  # text, bytes
    b"])}tl\x85\x86\x87aesud"  # lists, tuples, dicts
    b"c\x93Rb\x81Q"  # classes, their objects, and what is stored elsewhere
    b"pqrghj\x94"  # memo
)
"""Opcodes of a pickle of plain data: no byte arrays, buffers, extensions or sets, nor INST and OBJ of protocol 0."""

_LONGEST_TUPLE = 16
"""The most arguments of an object, and axes of a shape."""


# typeshed lacks nearly all of its methods.
_InPython: Any = pickle._Unpickler


class _Unpickler(_InPython):
    """Python's pure-Python decoder, restricted to _OPERATIONS; each operation is one method."""

    dispatch: ClassVar = {code: call for code, call in _InPython.dispatch.items() if code in _OPERATIONS}

    def __init__(
        self, file: BytesIO, named: Callable[[str, str], Any], persistent: Callable[[Any], Any] | None
    ) -> None:
        super().__init__(file)
        self._named, self._persistent = named, persistent

    def find_class(self, module: str, name: str) -> Any:
        return self._named(module, name)

    def persistent_load(self, identifier: Any) -> Any:
        if self._persistent is None:
            raise MalformedError("it refers to an object that is stored elsewhere")
        return self._persistent(identifier)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _set(self.stack[-1], key, value)

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            _set(self.stack[-1], key, value)

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def load_dict(self) -> None:
        made: dict[Any, Any] = {}
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            _set(made, key, value)
        self.append(made)

    dispatch[pickle.DICT[0]] = load_dict

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        self.stack[-1] = _made(function, arguments)

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_reduce

    def load_build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if not isinstance(made, PickledObject):
            raise MalformedError(f"it gives {type(made).__name__} a state")
        made.__setstate__(state)

    dispatch[pickle.BUILD[0]] = load_build

    def load_appends(self) -> None:
        items, target = self.pop_mark(), self.stack[-1]
        _append(target, items)

    dispatch[pickle.APPENDS[0]] = load_appends

    def load_append(self) -> None:
        value = self.stack.pop()
        _append(self.stack[-1], [value])

    dispatch[pickle.APPEND[0]] = load_append


def _set(target: object, key: object, value: object) -> None:
    # Keys of these types can be hashed without recursion.
    if not isinstance(target, dict) or not isinstance(key, str | int | float | PickledObject | None):
        raise MalformedError(f"it sets an item of {type(target).__name__} by {type(key).__name__}")
    target[key] = value


def _append(target: object, values: list[Any]) -> None:
    if not isinstance(target, list):
        raise MalformedError(f"it appends to {type(target).__name__}")
    target.extend(values)


def _made(function: object, arguments: object) -> object:
    """Call the function that stands for a class with the arguments of an object."""
    if not callable(function) or not isinstance(arguments, tuple) or len(arguments) > _LONGEST_TUPLE:
        raise MalformedError(f"it calls {shown(type(function).__name__)} with {type(arguments).__name__}")
    return function(*arguments)


def shape_of(*arguments: Any) -> tuple[int, ...]:
    """Return the shape that is made from one tuple of whole numbers."""
    (values,) = arguments
    if not isinstance(values, tuple | list) or len(values) > _LONGEST_TUPLE:
        raise MalformedError(f"expected a shape of at most {_LONGEST_TUPLE} axes")
    if not all(type(value) is int and 0 <= value < 1 << 62 for value in values):
        raise MalformedError("expected a shape of whole numbers >= 0")
    return tuple(values)


def mapping_of(*arguments: Any) -> dict[Any, Any]:
    """Return an empty dict, with which an OrderedDict begins."""
    if arguments:
        raise MalformedError("expected an empty dict, which is filled later")
    return {}


def one_line(error: Exception) -> str:
    """Return the message of an error on one line of at most 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80


def shown(value: object) -> str:
    """Return a value as text of about 80 characters at most, however long and deep it is."""
    return _REPR.repr(value)
