"""python -m perf.curve [--warm-up]: a few steps of the environment's run, on synthetic data, as JSON.

Each curve has a process of its own, since a forked process cannot use CUDA after its parent has. Without a GPU it runs
on the CPU. On a GPU it also reports what the last step asked of it: memory, host synchronisations, kernels by name.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import torch

from benchmark.config import RunConfig
from reference_impl import parallel
from reference_impl.data.published import manifest_of
from reference_impl.step import MegatronStep, synthetic_batches

STEPS = 5
"""Optimizer steps of a curve."""


@click.command()
@click.option("--warm-up", "warmed", is_flag=True, help="Warm up first, as every run does.")
def main(warmed: bool) -> None:
    """Losses, gradient norms and what the last step asked of the device."""
    parallel.alone()
    config = RunConfig.from_environment()
    parallel.initialize(config)
    step = MegatronStep(config, manifest_of(config.benchmark_row, {}))
    if warmed:
        step.warm_up()
    batches = synthetic_batches(config)
    stats = [step.train_once(batches) for _ in range(STEPS - 1)]
    with observed() as counts:
        stats.append(step.train_once(batches))
    answer = {
        "losses": [one.loss for one in stats],
        "grad_norms": [one.grad_norm for one in stats],
        "peak": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
        "reserved": torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0,
        **counts,
    }
    sys.stdout.write(json.dumps(answer) + "\n")
    parallel.shut_down()


@contextmanager
def observed() -> Iterator[dict[str, Any]]:
    """Yield what the block asks of the GPU: host synchronisations, and launches of each kernel; nothing on a CPU."""
    counts: dict[str, Any] = {"synchronisations": 0, "kernels": {}}
    if not torch.cuda.is_available():
        yield counts
        return
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with warnings.catch_warnings(record=True) as caught, torch.profiler.profile(activities=activities) as profile:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        yield counts
        torch.cuda.set_sync_debug_mode("default")
    counts["synchronisations"] = sum("called a synchronizing CUDA operation" in str(one.message) for one in caught)
    launches = Counter(event.name for event in profile.events() or () if event.device_type.name == "CUDA")
    counts["kernels"] = dict(launches.most_common())


if __name__ == "__main__":
    main()
