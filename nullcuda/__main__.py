"""python -m nullcuda [JOBS]: run the rank that each line of standard input asks for, and answer with a line of JSON.

Imports take most of a rank's time, so this process makes them once and forks for each rank, JOBS at a time. A line of
input is an Ask as JSON. An answer has `index`, the number of that line, and the result of `rank.run`; or `error` and
`trace`, if there is no result.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Iterator
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def main() -> int:
    _end_with_parent()
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    asks = [json.loads(line) for line in sys.stdin]
    warnings.simplefilter("ignore")
    # Imported here, once for all forks. What these modules print is not an answer.
    _ask_nvml_for_gpus()
    with contextlib.redirect_stdout(sys.stderr):
        import transformer_engine.pytorch

        from nullcuda import rank

        del transformer_engine, rank
    for answer in _answers(asks, jobs):
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    return 0


def _ask_nvml_for_gpus() -> None:
    """Let torch find out through NVML whether there is a GPU; if it used CUDA, no fork could use CUDA afterwards."""
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    # torch opens the library by its bare name.
    ctypes.CDLL(str(Path(sysconfig.get_path("purelib"), "nvidia/cu13/lib/libnvidia-ml.so.1")))


def _answers(asks: list[dict[str, Any]], jobs: int) -> Iterator[dict[str, Any]]:
    fork = get_context("fork")
    left = list(enumerate(asks))
    running: dict[Connection, tuple[int, Any]] = {}
    try:
        while left or running:
            while left and len(running) < jobs:
                index, ask = left.pop(0)
                mine, theirs = fork.Pipe(duplex=False)
                child = fork.Process(target=_child, args=(ask, theirs))
                child.start()
                theirs.close()
                running[mine] = (index, child)
            for ready in connection.wait(list(running)):
                assert isinstance(ready, Connection)
                index, child = running.pop(ready)
                try:
                    answer = ready.recv()
                except EOFError:
                    child.join()
                    answer = {"error": f"the rank ended with status {child.exitcode} and no answer", "trace": ""}
                child.join()
                yield {"index": index, **answer}
    finally:
        for _, child in running.values():
            child.kill()


def _end_with_parent() -> None:
    """Be killed when the process that waits for the answers ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _child(ask: dict[str, Any], answers: Connection) -> None:
    _end_with_parent()
    os.dup2(2, 1)
    from nullcuda.device import NullDevice
    from nullcuda.rank import Ask, run

    try:
        answer = run(Ask(**ask))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        broken = "".join(f"; null device: {name}" for name in NullDevice().report()["faults"])
        answer = {"error": f"{type(error).__name__}: {error}{broken}", "trace": traceback.format_exc()}
    answers.send(answer)
    answers.close()


if __name__ == "__main__":
    sys.exit(main())
