"""One seed a run: given, counted from a base, or drawn from the system's entropy."""

from __future__ import annotations

import itertools
import secrets

import pytest

from benchmark.seeds import SEED_LIMIT, draw_seeds
from tests.fakes import configured


def test_given_seed_is_used() -> None:
    """The seed of one run is the given one, even zero."""
    assert [draw_seeds(1, seed=seed) for seed in (0, 42)] == [(0,), (42,)]


def test_base_gives_consecutive_seeds() -> None:
    """Run i of several uses base + i."""
    assert draw_seeds(3, seed_base=100) == (100, 101, 102)


def test_drawn_seeds_are_distinct_and_in_range() -> None:
    """Drawn seeds differ within a set and between two calls, and fit what numpy takes."""
    first, second = draw_seeds(500), draw_seeds(500)
    assert len({*first, *second}) == 1000
    assert all(0 <= seed < SEED_LIMIT for seed in (*first, *second))


def test_a_seed_drawn_twice_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system's entropy repeats itself, the runs still have different seeds."""
    numbers = itertools.chain([7, 7, 7, 8], itertools.repeat(9))
    monkeypatch.setattr(secrets, "randbelow", lambda limit: next(numbers))
    assert draw_seeds(3) == (7, 8, 9)


def test_seed_and_base_exclude_each_other() -> None:
    """Giving both SEED and SEED_BASE is refused."""
    with pytest.raises(ValueError, match="SEED=1 and SEED_BASE=2"):
        draw_seeds(1, seed=1, seed_base=2)


def test_one_seed_cannot_serve_several_runs() -> None:
    """Runs of a result need distinct seeds."""
    with pytest.raises(ValueError, match="SEED=1 with NEXP=2"):
        draw_seeds(2, seed=1)


def test_configuration_draws_as_many_as_it_has_runs() -> None:
    """NEXP runs get NEXP seeds."""
    assert len(configured(NEXP=3).seeds) == 3
