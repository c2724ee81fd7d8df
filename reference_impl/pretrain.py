"""python -m reference_impl.pretrain: one run, from the environment's variables to its log.

Started without RANK it starts the ranks of this node and waits for them; started as a rank (by torchrun's variables) it
trains. Exit status: 0 the target was reached, 1 the run was aborted, 2 it cannot start.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from pathlib import Path
from types import FrameType

from benchmark.clock import SystemClock
from benchmark.config import ConfigError, RunConfig
from benchmark.events import EventLog
from benchmark.loop import Outcome, run
from reference_impl.data.manifest import DataError, Manifest
from reference_impl.data.source import data_folder
from reference_impl.ready import refuse_unfinished
from reference_impl.tokenizer import TokenizerError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(BaseException):
    """SIGTERM or SIGINT; a BaseException, so that nothing on the way swallows it."""

    def __init__(self, number: int) -> None:
        self.exit_status = 128 + number
        super().__init__(signal.Signals(number).name)


def main() -> int:
    try:
        config = RunConfig.from_environment()
        _refuse_incomplete(config)
        if config.rank is None:
            from reference_impl.launch import launch

            return launch(config)
        return train(config)
    except (ConfigError, DataError, TokenizerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as interruption:
        return interruption.exit_status


def _refuse_incomplete(config: RunConfig) -> None:
    refuse_unfinished(config)
    needed = {"SEED": config.seed, "RESULT_FILE": config.result_file}
    if config.rank is not None:
        needed["NPY_INDEX_DIR"] = config.index_dir
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        raise ConfigError(
            [f"{' and '.join(missing)}: set by the launcher (python -m benchmark run), or by hand for one run"]
        )


def train(config: RunConfig) -> int:
    """Train as one rank."""
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    quieten_libraries()
    from reference_impl import parallel
    from reference_impl.data.manifest import load
    from reference_impl.step import MegatronStep

    parallel.initialize(config)
    manifest = load(data_folder(config))
    outcome = run(
        config,
        lambda: MegatronStep(config, manifest),
        EventLog(config.result_file if config.rank == 0 else None, SystemClock()),
        clear_caches=lambda: clear_caches(data_folder(config), manifest),
        barrier=parallel.barrier,
    )
    if config.rank == 0:
        _report(outcome)
    parallel.shut_down()
    return 0 if outcome.status == "success" else 1


def _interrupt(number: int, _frame: FrameType | None) -> None:
    # Once: a second signal must not cut off the writing of run_stop.
    for other in _SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise Interrupted(number)


def _report(outcome: Outcome) -> None:
    print(f"{outcome.status} after {outcome.samples} sequences {outcome.reason}".rstrip(), flush=True)


def quieten_libraries() -> None:
    """Silence what Megatron-Core and torch say about optional packages that are absent and names that will change."""
    warnings.filterwarnings("ignore", module=r"megatron\.core")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")


def clear_caches(folder: Path, manifest: Manifest) -> str:
    """Drop the dataset's pages from this node's cache, without privileges; returns the means."""
    for name in manifest.files:
        descriptor = os.open(folder / name, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    return "posix_fadvise"


if __name__ == "__main__":
    sys.exit(main())
