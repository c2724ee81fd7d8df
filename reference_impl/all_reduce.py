"""python -m reference_impl.all_reduce GBPS: check that the network between all ranks is as fast as it should be.

One all-reduce over every rank, timed; rank 0 prints the bus bandwidth, 2 (n - 1) / n x bytes / time as in nccl-tests.
Exit status: 0 it is at least GBPS GB/s, 1 it is not.
"""

from __future__ import annotations

import statistics
import sys
import time

from benchmark.answers import answer
from benchmark.config import RunConfig

BYTES_ON_GPU, BYTES_ON_CPU = 2**30, 2**22
WARM_UP, REPEATS = 5, 20


def bus_bandwidth(size: int, ranks: int, seconds: float) -> float:
    """Return the bus bandwidth in GB/s: what each rank's links carried while `size` bytes were reduced over `ranks`."""
    return 2 * (ranks - 1) / ranks * size / seconds / 1e9


def measure() -> float:
    """Return the bus bandwidth, GB/s, at the median time of all repeats; the same on every rank."""
    import torch
    import torch.distributed as dist

    size = BYTES_ON_GPU if torch.cuda.is_available() else BYTES_ON_CPU
    values = torch.zeros(size // 4, device="cuda" if torch.cuda.is_available() else "cpu")
    times = []
    for _ in range(WARM_UP + REPEATS):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(values)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    slowest = torch.tensor([statistics.median(times[WARM_UP:])], device=values.device, dtype=torch.float64)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return bus_bandwidth(size, dist.get_world_size(), slowest.item())


def main(least: float) -> int:
    from reference_impl import parallel

    config = RunConfig.from_environment().changed(SEED=0)
    parallel.initialize(config)
    measured = measure()
    if config.process.rank == 0:
        verdict = "" if measured >= least else f", less than NCCL_TEST_MIN_GBPS={least:g}"
        answer(f"network   all-reduce over {config.layout.world_size} ranks: {measured:.2f} GB/s{verdict}")
    parallel.shut_down()
    return int(measured < least)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
