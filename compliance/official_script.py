"""The script that runs the official tools, call after call, at the other end of compliance.official_worker's pipe.

Importing the tools takes 1 s, and checking a log takes 0.1 s. So the process imports a tool once and forks for every
call: whatever a tool leaves behind (module state, log handlers, memory) ends with its fork. The script runs in Python's
isolated mode, so it imports nothing of ours.
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
import sys
import traceback
from contextlib import suppress
from typing import IO, Any


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
    how, what, *arguments = call["arguments"]
    sys.argv = [how, *arguments]
    if how == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    _main(int(sys.argv[1]))
