"""Reading ahead: a thread makes the items that come next while what was taken last is worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

_T = TypeVar("_T")

DEPTH = 8
"""Items that are ready or being made: as many microbatches as the deepest pipeline here asks for at once."""

THREAD = "read-ahead"


@contextmanager
def read_ahead(items: Iterator[_T], begin: Callable[[], None] | None = None) -> Iterator[Iterator[_T]]:
    """The same items in the same order, made by one thread, at most DEPTH of them before they are taken.

    The thread starts, with `begin`, when the first item is taken, and not before. What making an item raises is raised
    where that item would have been taken, with the traceback of the thread. After the block, however it is left, the
    thread has ended: it finishes the item that it is at and makes no other.
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
