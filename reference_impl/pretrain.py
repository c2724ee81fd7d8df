"""python -m reference_impl.pretrain: train one run, configured by the environment's variables, and write its log.

Without RANK it starts the ranks of this node and waits for them; with RANK it trains as that rank. A run whose log
exists resumes from its newest checkpoint. Exit status: 0 the target was reached, 1 the run was aborted, 2 it cannot
start, 75 it was told to stop (SIGUSR1) and is to be continued.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from benchmark.checkpoints import (
    Checkpoints,
    DamagedCheckpointError,
    Identity,
    Resumption,
    find_resumption,
    folder_of,
    identity,
    make_ready,
    put_aside,
)
from benchmark.clock import SystemClock
from benchmark.config import ConfigError, RunConfig
from benchmark.console import Console
from benchmark.errors import RefusedError, error_lines
from benchmark.eventlog import EventLog
from benchmark.loop import Outcome, run
from benchmark.processes import bind_forks, scratch
from reference_impl.data.read.configured import data_folder, dataset_of
from reference_impl.files.manifest import Manifest
from reference_impl.quiet import quieten_libraries
from reference_impl.ready import require_initial_weights

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_CLOCK_RUNS = {"run_start", "tracked_stats"}
"""If this process has logged one of these events, there is a run to stop. A resumed run begins with the second."""

_EXIT_STATUS = {"success": 0, "aborted": 1, "preempted": os.EX_TEMPFAIL}


class Interrupted(BaseException):
    """A signal that ends a run. It is a BaseException so that no handler on the way swallows it."""

    def __init__(self, number: int) -> None:
        self.exit_status = 128 + number
        super().__init__(signal.Signals(number).name)


def main() -> int:
    try:
        config = RunConfig.from_environment()
        _refuse_incomplete(config)
        if config.process.rank is None:
            from reference_impl.launch import launch

            return launch(config)
        if config.process.rendezvous_file is not None:
            return train(config)
        with scratch() as folder:
            # If ranks meet in a file, their launcher has already done this.
            os.environ["TMPDIR"], tempfile.tempdir = str(folder), None
            return train(config)
    except RefusedError as error:
        say(error_lines(error.faults))
        return 2
    except Interrupted as interruption:
        return interruption.exit_status
    except Exception as error:  # noqa: BLE001 - whatever it is, it is reported, last and in one line
        traceback.print_exc()
        say(error_lines([f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"]))
        return 1


def _refuse_incomplete(config: RunConfig) -> None:
    require_initial_weights(config)
    needed = {"SEED": config.job.seed, "RESULT_FILE": config.process.result_file}
    if config.process.rank is not None:
        needed["NPY_INDEX_DIR"] = config.data.index_dir
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        raise ConfigError([f"{' and '.join(missing)} not set; the launcher (`llama31 run`) sets it, or set it by hand"])


def train(config: RunConfig) -> int:
    """Train as one rank, and return the exit status.

    Raises:
        Interrupted: a signal ended the run, on the rank that logs it. On other ranks, and before there is a run, the
        signal
            ends the process.
    """
    # Python turns Ctrl-C into an exception, which a module that is being imported may swallow.
    _handle_signals(signal.SIG_DFL)
    bind_forks(*_SIGNALS)
    preempted = listen_for_preemption(config)
    # Prints where a hanging rank is, without the interpreter's help.
    faulthandler.register(signal.SIGUSR2)
    quieten_libraries()
    from reference_impl import parallel
    from reference_impl.shared import require_shared
    from reference_impl.step import MegatronStep

    parallel.initialize(config)
    require_shared(config)
    manifest = dataset_of(config)
    run_identity = identity(config, manifest.digest)
    resumption = _start_or_resume(config, run_identity)
    clock = SystemClock(after=resumption.last_event if resumption else 0.0)
    log = EventLog(config.process.result_file if config.process.rank == 0 else None, clock, Console())
    if config.process.rank == 0:
        stop_on_signals(log)
    outcome = run(
        config,
        lambda: MegatronStep(config, manifest, resuming=resumption is not None, preempted=preempted),
        log,
        clear_caches=lambda: clear_caches(data_folder(config), manifest),
        barrier=parallel.barrier,
        checkpoints=Checkpoints(
            folder_of(config),
            interval=config.job.save_interval,
            run=run_identity,
            writes=config.process.rank == 0,
            stop=config.job.save_failure == "stop",
        ),
        resumption=resumption,
    )
    if (peak := parallel.peak_memory_gib()) is not None:
        log.event("tracked_stats", {"max_memory_usage": round(peak, 3)})
    if config.process.rank == 0:
        _report(outcome)
    parallel.shut_down()
    return _EXIT_STATUS[outcome.status]


def _start_or_resume(config: RunConfig, run: Identity) -> Resumption | None:
    """Decide, on all ranks together, where the run resumes; return None for a new run.

    A damaged checkpoint is put aside, and the one before it is tried.
    """
    from reference_impl import parallel
    from reference_impl.checkpoint.training import damage

    aside: tuple[str, ...] = ()
    while True:
        resumption, aside = parallel.on_rank_0(partial(_choose, config, run, aside))
        if resumption is None:
            return None
        faults = damage(resumption.folder)
        if not faults:
            return resumption
        aside = parallel.on_rank_0(partial(_put_aside, aside, DamagedCheckpointError(resumption.folder, faults)))


def _choose(config: RunConfig, run: Identity, aside: tuple[str, ...]) -> tuple[Resumption | None, tuple[str, ...]]:
    """Return, for the first rank, the newest checkpoint that says which run it belongs to, and those put aside."""
    while True:
        try:
            resumption = find_resumption(config, run)
        except DamagedCheckpointError as damage:
            aside = _put_aside(aside, damage)
            continue
        if (folder := folder_of(config)) is not None:
            make_ready(folder)
        return None if resumption is None else replace(resumption, damaged=aside), aside


def _put_aside(aside: tuple[str, ...], damage: DamagedCheckpointError) -> tuple[str, ...]:
    return (*aside, put_aside(damage))


def listen_for_preemption(config: RunConfig) -> Callable[[], bool]:
    """Let SIGUSR1 request a save and a stop from now on; return a function that says whether it has arrived.

    Slurm sends it before a job's time is over.
    """
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if config.job.save_checkpoint is None:
            # Not print(): the signal may have interrupted a print.
            os.write(2, b"SIGUSR1 ignored: SAVE_CHECKPOINT is not set, so the run could not be continued\n")
        else:
            came.append(number)

    signal.signal(signal.SIGUSR1, note)
    return lambda: bool(came)


def stop_on_signals(log: EventLog) -> None:
    """Make a signal that ends this process also end its run in the log, if there is a run.

    After run_stop the signal changes nothing: little is left to do, and the sender kills whatever takes too long.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        if not log.keys & _CLOCK_RUNS:
            os._exit(128 + number)
        if "run_stop" not in log.keys:
            # Only once: a second signal must not interrupt the writing of run_stop.
            for other in _SIGNALS:
                signal.signal(other, signal.SIG_IGN)
            raise Interrupted(number)

    _handle_signals(stop)


def _handle_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    """Set the handler of the signals that end a run. A signal that is ignored, as under nohup, stays ignored."""
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _report(outcome: Outcome) -> None:
    print(f"{outcome.status} after {outcome.samples} samples {outcome.reason}".rstrip(), flush=True)


def clear_caches(folder: Path, manifest: Manifest) -> str:
    """Drop the dataset's pages from this node's cache, without privileges; return the means that was used."""
    for name in manifest.files:
        descriptor = os.open(folder / name, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    return "posix_fadvise"


def say(text: str) -> None:
    """Print the last line of a rank; if the disk of its console is full, the exit status has to suffice."""
    with suppress(OSError):
        print(text, end="", file=sys.stderr, flush=True)


def leave(status: int) -> NoReturn:
    """End this process. A failed one ends at once: it waits for no save, and its libraries print no last words."""
    if status:
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(status)
    sys.exit()


if __name__ == "__main__":
    leave(main())
