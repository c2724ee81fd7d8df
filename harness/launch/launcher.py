"""The interface of whatever starts a run's processes, on this machine or on the nodes of a job."""

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

    It is a context manager around all runs, and leaves nothing behind.
    """

    def __enter__(self) -> object: ...
    def __exit__(self, *error: object) -> None: ...

    @property
    def job(self) -> dict[str, str]:
        """Return the facts about the job for run.json; empty outside a job. `id` tells jobs apart."""
        ...

    def missing(self) -> list[str]:
        """Return a line for each thing that this machine lacks for the runs; empty if other machines train."""
        ...

    def prepare(self) -> Seen:
        """Make sure that runs can start; return what they will be trained on and with.

        Raises:
            CannotStartError: they cannot.
        """
        ...

    def clear_caches(self) -> None:
        """Clear caches before a run starts.

        Raises:
            CannotStartError: a node does not answer.
        """

    def command(self) -> list[str]:
        """Return the command that starts all ranks of one run and ends with the worst status among them."""
        ...

    def variables(self) -> dict[str, str]:
        """Return the variables that the command needs besides the configuration."""
        ...

    def send(self, process: Process, number: int) -> None:
        """Pass a signal on to the ranks."""

    def stacks(self, console: Path) -> list[str]:
        """Return a line for each rank that hangs, with its place; empty if that cannot be found out."""
        ...

    def kill(self, process: Process) -> None:
        """End ranks that may no longer react to signals."""

    def gone(self, process: Process) -> bool:
        """Make sure that no rank of an ended process is left; return False if that cannot be found out."""
        ...

    def on_each_node(self, command: Sequence[str]) -> list[str]:
        """Return the command that starts another once per node, outside any container, and passes on end of input."""
        ...

    def is_requeued(self) -> bool:
        """Return, after a SIGTERM, whether this job will run again, so that its runs have not ended."""
        ...

    def requeue(self) -> bool:
        """Request another allocation, which ends this process; return False if none is available."""
        ...


def child_environment(config: RunConfig, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of a process that reads `config` back: exactly its variables of ours, and all others."""
    others = {name: value for name, value in environment.items() if name not in NAMES}
    return others | config.to_environment()
