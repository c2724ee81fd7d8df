"""What the fuzzers share: numbered inputs on many processes, the failures among them, and the slowest of them.

The seed alone determines the inputs. The slowest ones of each process are tried again at the end, and the fastest of
three tries counts, so that a busy machine does not distort the figures.
"""

from __future__ import annotations

import heapq
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, reduce
from pathlib import Path
from random import Random
from typing import NoReturn

import click

SLOWEST = 5
"""Inputs of each process that are tried again."""

PATIENCE_S = 60
"""Seconds after which an input is a failure: nothing that is tried here may hang."""


@dataclass(frozen=True, kw_only=True)
class Fuzz:
    """A kind of inputs, and what is tried with each."""

    make: Callable[[Random, Path], int]
    """Writes an input into an empty folder; returns its bytes."""
    attempt: Callable[[Path], str]
    """Tries the input in a folder; returns what went wrong, which should be nothing. An exception is a failure too."""
    part: int
    """Inputs that a process takes at a time."""
    memory: int | None = None
    """Most bytes of address space for a process."""


@dataclass(kw_only=True)
class Tally:
    """The results of one process, or of all of them."""

    inputs: int = 0
    size: int = 0
    """Bytes."""
    seconds: float = 0.0
    """Seconds of processor time."""
    failures: list[str] = field(default_factory=list)
    slowest: list[tuple[float, float, int]] = field(default_factory=list)
    """Seconds per byte, seconds, and the number of the input."""

    def add(self, other: Tally) -> None:
        """Add the results of another process."""
        self.inputs += other.inputs
        self.size += other.size
        self.seconds += other.seconds
        self.failures += other.failures
        self.slowest += other.slowest


def chance(seed: int, number: int) -> Random:
    """Return the random generator for the input of this number: the same in every run with the seed."""
    return Random(seed * 1_000_003 + number)


def look(fuzz: Fuzz, seed: int, keep: Path | None, numbers: range) -> Tally:
    """Try the inputs of these numbers."""
    tally = Tally()
    longest: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as scratch:
        folder = Path(scratch, "input")
        for number in numbers:
            size, seconds, fault = _try(fuzz, seed, number, folder)
            tally.add(Tally(inputs=1, size=size, seconds=seconds))
            heapq.heappush(longest, (seconds / max(1, size), number))
            if len(longest) > SLOWEST:
                heapq.heappop(longest)
            if fault:
                tally.failures.append(f"input {number}: {fault}")
                if keep is not None:
                    (keep / str(number)).mkdir(parents=True)
                    fuzz.make(chance(seed, number), keep / str(number))
        for _, number in longest:
            tries = [_try(fuzz, seed, number, folder) for _ in range(3)]
            size, seconds, _ = min(tries, key=lambda tried: tried[1])
            tally.slowest.append((seconds / max(1, size), seconds, number))
    return tally


def _try(fuzz: Fuzz, seed: int, number: int, folder: Path) -> tuple[int, float, str]:
    """Return bytes, seconds of processor time, and what went wrong."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    size = fuzz.make(chance(seed, number), folder)
    start = time.process_time()
    try:
        with _patience():
            fault = fuzz.attempt(folder)
    except Exception as error:  # noqa: BLE001 - this is what the fuzzer looks for
        fault = f"{type(error).__name__}: {error}"[:300]
    return size, time.process_time() - start, fault


class _Hangs(BaseException):
    """An input hangs. It is not an Exception, so that nothing takes it for an error of its input."""


@contextmanager
def _patience() -> Iterator[None]:
    """Raise TimeoutError for a block that hangs."""

    def give_up(*_: object) -> NoReturn:
        raise _Hangs

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE_S)
    try:
        yield
    except _Hangs:
        raise TimeoutError(f"not done after {PATIENCE_S} s") from None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(fuzz: Fuzz, inputs: int, seed: int, processes: int, keep: Path | None) -> NoReturn:
    """Try all inputs, print the figures, and exit with status 1 if anything went wrong with one."""
    total, parts = Tally(), list(_parts(inputs, fuzz.part))
    with ProcessPoolExecutor(processes, initializer=_limit, initargs=(fuzz.memory,)) as pool:
        try:
            for tally in pool.map(partial(look, fuzz, seed, keep), parts):
                total.add(tally)
                click.echo(f"{total.inputs} inputs, {len(total.failures)} failures", err=True)
        except BrokenProcessPool:
            total.failures.append(f"a process died, of an input from {total.inputs} on")
    _print(total, seed)
    sys.exit(int(bool(total.failures)))


def _limit(memory: int | None) -> None:
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def _parts(inputs: int, size: int) -> Iterator[range]:
    return (range(start, min(start + size, inputs)) for start in range(0, inputs, size))


def _print(total: Tally, seed: int) -> None:
    click.echo(f"{total.inputs} inputs of seed {seed}, {total.size / 1e9:.2f} GB, {total.seconds:.0f} s of a processor")
    if total.slowest:
        mean, (worst, _, number) = total.seconds / max(1, total.size), max(total.slowest)
        longest, at = max((seconds, number) for _, seconds, number in total.slowest)
        click.echo(f"{mean * 1e9:.0f} ns a byte; the slowest {worst * 1e9:.0f}, {worst / mean:.1f} x (input {number})")
        click.echo(f"{total.seconds / total.inputs * 1e3:.1f} ms an input; the longest {longest:.3f} s (input {at})")
    click.echo(f"{len(total.failures)} failures" + "".join(f"\n  {failure}" for failure in total.failures[:20]))


def options(inputs: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the options of a fuzzer's command line, with this many inputs by default."""
    added = (
        click.option("--inputs", type=click.IntRange(min=1), default=inputs, show_default=True),
        click.option("--seed", type=int, default=1, show_default=True),
        click.option("--processes", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default=True),
        click.option("--keep", type=click.Path(path_type=Path, file_okay=False), help="Write inputs that fail here."),
    )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        return reduce(lambda made, option: option(made), reversed(added), command)

    return decorate
