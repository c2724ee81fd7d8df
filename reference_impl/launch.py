"""Start the ranks of this node with torch.distributed's elastic launcher, which is torchrun's own."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from types import FrameType

from benchmark.config import RunConfig


def launch(config: RunConfig) -> int:
    """Run DGXNGPU ranks of `reference_impl.pretrain` and return the exit status of the first that failed, or 0."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=config.gpus_per_node,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=f"seed{config.seed}",
        max_restarts=0,
        monitor_interval=0.1,
        local_addr="localhost",
    )
    with tempfile.TemporaryDirectory(prefix="npy_index_") as index_dir:
        os.environ.setdefault("NPY_INDEX_DIR", index_dir)
        os.environ.setdefault("OMP_NUM_THREADS", str(_cores_per_rank(config)))
        signal.signal(signal.SIGUSR1, _pass_on)
        try:
            elastic_launch(settings, sys.executable)("-m", "reference_impl.pretrain")
        except ChildFailedError as error:
            _, failure = error.get_first_failure()
            return failure.exitcode if failure.exitcode > 0 else 1
        except SignalException as error:
            return 128 + error.sigval
    return 0


def _pass_on(number: int, _frame: FrameType | None) -> None:
    """To the ranks, which save and stop; the elastic launcher's own signals are those that end them."""
    import psutil

    for rank in psutil.Process().children():
        rank.send_signal(number)


def _cores_per_rank(config: RunConfig) -> int:
    return max(1, len(os.sched_getaffinity(0)) // config.gpus_per_node)
