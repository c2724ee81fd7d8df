"""Runs on this machine, as `bash run_and_time.sh` starts them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmark import driver
from benchmark.config import ConfigError, RunConfig, kernels
from benchmark.hardware import gpu_of_system
from benchmark.processes import sweep
from benchmark.run_record import Seen
from harness.launch.launcher import CannotStartError, Process
from reference_impl.ready import make_ready


def missing_data(config: RunConfig) -> Iterator[str]:
    """Yield a line for each file or folder that the run needs but no variable names."""
    row = config.benchmark_row
    if config.data.data_dir is None and row.dataset.files is not None:
        yield f"DATADIR, the dataset of {row.name}: `llama31 data download {row.name} FOLDER` (docs/data.md)"
    if config.data.tokenizer is None and not row.tokenizer.installed:
        yield f"TOKENIZER, the file of {row.tokenizer.about} tokenizer; {row.tokenizer.licence}"


def missing_kernels(config: RunConfig) -> Iterator[str]:
    """Yield a line for each GPU or library that the configuration needs and this machine lacks."""
    names, ranks = driver.gpu_names(), config.layout.gpus_per_node
    if (gpu := gpu_of_system(config.system)) and names is None:
        yield f"{ranks} {gpu.name}: no NVIDIA driver answers here, or torch is a build without CUDA"
    yield from kernels.lacking(config.kernels, kernels.probe())


class Local:
    """Starts the ranks of one node, through `reference_impl.pretrain` without a rank.

    Raises:
        ConfigError: the configuration has more than one node.
    """

    def __init__(self, config: RunConfig) -> None:
        if config.layout.nodes != 1:
            raise ConfigError(
                [
                    f"DGXNNODES={config.layout.nodes}, but this command starts the ranks of one node; start several "
                    "with sbatch run.sub, or with torchrun's RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
                ]
            )
        self._config = config
        self.job: dict[str, str] = {}

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def missing(self) -> list[str]:
        return [*missing_data(self._config), *missing_kernels(self._config)]

    def prepare(self) -> Seen:
        # Once, before there is a folder for the runs; otherwise each rank would find out for itself.
        if faults := driver.faults(self._config.layout.gpus_per_node, driver.gpu_names()):
            raise CannotStartError(faults)
        sweep()
        ready = make_ready(self._config)
        print("\n".join(ready.lines), file=sys.stderr, flush=True)
        return ready.seen

    def clear_caches(self) -> None:
        """Do nothing: the ranks drop the dataset's pages, and the rest of the cache may belong to other people."""

    def command(self) -> list[str]:
        return [sys.executable, "-m", "reference_impl.pretrain"]

    def variables(self) -> dict[str, str]:
        return {}

    def send(self, process: Process, number: int) -> None:
        process.send_signal(number)

    def gone(self, process: Process) -> bool:
        # Every process it leaves behind descends from this one, except those it could not end when it was killed.
        if process.returncode < 0:
            sweep()
        return True

    def stacks(self, console: Path) -> list[str]:
        return [f"the ranks' output is in {console}"]

    def kill(self, process: Process) -> None:
        process.kill()

    def on_each_node(self, command: Sequence[str]) -> list[str]:
        return list(command)

    def is_requeued(self) -> bool:
        return False

    def requeue(self) -> bool:
        return False
