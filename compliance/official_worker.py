"""Run the official tools, call after call, in one process at the other end of a pipe.

Importing the tools takes 1 s, and checking a log takes 0.1 s. So the process imports a tool once and forks for every
call: whatever a tool leaves behind (module state, log handlers, memory) ends with its fork. This file is also the
script that the process runs, in Python's isolated mode, so it imports nothing of ours.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any


class NoAnswer(Exception):
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
            NoAnswer: the call was not done in time, or ended the whole process.
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
            raise NoAnswer(gone if answered else f"no verdict within {timeout_s:g} s")
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
                [sys.executable, "-I", __file__, str(self._most_memory)],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        return self._process


# The other end of the pipe.


def _main(most_memory: int) -> None:
    _limit(most_memory)
    call = _serve(sys.stdin.buffer, sys.stdout.buffer)
    if call is not None:
        # Shutting down an interpreter with the imported tools takes as long as checking a log, so it is skipped.
        os._exit(_status(call))


def _limit(most_memory: int) -> None:
    limits = (most_memory, *resource.getrlimit(resource.RLIMIT_AS))
    most = min(limit for limit in limits if limit != resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _serve(calls: IO[bytes], answers: IO[bytes]) -> dict[str, Any] | None:
    """Answer every call. Return a call in the fork that is to run it, and None in the parent after the last one."""
    for line in calls:
        call: dict[str, Any] = json.loads(line)
        # If the import fails, the call fails in the same way and prints why.
        with suppress(Exception):
            importlib.import_module(call["module"])
        # Keeps the garbage collector of a fork off the shared pages, so that they are not copied.
        gc.freeze()
        pid = os.fork()
        if pid == 0:
            return call
        answers.write(b"%d\n" % _ended(pid, calls))
        answers.flush()
    return None


def _ended(pid: int, calls: IO[bytes]) -> int:
    """Return the exit status of a fork; kill the whole process group if the caller is gone first."""
    done = os.pidfd_open(pid)
    ready, _, _ = select.select([done, calls.fileno()], [], [])
    os.close(done)
    if calls.fileno() in ready:
        # The caller sends no call before the last one is answered, so this is the end of the pipe.
        os.killpg(0, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _status(call: dict[str, Any]) -> int:
    """Run a call in this fork as Python would, and return the exit status."""
    try:
        _run(call)
        return 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except BaseException:  # noqa: BLE001 - any error goes into the tool's output
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _run(call: dict[str, Any]) -> None:
    for number, path, mode in ((0, os.devnull, os.O_RDONLY), (1, call["output"], os.O_WRONLY)):
        opened = os.open(path, mode)
        os.dup2(opened, number)
        os.close(opened)
    os.dup2(1, 2)
    os.chdir(call["folder"])
    how, what, *rest = call["arguments"]
    sys.argv = [how, *rest]
    if how == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    _main(int(sys.argv[1]))
