"""Measures how long this rank's device computes, without making it wait."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Times the work in its block; of several blocks, the last one.

    On a GPU it puts two events between the kernels. On a CPU it measures the elapsed time.
    """

    def __init__(self) -> None:
        gpu = torch.cuda.is_available()
        self._events = tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) if gpu else None
        self._began = self._ended = 0.0

    def __enter__(self) -> None:
        if self._events:
            self._events[0].record()
        else:
            self._began = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        if self._events:
            self._events[1].record()
        else:
            self._ended = time.perf_counter()

    def seconds(self) -> float:
        """Return the seconds of the last block; this waits until a GPU has finished it."""
        if not self._events:
            return self._ended - self._began
        began, ended = self._events
        ended.synchronize()
        return began.elapsed_time(ended) / 1000
