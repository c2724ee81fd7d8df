"""The fuzzer of the log reader makes the inputs that it promises, and the reader survives them."""

from __future__ import annotations

from perf.fuzz_reader import FUZZ, mutated
from perf.fuzzing import chance, look


def test_some_inputs_are_read_without_a_crash() -> None:
    """No input of the first few makes the reader or a rule crash; a full run has a million."""
    found = look(FUZZ, 7, None, range(100))
    assert (found.inputs, found.failures) == (100, [])


def test_inputs_depend_on_the_seed_alone() -> None:
    """An input that failed can be made again."""
    assert mutated(chance(7, 3)) == mutated(chance(7, 3)) != mutated(chance(8, 3))
