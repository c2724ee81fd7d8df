"""The state of a run after one of its processes is killed."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path

import pytest

from tests.killing import DEFAULT_SEEDS, FEW, MOMENTS, SIGNALS, VICTIMS, Blow, strikes


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_behind(tmp_path: Path) -> None:
    """There is no process, no line after run_stop and no wrong success; the status is right, and the next start
    works.
    """
    assert {outcome.blow.seed: outcome.faults for outcome in strikes(FEW, tmp_path) if outcome.faults} == {}


def test_few_seeds_reach_everything() -> None:
    """They cover every moment and every kind of victim."""
    blows = [Blow.of(seed) for seed in FEW]
    assert {blow.moment for blow in blows} == set(MOMENTS)
    assert {blow.victim.split()[0] for blow in blows} == {victim.split()[0] for victim in VICTIMS}


def test_all_seeds_send_every_signal_to_everybody() -> None:
    """Each pair comes three times, at drawn moments."""
    sent = Counter((blow.number, blow.victim) for blow in map(Blow.of, DEFAULT_SEEDS))
    assert sent == dict.fromkeys(product(SIGNALS, VICTIMS), 3)
