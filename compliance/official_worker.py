"""Both ends of a pipe to one process that runs the official tools, call after call.

Importing the tools takes a second, and the checker needs a tenth of one for a log. So the process imports a tool once
and forks for every call: whatever a tool leaves behind (module state, log handlers, memory) ends with its own fork. The
file is also the script that the process runs, in Python's isolated mode; it imports nothing of ours.
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
    """A call that ended without an exit status; says why."""


class Worker:
    """The process that runs the tools: started by the first call, and again by the next one after it has died.

    A context manager: nothing that it started outlives its block, nor the process that opened the block.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], most_memory: int) -> None:
        """Keep what the process will be started with.

        Args:
            folder: where it is started.
            environment: all that it gets to see of one.
            most_memory: bytes of address space that it, and each call, may have.
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
        """Run Python with `arguments` (-m MODULE ... or -c CODE ...); returns the exit status, negative for a signal.

        Args:
            module: what it needs that takes long to import.
            folder: its current directory.
            output: the file that takes all that it prints.

        Raises:
            NoAnswer: it was not done in time, or took the whole process with it.
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
        """Kill the process and the call that it is at; the next call starts another."""
        if self._process is None:
            return
        # Not reaped yet, so the number of its group is still its own.
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
            # -I: nothing is imported from the current directory, the user's, or what the environment names.
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


# The other end.


def _main(most_memory: int) -> None:
    _limit(most_memory)
    call = _serve(sys.stdin.buffer, sys.stdout.buffer)
    if call is not None:
        # Taking down an interpreter with all that the tools import takes as long as checking a log.
        os._exit(_status(call))


def _limit(most_memory: int) -> None:
    limits = (most_memory, *resource.getrlimit(resource.RLIMIT_AS))
    most = min(limit for limit in limits if limit != resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _serve(calls: IO[bytes], answers: IO[bytes]) -> dict[str, Any] | None:
    """Answer every call; returns one in each fork that is to run it, and None where there are no more."""
    for line in calls:
        call: dict[str, Any] = json.loads(line)
        # A tool that cannot be imported says so in its own output.
        with suppress(Exception):
            importlib.import_module(call["module"])
        # What is there already is not touched by a fork's collector, so that it need not be copied.
        gc.freeze()
        pid = os.fork()
        if pid == 0:
            return call
        answers.write(b"%d\n" % _ended(pid, calls))
        answers.flush()
    return None


def _ended(pid: int, calls: IO[bytes]) -> int:
    """The exit status of a fork; if the caller is gone first, everything ends here."""
    done = os.pidfd_open(pid)
    ready, _, _ = select.select([done, calls.fileno()], [], [])
    os.close(done)
    if calls.fileno() in ready:
        # No call comes before the last one is answered, so this is the end of the pipe.
        os.killpg(0, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _status(call: dict[str, Any]) -> int:
    """Run a call in this fork as Python would; returns the exit status."""
    try:
        _run(call)
        return 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except BaseException:  # noqa: BLE001 - whatever it is, it is said where the tool's own words are
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
