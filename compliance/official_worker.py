"""Keep the process in which the official tools run, call after call. compliance.official_script is what it runs."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from benchmark.errors import HarnessError

_SCRIPT = Path(__file__).with_name("official_script.py")


class NoAnswerError(HarnessError):
    """A call ended without an exit status; the message says why."""


class Worker:
    """The process that runs the tools. The first call starts it, and the next call starts it again if it has died.

    A context manager: no process that it started outlives its block, or the process that opened the block.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], most_memory: int) -> None:
        """Keep the settings of the process.

        Args:
            folder: the folder in which it starts.
            environment: its whole environment.
            most_memory: bytes of address space that it and each call may have.
        """
        self._folder, self._environment, self._most_memory = folder, environment, most_memory
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def run(self, arguments: Sequence[str], module: str, folder: Path, output: Path, timeout_s: float) -> int:
        """Run Python with `arguments` (-m MODULE ... or -c CODE ...) and return the exit status, negative for a signal.

        Args:
            module: a module that the call needs and that takes long to import.
            folder: the current folder of the call.
            output: the file that takes all that the call prints.
            timeout_s: seconds that the call may take.

        Raises:
            NoAnswerError: the call was not done in time, or ended the whole process.
        """
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        call = {"arguments": list(arguments), "module": module, "folder": str(folder), "output": str(output)}
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(call).encode() + b"\n")
            process.stdin.flush()
        answered, _, _ = select.select([process.stdout], [], [], timeout_s)
        answer = process.stdout.readline() if answered else b""
        if not answer.endswith(b"\n"):
            self.stop()
            gone = "crashed: the process that runs the tools is gone"
            raise NoAnswerError(gone if answered else f"no verdict within {timeout_s:g} s")
        return int(answer)

    def stop(self) -> None:
        """Kill the process and its current call; the next call starts another process."""
        if self._process is None:
            return
        # It is not reaped yet, so the id of its process group cannot be another's.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()
        self._process.wait()
        self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self.stop()
        if self._process is None:
            # -I: imports nothing from the current folder, the user's folder, or folders that the environment names.
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(_SCRIPT), str(self._most_memory)],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        return self._process
