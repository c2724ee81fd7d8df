"""The contract with what starts a run's processes, on this machine or on the nodes of a job."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from benchmark.config import NAMES, RunConfig
from benchmark.errors import RefusedError
from benchmark.run_record import Seen

Process = subprocess.Popen[bytes]


class CannotStartError(RefusedError):
    """Something that every run needs is missing."""


class Launcher(Protocol):
    """Starts the processes of a run, on this machine or on the nodes of a job.

    A context manager around all runs, which leaves nothing behind.
    """

    def __enter__(self) -> object: ...
    def __exit__(self, *error: object) -> None: ...

    @property
    def job(self) -> dict[str, str]:
        """The facts about the job for run.json; empty outside a job. `id` tells jobs apart."""
        ...

    def missing(self) -> list[str]:
        """Return a line for each thing that this machine lacks for the runs; empty where others train."""
        ...

    def prepare(self) -> Seen:
        """Make sure that runs can start; returns what they will be trained on and with.

        Raises:
            CannotStartError
        """
        ...

    def clear_caches(self) -> None:
        """Called before a run starts.

        Raises:
            CannotStartError
        """

    def command(self) -> list[str]:
        """Starts all ranks of one run and ends with the status of the worst."""
        ...

    def variables(self) -> dict[str, str]:
        """Return the variables that the command needs besides the configuration."""
        ...

    def send(self, process: Process, number: int) -> None:
        """Pass a signal on to the ranks."""

    def stacks(self, console: Path) -> list[str]:
        """Return a line for each rank that hangs, with the place; empty if that cannot be told."""
        ...

    def kill(self, process: Process) -> None:
        """End ranks that may no longer listen."""

    def gone(self, process: Process) -> bool:
        """Make sure that no rank of an ended process is left. Return False if that cannot be told."""
        ...

    def on_each_node(self, command: Sequence[str]) -> list[str]:
        """Starts a command once a node, outside any container, and hands on the end of standard input."""
        ...

    def is_requeued(self) -> bool:
        """Return, after a SIGTERM, whether this job will run again, so that its runs have not ended."""
        ...

    def requeue(self) -> bool:
        """Ask for another allocation, which ends this process. Return False if none can be had."""
        ...


def child_environment(config: RunConfig, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of a process that reads `config` back: of our variables exactly its own, and all others."""
    others = {name: value for name, value in environment.items() if name not in NAMES}
    return others | config.to_environment()
