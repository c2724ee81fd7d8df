"""python -m harness.launch.telemetry RESULT_FILE SECONDS: sample this node and its GPUs at a fixed interval.

There is one process a node, next to the ranks and at the lowest priority. It ends when its standard input does, so it
cannot outlive the process that started it. It appends to `telemetry_<n>_<node>.csv` next to `result_<n>.txt`, a line
for the node and one for each GPU, with the columns in COLUMNS. One long-running nvidia-smi samples the GPUs, since each
start costs the driver's initialisation. If there is none, or it ends, only the node is sampled, with a warning.
"""

from __future__ import annotations

import math
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from benchmark.processes import ending_with_this
from benchmark.telemetry import HEADER, NODE, file_of

# The columns from `device` to `throttle_reasons`. Drivers from 535 on also know the last one by this name.
_FIELDS = (
    *("index", "utilization.gpu", "memory.used", "memory.free", "power.draw", "temperature.gpu", "clocks.sm"),
    "clocks_throttle_reasons.active",
)

_LOWEST_PRIORITY = 19
_STOP_S = 10.0
"""Seconds for samplers to end; a node may be gone."""


def sampler(result: Path, seconds: int) -> list[str]:
    """Return the command that samples one node."""
    return [sys.executable, "-m", "harness.launch.telemetry", str(result), str(seconds)]


@contextmanager
def sampled(command: Sequence[str]) -> Iterator[None]:
    """Sample every node with `command` while the block runs; a failure prints a line and has no other effect."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            status = process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        if status:
            print(f"telemetry ended with status {status}, see above; the run does not need it", flush=True)


def gpu_cells(line: str) -> list[str]:
    """Return a line of nvidia-smi as the cells from `device` on.

    Raises:
        ValueError: it is not such a line.
    """
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != len(_FIELDS) or not cells[0].isdecimal():
        raise ValueError(line)
    reasons = cells[-1] if cells[-1].startswith("[") else str(int(cells[-1], 16))
    return [cells[0], *map(_measured, [*cells[1:-1], reasons]), ""]


def _measured(cell: str) -> str:
    """Return a number, or an empty string for [N/A], [GPU is lost] and the like."""
    if cell.startswith("["):
        return ""
    if not math.isfinite(float(cell)):
        raise ValueError(cell)
    return cell


def _node_cells() -> list[str]:
    """Return the node's cells from `device` on."""
    import psutil

    memory = psutil.virtual_memory()
    used, free = (f"{size / 2**20:.0f}" for size in (memory.total - memory.available, memory.available))
    return [NODE, str(psutil.cpu_percent()), used, free, "", "", "", "", f"{os.getloadavg()[0]:.2f}"]


def _say(text: str) -> None:
    print(f"telemetry {socket.gethostname()}: {text}", file=sys.stderr, flush=True)


class _Gpus:
    """An nvidia-smi that prints a line for each GPU at each interval; false if there is none, or it has ended."""

    def __init__(self, seconds: int) -> None:
        query = [f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits", f"--loop={seconds}"]
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._refused: set[str] = set()
        try:
            self._process = subprocess.Popen(
                ["nvidia-smi", *query],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                preexec_fn=ending_with_this(),
            )
        except OSError as error:
            _say(f"nvidia-smi: {error.strerror}: memory and processors only")

    def __bool__(self) -> bool:
        return self._process is not None

    def fileno(self) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def rows(self) -> list[list[str]]:
        """Return the cells from `device` on of each complete line; report a malformed line once."""
        read = os.read(self.fileno(), 1 << 16)
        *lines, self._rest = (self._rest + read).split(b"\n")
        rows = [cells for line in lines if (cells := self._cells(line.decode(errors="replace")))]
        if not read and self._process is not None:
            _say(
                f"nvidia-smi ended with status {self._process.wait()}: sampling only memory and processors from here on"
            )
            self._process = None
        return rows

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def _cells(self, line: str) -> list[str]:
        try:
            return gpu_cells(line)
        except ValueError:
            if line not in self._refused:
                _say(f"nvidia-smi: {line[:200]}")
                self._refused.add(line)
            return []


def sample(file: TextIO, seconds: int) -> None:
    """Append lines until standard input ends, and the node's line once more at the end.

    Raises:
        OSError: the file cannot be written.
    """
    _node_cells()  # starts the interval that the first line's processor load covers
    gpus, due, ended = _Gpus(seconds), time.monotonic() + seconds, False
    try:
        while not ended:
            wanted = [sys.stdin, gpus] if gpus else [sys.stdin]
            ready, _, _ = select.select(wanted, [], [], max(0.0, due - time.monotonic()))
            ended = sys.stdin in ready
            rows = gpus.rows() if gpus in ready else []
            if ended or time.monotonic() >= due:
                rows.append(_node_cells())
                due = time.monotonic() + seconds
            now = round(time.time() * 1000)
            file.writelines(f"{now},{','.join(row)}\n" for row in rows)
    finally:
        gpus.stop()


def main(arguments: Sequence[str]) -> int:
    result, seconds = arguments
    os.nice(_LOWEST_PRIORITY)
    path = file_of(Path(result), socket.gethostname())
    try:
        # Line-buffered, so that a node that dies leaves whole lines. A continued run finds a file that has its header.
        with path.open("a", encoding="utf-8", buffering=1) as file:
            if file.tell() == 0:
                file.write(HEADER + "\n")
            sample(file, int(seconds))
    except OSError as error:
        _say(f"{path}: {error.strerror}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
