"""Times several things fairly: in turns, so that other load falls on all of them alike."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median


@dataclass(frozen=True)
class Timing:
    """Medians over the rounds, in seconds."""

    wall: float
    cpu: float
    """Processor time of this process, all threads; other load disturbs it less than wall time."""


def in_turns(work: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 2) -> dict[str, Timing]:
    """Call each piece of work once a round."""
    wall: dict[str, list[float]] = {name: [] for name in work}
    cpu: dict[str, list[float]] = {name: [] for name in work}
    for index in range(-warm_up, rounds):
        for name, call in work.items():
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            call()
            if index >= 0:
                wall[name].append(time.perf_counter() - wall_start)
                cpu[name].append(time.process_time() - cpu_start)
    return {name: Timing(wall=median(wall[name]), cpu=median(cpu[name])) for name in work}


@contextmanager
def in_a_process_of_its_own(build: Callable[[], Callable[[], object]]) -> Iterator[Callable[[], None]]:
    """Yield work that a forked process builds and does whenever it is called; its settings affect no other work."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(build, there), daemon=True)
    process.start()
    there.close()

    def call() -> None:
        here.send(None)
        here.recv()

    try:
        yield call
    finally:
        process.terminate()
        process.join()


def _serve(build: Callable[[], Callable[[], object]], requests: Connection) -> None:
    work = build()
    while True:
        requests.recv()
        work()
        requests.send(None)
