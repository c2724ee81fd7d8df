"""Reading ahead: a thread makes the next items while the caller works on the current one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

_T = TypeVar("_T")

DEPTH = 8
"""Items that are ready or being made: as many microbatches as the deepest pipeline used here requests at once."""

THREAD = "read-ahead"


@contextmanager
def read_ahead(items: Iterator[_T], begin: Callable[[], None] | None = None) -> Iterator[Iterator[_T]]:
    """Yield an iterator over the same items, in the same order, made by one thread at most DEPTH items ahead.

    The thread starts, with `begin`, when the first item is taken. An exception from making an item is raised where that
    item would have been taken, with the thread's traceback. However the block is left, the thread ends after it: it
    finishes the item in work and makes no other.
    """
    pool = ThreadPoolExecutor(1, THREAD, initializer=begin)
    try:
        yield _taken(pool, items)
    finally:
        pool.shutdown(cancel_futures=True)


def _taken(pool: ThreadPoolExecutor, items: Iterator[_T]) -> Iterator[_T]:
    coming = deque(pool.submit(next, items, None) for _ in range(DEPTH))
    while (item := coming.popleft().result()) is not None:
        coming.append(pool.submit(next, items, None))
        yield item
