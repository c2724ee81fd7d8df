"""Reading ahead gives what reading would have given, and its thread is never left behind."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Iterator

import pytest

from reference_impl.data.read.ahead import DEPTH, THREAD, read_ahead
from tests.waiting import STILL_S

MANY = 3 * DEPTH


class Source:
    """Numbers from 0 on that notes how many it has made, and in which threads."""

    def __init__(self, fails_at: int | None = None, slow_from: int = 1 << 30) -> None:
        self.made = 0
        self.threads: set[str] = set()
        self._fails_at, self._slow_from = fails_at, slow_from
        self._one_more = threading.Condition()

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self.threads.add(threading.current_thread().name)
        if self.made == self._fails_at:
            self._fail()
        if self.made >= self._slow_from:
            time.sleep(0.05)
        with self._one_more:
            self.made += 1
            self._one_more.notify()
        return self.made - 1

    def reached(self, made: int) -> bool:
        """Whether it makes so many, by itself."""
        with self._one_more:
            return self._one_more.wait_for(lambda: self.made >= made, timeout=STILL_S)

    def _fail(self) -> None:
        raise OSError("the disk is gone")


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(THREAD)]


def test_items_come_in_their_order_until_they_end() -> None:
    """Every item comes once, then the end."""
    with read_ahead(iter(range(MANY))) as items:
        assert list(items) == list(range(MANY))
    assert not readers()


def test_nothing_is_read_before_the_first_is_taken() -> None:
    """No thread starts and `begin` does not run before that: data must not be touched before the clock starts."""
    source, began = Source(), list[str]()
    with read_ahead(source, lambda: began.append(threading.current_thread().name)) as items:
        assert (source.made, began, readers()) == (0, [], [])
        next(items)
    assert len(began) == 1
    assert source.threads == set(began)
    assert threading.current_thread().name not in began


def test_no_more_is_read_than_fits() -> None:
    """However slow the rest is, it reads what was taken and DEPTH more."""
    source = Source()
    with read_ahead(source) as items:
        next(items)
        assert source.reached(1 + DEPTH)
    assert source.made == 1 + DEPTH


class Interrupted(BaseException):
    """An interruption, as a signal raises it."""


def test_whoever_leaves_early_leaves_no_thread() -> None:
    """Whatever ends the block, the thread finishes its item and then ends, and is waited for."""
    source = Source(slow_from=1)

    def interrupted() -> None:
        with read_ahead(source) as items:
            next(items)
            raise Interrupted

    with pytest.raises(Interrupted):
        interrupted()
    assert source.made <= 2
    assert not readers()


def test_what_fails_in_the_thread_fails_where_it_is_taken() -> None:
    """The error comes after all items before it, with the failing line of the reader."""
    with read_ahead(Source(fails_at=2)) as items:
        assert [next(items), next(items)] == [0, 1]
        with pytest.raises(OSError, match="the disk is gone") as caught:
            next(items)
    assert "_fail" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert not readers()
