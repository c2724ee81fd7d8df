"""Print a run's progress while it trains: each evaluation, and the loss every few seconds.

It is for people who read a run's console (console_<n>.log, a job's output) without its log.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

EVERY_S = 5.0
"""Seconds between two printed steps."""

PROGRESS = "progress  "
"""Prefix of each of these lines. The other lines of a console may say why a run ended."""

_STANDARD_OUTPUT = 1
"""The file descriptor, for unbuffered writes."""


class Console:
    """Prints the events of an EventLog that show progress."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._printed_at = float("-inf")

    def __call__(self, key: str, value: Any, metadata: Mapping[str, Any]) -> None:
        """Print an event if it shows progress."""
        samples = metadata.get("samples_count")
        match key, value:
            case "eval_accuracy", accuracy:
                self._print(f"evaluation after {samples} samples: log perplexity {accuracy:.4f}")
            case "tracked_stats", {"reduced_train_loss": loss, "train_step_time": seconds}:
                if self._clock() - self._printed_at >= EVERY_S:
                    step = metadata.get("step")
                    self._print(f"step {step}, {samples} samples: loss {loss:.4f}, {seconds:.3f} s")

    def _print(self, text: str) -> None:
        self._printed_at = self._clock()
        # If the disk of the console is full, the run continues as long as its log can be written. Unbuffered, because a
        # signal could interrupt a buffered write.
        with suppress(OSError):
            os.write(_STANDARD_OUTPUT, f"{PROGRESS}{text}\n".encode())
