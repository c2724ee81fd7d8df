"""Measures memory and time of saving and loading the training state, against Megatron-Core's layout-independent forms.

The model has 69 million parameters on four data-parallel ranks of this machine's CPU, in bf16 with an fp32 optimizer.
Memory is the most that all ranks and their writers hold above what they held before, with shared pages counted once
(PSS). This module imports nothing large at its top: each rank that saves starts a process that imports it again.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import click
import psutil

if TYPE_CHECKING:
    from perf.state_forms import Work

RANKS = 4
"""Data-parallel ranks, each a process."""
SAMPLE_EVERY_S = 0.02
"""Seconds between two measurements of memory."""


def as_rank(rank: int, meeting: Path, work: Work, folder: Path, launcher: Connection, go: Event) -> None:
    """Build a trainer, report that, wait for the go, work, and report how long it took; only the first rank reports."""
    import torch.distributed as dist

    from perf.state_forms import configuration, trainer

    os.environ.update(LOCAL_RANK=str(rank))
    step = trainer(configuration(RANKS).changed(RANK=rank, RENDEZVOUS_FILE=meeting))
    dist.barrier()
    if rank == 0:
        launcher.send(0.0)
    go.wait()
    began = time.perf_counter()
    work(step, folder)
    dist.barrier()
    if rank == 0:
        launcher.send(time.perf_counter() - began)


def memory() -> int:
    """Return the bytes of this process's descendants, with shared pages counted once."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total


def measured(work: Work, folder: Path) -> tuple[float, float]:
    """Return the peak bytes of all ranks above what they held before, and the seconds."""
    with tempfile.TemporaryDirectory() as private:
        return _measured(work, folder, Path(private, "rendezvous"))


def _measured(work: Work, folder: Path, meeting: Path) -> tuple[float, float]:
    context = multiprocessing.get_context("fork")
    answers, rank_0 = context.Pipe(duplex=False)
    go = context.Event()
    ranks = [context.Process(target=as_rank, args=(rank, meeting, work, folder, rank_0, go)) for rank in range(RANKS)]
    for process in ranks:
        process.start()
    sentinels = [process.sentinel for process in ranks]
    wait([answers, *sentinels])
    heard(answers)
    before = highest = memory()
    go.set()
    while not wait([answers, *sentinels], SAMPLE_EVERY_S):
        highest = max(highest, memory())
    seconds = heard(answers)
    for process in ranks:
        process.join()
    return float(highest - before), seconds


def heard(answers: Connection) -> float:
    """Return what rank 0 has reported; no report means that a rank has died after printing why."""
    if not answers.poll():
        raise SystemExit(1)
    return float(answers.recv())


@click.command()
@click.option("--rounds", default=3)
def main(rounds: int) -> None:
    """Measure each form, in turns, and print the medians.

    \b
    python -m perf.save_state
    """
    # Before the ranks are forked.
    from perf.state_forms import BENCHMARK, BYTES_A_PARAMETER, FORMS

    measurements: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for _ in range(rounds):
        for form, (save, load) in FORMS.items():
            with tempfile.TemporaryDirectory() as folder:
                for action, work in (("save", save), ("load", load)):
                    measurements[form, action].append(measured(work, Path(folder) / "state"))
    parameters = BENCHMARK.parameters
    state = parameters * BYTES_A_PARAMETER
    print(
        f"{parameters:,} parameters, {state / 2**20:,.0f} MiB of weights and optimizer, {RANKS} ranks, "
        f"median of {rounds} rounds"
    )
    for (form, action), taken in measurements.items():
        most, seconds = (median(values) for values in zip(*taken, strict=True))
        print(f"{form:28} {action}   {most / 2**20:7,.0f} MiB {most / state:6.2f} x the state {seconds:7.1f} s")


if __name__ == "__main__":
    main()
