"""A set of runs as a folder: LOGDIR/<DGXSYSTEM>/<time>, whose run.json records how far each run is.

All seeds are drawn and written down before the first run starts. So a set that is cut off continues with the same
seeds, and nobody can pick a seed by its result.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmark import shared
from benchmark.config import ConfigError, Resolved, RunConfig
from benchmark.files import RUN_JSON, new_folder, point_link
from benchmark.run_record import (
    KILLED,
    RUNNING,
    Experiment,
    RunRecord,
    Seen,
    UnreadableRecordError,
    console_of,
    read,
    record,
    stamp,
    write,
)

WAITING, CUT_OFF = "waiting", "to be continued"
"""The other statuses of a run that is not over, besides RUNNING and KILLED."""

_NOT_OVER = (WAITING, RUNNING, KILLED, CUT_OFF)

LATEST = "latest"
"""Name of the link in LOGDIR to the newest folder."""

_SAME = ("BENCHMARK", "DGXSYSTEM", "NEXP")
"""Variables that a set must not change when it continues; each run compares the rest with its checkpoint."""


@dataclass
class RunSet:
    """A set's folder, and the content of its run.json."""

    folder: Path
    recorded: RunRecord
    requeued: bool = False
    """Whether an earlier allocation of the same job began the set. That allocation is certainly over."""

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        return self.recorded.experiments

    @classmethod
    def open(cls, resolved: Resolved, seen: Seen, job: dict[str, str]) -> RunSet:
        """Return a new set, or the one to continue: RESUME's, or the one that this job began before it was requeued.

        Raises:
            ConfigError: the folder cannot be made, or holds other runs.
        """
        config, now = resolved.config, datetime.now(UTC)
        folder = config.job.resume or _folder_of_job(config, job)
        if folder is not None:
            runs = cls._read(folder, config)
            runs.requeued = config.job.resume is None
        else:
            seeds = enumerate(config.seeds)
            waiting = [Experiment(result=f"result_{index}.txt", seed=seed, status=WAITING) for index, seed in seeds]
            made = make_folder(config, now, job.get("id", ""))
            runs = cls(made, record(resolved, seen, now).with_experiments(waiting))
        if job or folder is not None:
            runs.recorded = runs.recorded.with_job(job)
        runs.save()
        return runs

    @classmethod
    def _read(cls, folder: Path, config: RunConfig) -> RunSet:
        if folder.is_symlink():
            # LATEST, for example, which the next set of runs will redirect.
            folder = folder.parent / os.readlink(folder)
        path = folder.absolute() / RUN_JSON
        try:
            recorded = read(path)
        except (OSError, UnreadableRecordError) as error:
            raise ConfigError([f"{path} is not a record of runs that can be continued: {error}"]) from None
        now = config.values(as_json=True)
        faults = [
            f"{name} is {now[name]}, but {recorded.setting(name)} in {path}"
            for name in _SAME
            if now[name] != recorded.setting(name)
        ]
        if faults:
            raise ConfigError(faults)
        return cls(path.parent, recorded)

    def save(self) -> None:
        write(self.folder, self.recorded)

    def result(self, index: int) -> Path:
        """Return the log of a run."""
        return self.folder / self.experiments[index].result

    def console(self, index: int) -> Path:
        """Return the file that the processes of a run print to."""
        return console_of(self.folder, self.experiments[index].result)

    def update(self, index: int, **changes: Any) -> None:
        """Record how far a run has come."""
        experiments = list(self.experiments)
        experiments[index] = experiments[index].model_copy(update=changes)
        self.recorded = self.recorded.with_experiments(experiments)
        self.save()

    def unfinished(self) -> list[int]:
        """Return the runs that are not over, in order."""
        return [index for index, one in enumerate(self.experiments) if one.status in _NOT_OVER]


def make_folder(config: RunConfig, started: datetime, job: str = "") -> Path:
    """Make LOGDIR/<DGXSYSTEM>/<time>, and point LOGDIR/latest to it.

    The time is in seconds. Jobs that start together, such as the tasks of an array, are told apart by their number, and
    anything else by a counter. Checkpoints are kept under the folder's name, so no run finds another run's.

    Args:
        job: number of the job; empty outside a job.

    Raises:
        ConfigError: it cannot be made.
    """
    logs = config.job.log_dir.absolute()
    if config.system == LATEST:
        raise ConfigError([f"DGXSYSTEM={LATEST} is the name of a link in LOGDIR to the newest runs; use another name"])
    path = logs / config.system / "-".join(filter(None, (stamp(started), job)))
    shared.make_folder("LOGDIR", config.job.log_dir)
    try:
        folder = new_folder(path)
    except OSError as error:
        raise ConfigError([f"LOGDIR={config.job.log_dir}: cannot make {path}: {error.strerror}"]) from None
    try:
        point_link(logs / LATEST, folder)
    except OSError as error:
        # A convenience; some file systems do not support links.
        print(f"{LATEST:9} no link {logs / LATEST}: {error.strerror}", flush=True)
    return folder


def _folder_of_job(config: RunConfig, job: dict[str, str]) -> Path | None:
    """Return the folder that an earlier allocation of this job began; None in its first."""
    if job.get("restarts", "0") == "0":
        return None
    for path in sorted(config.job.log_dir.absolute().glob(f"{config.system}/*/{RUN_JSON}"), reverse=True):
        try:
            jobs = read(path).jobs
        except (OSError, UnreadableRecordError):
            # Broken, so not this job's: its own record was written whole.
            continue
        if any(one.get("id") == job["id"] for one in jobs):
            return path.parent
    return None
