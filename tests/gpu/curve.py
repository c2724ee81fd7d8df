"""python -m tests.gpu.curve: a few steps of the run that the environment describes, on synthetic data, as JSON.

A process of its own for each, since a forked one cannot use CUDA after its parent has; without a GPU in sight it runs
on the CPU.
"""

from __future__ import annotations

import json
import sys

import torch

from benchmark.config import RunConfig
from reference_impl import parallel
from reference_impl.data.published import manifest_of
from reference_impl.step import MegatronStep, synthetic_batches

STEPS = 5


def main() -> None:
    parallel.alone()
    config = RunConfig.from_environment()
    parallel.initialize(config)
    step = MegatronStep(config, manifest_of(config.benchmark_row, {}))
    batches = synthetic_batches(config)
    stats = [step.train_once(batches) for _ in range(STEPS)]
    answer = {
        "losses": [one.loss for one in stats],
        "grad_norms": [one.grad_norm for one in stats],
        "peak": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
    }
    sys.stdout.write(json.dumps(answer) + "\n")
    parallel.shut_down()


if __name__ == "__main__":
    main()
