"""Draw one seed for each run; all runs have different ones.

The rules forbid picking a seed for its result, so by default it comes from the operating system's entropy. A run draws
its weights and the order of its data from its seed (training_rules.adoc: the data seed is the run's seed).
"""

from __future__ import annotations

import secrets

# numpy's RandomState, which orders the data, takes 32 bits; the sign bit stays clear for readers in other languages.
SEED_LIMIT = 2**31
"""Seeds are smaller."""


def draw_seeds(count: int, *, seed: int | None = None, seed_base: int | None = None) -> tuple[int, ...]:
    """Return seeds for `count` runs: the given one, consecutive ones from a base, or distinct random ones.

    Raises:
        ValueError: both a seed and a base are given, or one seed is given for several runs.
    """
    if seed is not None and seed_base is not None:
        raise ValueError(f"SEED={seed} and SEED_BASE={seed_base}: set one of them")
    if seed is not None:
        if count != 1:
            raise ValueError(f"SEED={seed} with NEXP={count}: runs need distinct seeds; set SEED_BASE instead")
        return (seed,)
    if seed_base is not None:
        return tuple(seed_base + index for index in range(count))
    drawn: dict[int, None] = {}
    while len(drawn) < count:
        drawn[secrets.randbelow(SEED_LIMIT)] = None
    return tuple(drawn)
