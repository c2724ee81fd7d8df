"""The signals that the process of a set of runs receives, and their effects."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from harness.early import say_stopping


@dataclass
class Received:
    """The signals that this process has received."""

    stop: int = 0
    """SIGTERM, SIGINT or SIGHUP."""
    again: bool = False
    """A second one arrived: wait for nothing."""
    save: bool = False
    """SIGUSR1: the job's time is nearly over."""
    pending: list[int] = field(default_factory=list)
    """Signals to pass on to the run."""
    running: bool = False
    """Whether a run is under way."""

    @contextmanager
    def for_a_run(self) -> Iterator[None]:
        """Pass signals on to the run within the block."""
        self.running = True
        try:
            yield
        finally:
            self.running = False


@contextmanager
def listening() -> Iterator[Received]:
    """Note signals for the run within the block. Without a run, a signal that asks to stop ends this process."""
    received = Received()

    def stop(number: int, _frame: FrameType | None) -> None:
        if received.stop:
            # A closing terminal sends several SIGHUP, none of which is a person's second thought.
            if number != signal.SIGHUP:
                if received.again or not received.running:
                    os._exit(128 + number)
                received.again = True
            return
        received.stop = number
        if number == signal.SIGHUP:
            leave_terminal()
        if received.running:
            received.pending.append(number)
        else:
            say_stopping()
            raise SystemExit(128 + number)

    def save(number: int, _frame: FrameType | None) -> None:
        if not received.save:
            received.save = True
            received.pending.append(number)

    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: stop, signal.SIGUSR1: save}
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        # nohup left it ignored.
        del handlers[signal.SIGHUP]
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_terminal() -> None:
    """Print nothing more to a closed terminal, because that would fail."""
    for descriptor in (1, 2):
        if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
