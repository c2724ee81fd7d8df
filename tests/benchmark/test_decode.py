"""Untrusted input is decoded within limits, and nothing in it is executed."""

from __future__ import annotations

import os
import pickle
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.decode import (
    DEEPEST,
    MalformedError,
    PickledObject,
    from_json,
    from_pickle,
    from_yaml,
    mapping_of,
    read_regular,
)
from perf.fuzz_checkpoints import BOMBS, YAML_BOMBS


def named(module: str, name: str) -> Any:
    return mapping_of if (module, name) == ("collections", "OrderedDict") else PickledObject


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=300),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(PLAIN, st.integers(3, pickle.HIGHEST_PROTOCOL))
def test_plain_data_comes_back(value: Any, protocol: int) -> None:
    """Pickled numbers, text, bytes, lists, tuples and dicts are read back equal."""
    assert from_pickle(pickle.dumps(value, protocol), named) == value


def test_an_ordered_dict_comes_back_as_a_dict() -> None:
    """An OrderedDict, as torch writes the parts of a state, is read as a dict."""
    assert from_pickle(pickle.dumps(OrderedDict(a=1)), named) == {"a": 1}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_pickle_that_asks_for_more_than_it_is_costs_little(bomb: str) -> None:
    """It is refused or decoded within seconds of processor time, and nothing that it names is called."""
    began = time.process_time()
    with suppress(MalformedError):
        from_pickle(BOMBS[bomb], named)
    assert time.process_time() - began < 3


@pytest.mark.parametrize("number", range(len(YAML_BOMBS)))
def test_yaml_that_grows_costs_little(number: int) -> None:
    """Aliases of aliases, aliases within themselves, depth and calls: refused or plain text, in seconds at most."""
    began = time.process_time()
    with suppress(MalformedError):
        from_yaml(YAML_BOMBS[number].encode())
    assert time.process_time() - began < 3


def test_yaml_is_text_as_written() -> None:
    """Text that looks like a date, infinity or boolean stays text; an alias becomes what it stands for."""
    assert from_yaml(b"a: &x [2001-13-99, .inf, no, 007]\nb: *x\n") == {
        name: ["2001-13-99", ".inf", "no", "007"] for name in "ab"
    }


def test_json_beyond_a_depth_is_refused() -> None:
    """Nesting beyond the limit is refused; brackets within strings do not count."""
    deepest = b"[" * DEEPEST + b'"[{\\"["' + b"]" * DEEPEST
    assert isinstance(from_json(deepest), list)
    with pytest.raises(MalformedError, match="nested more than"):
        from_json(b"[" + deepest + b"]")
    with pytest.raises(MalformedError, match="nested more than"):
        from_json(b'{"a":' * 100_000)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """It does not wait for a pipe, read a device, or read a file beyond its limit."""
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    large.write_bytes(b"x" * 11)
    for path in (pipe, Path("/dev/zero"), tmp_path):
        with pytest.raises((MalformedError, OSError)):
            read_regular(path, 10)
    with pytest.raises(MalformedError, match="larger than 10 bytes"):
        read_regular(large, 10)
    assert read_regular(large, 11) == b"x" * 11
