"""Where a run's training state is stored, which checkpoint counts, and where an interrupted run resumes.

A run has a folder of its own below SAVE_CHECKPOINT, with a folder `step_<n>` for each save. While a save is being
written its folder is called `step_<n>.partial`. It is renamed only when every rank has written all of its part, so a
folder without that ending is complete. The Step decides what is in it, except for `resume.json`, which records which
run it belongs to and how long the log was. A checkpoint whose bytes have changed since they were written is renamed,
and the one before it counts.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from benchmark.config import ConfigError, RunConfig
from benchmark.decode import MalformedError, from_json, read_regular, shown
from benchmark.errors import RefusedError, RunFailedError
from benchmark.eventlog import EventLog
from benchmark.files import beside, existing_above, flush, sync_names
from benchmark.mllog import read

_log = logging.getLogger(__name__)

KEPT = 2
"""Complete checkpoints that are kept: the newest, and the one before it in case a disk loses the newest."""

RECORD = "resume.json"
_MOST_OF_RECORD = 1 << 20
"""Most bytes of resume.json; ours have 1000."""
_PARTIAL = ".partial"
_REMOVED = "removed_"
_DAMAGED = "damaged"
_COMPLETE = re.compile(r"step_(\d+)")

Identity = Mapping[str, Any]
"""Values that identify a run, by name. The layout is not among them: any layout can continue any other's run."""


@dataclass(frozen=True, kw_only=True)
class Resumption:
    """The point at which an interrupted run resumes."""

    folder: Path
    """The checkpoint."""
    step: int
    """Optimizer steps taken by then."""
    log_bytes: int
    """Length of the log by then."""
    recomputed_steps: int
    """Steps in the log after that point."""
    last_event: float
    """Time of the last event before the interruption, in seconds since the epoch."""
    damaged: tuple[str, ...] = ()
    """Newer checkpoints that were put aside, and why."""

    def told(self, now: float) -> dict[str, Any]:
        """Return the value that the log records for this resumption, at the time `now`."""
        value: dict[str, Any] = {
            "resumed": True,
            "recomputed_steps": self.recomputed_steps,
            "outage": round(now - self.last_event, 3),
        }
        return value | ({"damaged": list(self.damaged)} if self.damaged else {})


class DamagedCheckpointError(RefusedError):
    """A checkpoint whose bytes are not those that were written."""

    def __init__(self, folder: Path, faults: str | Sequence[str]) -> None:
        super().__init__(faults)
        self.folder = folder


class SaveFailedError(RunFailedError):
    """A checkpoint could not be written, and SAVE_FAILURE=stop makes that end the run."""


class Save(Protocol):
    """Starts to write the training state; see `benchmark.loop.Step.save`."""

    def __call__(self, folder: Path, complete: Callable[[], None], failed: Callable[[str], None]) -> None: ...


def identity(config: RunConfig, data: str) -> Identity:
    """Return the values that must be equal for one run to continue another; `data` is a checksum of the dataset."""
    kernels = config.kernels
    log = _log_of(config)
    return {
        "BENCHMARK": config.benchmark,
        "RULESET": config.rules.ruleset,
        "SEED": config.job.seed,
        "PRECISION": kernels.precision,
        "FP8_RECIPE": kernels.fp8_recipe,
        "USE_PRECISION_AWARE_OPTIMIZER": kernels.precision_aware_optimizer,
        "RESULT_FILE": f"{log.parent.name}/{log.name}",
        "dataset": data,
        # Decides how often Megatron-Core goes through the data, and so the order of the data.
        "last step": config.step_limit,
        **{f"model's {name}": value for name, value in asdict(config.size).items()},
        **{f"optimizer's {name}": value for name, value in asdict(config.optimizer).items()},
        **{f"schedule's {name}": value for name, value in asdict(config.schedule).items()},
    }


def folder_of(config: RunConfig) -> Path | None:
    """Return the folder of this run's checkpoints: SAVE_CHECKPOINT/<folder of the log>/<name of the log>."""
    log = _log_of(config)
    return None if config.job.save_checkpoint is None else config.job.save_checkpoint / log.parent.name / log.stem


def _log_of(config: RunConfig) -> Path:
    if config.process.result_file is None:
        raise ValueError("a run that is saved needs its RESULT_FILE")
    return config.process.result_file.absolute()


class Checkpoints:
    """The checkpoints that one process of a run writes; without a folder, none.

    Args:
        interval: steps between two saves; only on demand if None.
        writes: whether this rank says which saves have failed, and removes what they left; one does.
        stop: whether a save that fails ends the run.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        interval: int | None = None,
        run: Identity | None = None,
        writes: bool = True,
        stop: bool = False,
    ) -> None:
        self._folder = folder
        self._interval = interval
        self._run = run or {}
        self._writes = writes
        self._stop = stop
        self._log_bytes = 0
        self._failed: list[tuple[int, int, str]] = []

    def due(self, step: int) -> bool:
        return self._folder is not None and self._interval is not None and step % self._interval == 0

    def save(self, save: Save, log: EventLog, *, step: int, samples: int) -> float:
        """Start a save and log how long it kept training waiting; return the time at which training continues."""
        if self._folder is None:
            raise ValueError("a save without a folder")
        began = log.clock.now()
        unfinished = self._folder / f"step_{step}{_PARTIAL}"
        save(unfinished, lambda: self._complete(unfinished, step), partial(self._give_up, unfinished, step, samples))
        now = log.clock.now()
        log.event("tracked_stats", {"save_time": round(now - began, 6)}, at=now, step=step, samples_count=samples)
        # Only now, so that the event stays in the log of a run that resumes from this checkpoint.
        self._log_bytes = log.sync()
        self.settle(log)
        return now

    def settle(self, log: EventLog) -> None:
        """Log the saves that have failed since the last call.

        Raises:
            SaveFailedError: a save has failed, and SAVE_FAILURE=stop makes that end the run.
        """
        while self._failed:
            step, samples, fault = self._failed.pop(0)
            log.event("tracked_stats", {"save_failed": fault}, step=step, samples_count=samples)
            if self._stop:
                raise SaveFailedError(f"step {step} was not saved: {fault}")

    def _complete(self, unfinished: Path, step: int) -> None:
        record = {"step": step, "log_bytes": self._log_bytes, "run": self._run}
        with (unfinished / RECORD).open("w", encoding="utf-8") as file:
            json.dump({**record, "sha256": _seal(record)}, file, indent=2)
            flush(file)
        unfinished.rename(unfinished.with_suffix(""))
        sync_names(unfinished.parent)
        for old in (*complete_in(unfinished.parent)[KEPT:], *_damaged_in(unfinished.parent)):
            _remove_if_possible(old)

    def _give_up(self, unfinished: Path, step: int, samples: int, fault: str) -> None:
        self._failed.append((step, samples, fault))
        if self._writes:
            _log.warning("step %d was not saved: %s", step, fault)
            if unfinished.exists():
                _remove_if_possible(unfinished)


def _seal(record: Mapping[str, Any]) -> str:
    """Return a checksum of a record."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _remove(folder: Path) -> None:
    # Renamed first: a half-removed folder must not count, and a writer that outlived its rank must not add to it.
    shutil.rmtree(folder.rename(folder.with_name(f"{_REMOVED}{os.getpid()}_{folder.name}")))


def _remove_if_possible(folder: Path) -> None:
    """Remove a folder. If that fails, log it and continue; the next start tries again."""
    try:
        _remove(folder)
    except OSError as error:
        _log.warning("left behind %s: %s", folder, error.strerror)


def complete_in(folder: Path) -> list[Path]:
    """Return the complete checkpoints in a folder, newest first; none if the folder does not exist."""
    found = folder.iterdir() if folder.is_dir() else iter(())
    return sorted((path for path in found if _COMPLETE.fullmatch(path.name)), key=_step_of, reverse=True)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _damaged_in(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"step_*.{_DAMAGED}-*"))


def put_aside(damage: DamagedCheckpointError) -> str:
    """Rename a damaged checkpoint, so that it no longer counts, and return a line that says which it was and why.

    Raises:
        ConfigError: it cannot be renamed.
    """
    aside = beside(damage.folder, _DAMAGED)
    more = f" and {len(damage.faults) - 1} more" if len(damage.faults) > 1 else ""
    notice = f"{damage.folder.name} is damaged: {damage.faults[0]}{more}"
    try:
        damage.folder.rename(aside)
    except OSError as error:
        raise ConfigError([f"{notice}; it cannot be renamed to {aside.name}: {error.strerror}"]) from None
    _log.warning("%s; put aside as %s", notice, aside)
    return notice


def why_no_room(folder: Path, needed: int) -> str:
    """Return why a folder has no room for so many bytes; empty if it has."""
    try:
        free = shutil.disk_usage(existing_above(folder)).free
    except OSError as error:
        return f"{folder}: {error.strerror}"
    return "" if free >= needed else f"{folder} has {free:,} bytes free, and a checkpoint takes {needed:,}"


def bytes_of_one(config: RunConfig) -> tuple[int, int]:
    """Return the bytes of one checkpoint of a run, and the bytes of a parameter in it.

    A parameter is saved as the weight used in training, the optimizer's fp32 copy, and its two moments.
    """
    kernels = config.kernels
    weight = 4 if kernels.precision == "fp32" else 2
    moment = 2 if kernels.precision_aware_optimizer else 4
    each = weight + 4 + 2 * moment
    return config.size.parameters(config.vocabulary) * each, each


def make_ready(folder: Path) -> None:
    """Make the folder of a run's checkpoints and remove what an interrupted save left there.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for unfinished in folder.glob(f"step_*{_PARTIAL}"):
            _remove(unfinished)
        for remains in folder.glob(f"{_REMOVED}*"):
            shutil.rmtree(remains)
    except OSError as error:
        raise ConfigError([f"SAVE_CHECKPOINT: {folder} cannot be written: {error}"]) from None


def find_resumption(config: RunConfig, run: Identity) -> Resumption | None:
    """Return the newest complete checkpoint of this run, at which it resumes; None for a run that has not begun.

    This only reads.

    Raises:
        ConfigError: the run has begun and cannot resume; nothing is lost.
        DamagedCheckpointError: that checkpoint does not say which run it belongs to.
    """
    log, folder = _log_of(config), folder_of(config)
    checkpoints = complete_in(folder) if folder else []
    if not log.exists() or log.stat().st_size == 0:
        if checkpoints:
            raise ConfigError(
                [f"{checkpoints[0]} is a checkpoint of the run that logs to {log}, but that log is not there"]
            )
        return None
    if folder is None:
        raise ConfigError(
            [f"RESULT_FILE={log} exists and SAVE_CHECKPOINT is not set; a log is not written twice: move it away"]
        )
    if not checkpoints:
        damaged = [path.name for path in _damaged_in(folder)]
        but = f" ({', '.join(damaged)} put aside)" if damaged else ""
        fault = f"RESULT_FILE={log} exists, but {folder} has no complete checkpoint of it{but}"
        raise ConfigError([f"{fault}: move the log away to start again"])
    return _resumption(log, checkpoints[0], run)


def _resumption(log: Path, checkpoint: Path, run: Identity) -> Resumption:
    record = read_record(checkpoint)
    faults = [
        f"{checkpoint}: {name[:80]} is {shown(theirs)} there, but {mine!r} here; a run must resume unchanged"
        for name, theirs, mine in _differences(record["run"], run)
    ]
    if faults:
        raise ConfigError(faults)
    _refuse_other_log(log, record["log_bytes"], checkpoint)
    last_step, last_ms = record["step"], 0.0
    for event in read(log):
        last_ms = max(last_ms, event.time_ms)
        if event.key == "run_stop" and event.metadata.get("status") == "success":
            raise ConfigError([f"RESULT_FILE={log}: this run has already reached its target and cannot be continued"])
        if event.key == "seed" and event.value != run["SEED"]:
            raise ConfigError([f"RESULT_FILE={log} is the log of seed {event.value}, not of {run['SEED']}"])
        if event.key == "tracked_stats" and isinstance(event.value, dict) and "train_step_time" in event.value:
            step = event.metadata.get("step")
            last_step = max(last_step, step if isinstance(step, int) else 0)
    return Resumption(
        folder=checkpoint,
        step=record["step"],
        log_bytes=record["log_bytes"],
        recomputed_steps=last_step - record["step"],
        last_event=last_ms / 1000,
    )


def read_record(checkpoint: Path) -> dict[str, Any]:
    """Read `step`, `log_bytes` and `run` from resume.json.

    Raises:
        DamagedCheckpointError: it is missing, or its content has changed.
    """
    path = checkpoint / RECORD
    try:
        record = from_json(read_regular(path, _MOST_OF_RECORD))
        seal = record.pop("sha256")
        step, log_bytes, run = record["step"], record["log_bytes"], record["run"]
    except OSError as error:
        raise DamagedCheckpointError(checkpoint, f"{path}: {error.strerror}") from None
    except (MalformedError, AttributeError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(
            checkpoint, f"{path} does not describe a run: {type(error).__name__}: {error}"
        ) from None
    if type(step) is not int or type(log_bytes) is not int or min(step, log_bytes) < 0 or not isinstance(run, dict):
        raise DamagedCheckpointError(checkpoint, f"{path} does not describe a run: {shown(record)}")
    if _seal(record) != seal:
        raise DamagedCheckpointError(checkpoint, f"{path} has changed since it was written: its own checksum differs")
    return {"step": step, "log_bytes": log_bytes, "run": run}


def _differences(theirs: Identity, mine: Identity) -> Iterator[tuple[str, Any, Any]]:
    mine = json.loads(json.dumps(mine))
    for name in dict.fromkeys([*mine, *theirs]):
        if theirs.get(name) != mine.get(name):
            yield name, theirs.get(name), mine.get(name)


def _refuse_other_log(log: Path, length: int, checkpoint: Path) -> None:
    """Raise ConfigError unless the log only grew since the save, when it consisted of whole lines."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - 1))
        if size < length or file.read(1) != b"\n":
            raise ConfigError(
                [f"RESULT_FILE={log} is not the log of {checkpoint}: it has {size} bytes, and no line ends at {length}"]
            )
