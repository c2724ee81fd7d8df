"""Stands in for `reference_impl.pretrain` where a test is about jobs: the real loop, log, checkpoints and signals.

Its Step is the rehearsal's, with a few hundredths of a second a step instead of virtual time; its log says that it is
simulated. Ranks find each other by torchrun's variables and go in step over sockets: where one dies or is stopped, the
others notice as they would in a collective. Starts in half a second, without torch.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmark.checkpoints import Checkpoints, find_resumption, folder_of, identity, make_ready
from benchmark.clock import SystemClock
from benchmark.config import RunConfig
from benchmark.eventlog import EventLog
from benchmark.loop import StepStats, run
from harness.simulate import SimulatedPace, SimulatedStep

STEP_S = 0.02
HOLD = "hold"
"""In LOGDIR: the number of the step after which a run waits that was not resumed."""

LINGER = "linger"
"""In LOGDIR: rank 1 does not end after a success, once: it takes the file away and stays."""

EXIT_STATUS = {"success": 0, "aborted": 1, "preempted": os.EX_TEMPFAIL}


class RealClock(SystemClock):
    def advance(self, seconds: float) -> None:
        time.sleep(seconds)


class InStep:
    """Rank 0's end of the sockets, or another rank's."""

    def __init__(self, rank: int, ranks: int) -> None:
        address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        if rank == 0:
            with socket.create_server(("", address[1])) as server:
                self.peers = [server.accept()[0] for _ in range(ranks - 1)]
        else:
            self.peers = [_connect(address)]

    def wait_for_all(self) -> None:
        """As rank 0: return when every other rank is here, too."""
        for peer in self.peers:
            if not peer.recv(1):
                raise RuntimeError("Connection closed by peer")
        self.tell(0xFF)

    def tell(self, status: int) -> None:
        for peer in self.peers:
            peer.send(bytes([status]))

    def follow(self) -> int:
        """As another rank: be here whenever rank 0 is, until it ends; its exit status."""
        while True:
            self.peers[0].send(b".")
            told = self.peers[0].recv(1)
            if not told:
                raise RuntimeError("Connection closed by peer")
            if told[0] != 0xFF:
                return told[0]


def _connect(address: tuple[str, int]) -> socket.socket:
    for _ in range(300):
        try:
            return socket.create_connection(address)
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"nobody listens on {address}")


class SteppedStep(SimulatedStep):
    """Takes each step with the other ranks; stops after one where the test wants to act."""

    together: InStep
    preempted: Callable[[], bool]
    hold: Path | None

    def train(self, steps: int) -> Iterator[StepStats]:
        for stats in super().train(steps):
            self._wait_for_test()
            self.together.wait_for_all()
            yield StepStats(
                loss=stats.loss,
                grad_norm=stats.grad_norm,
                learning_rate=stats.learning_rate,
                preempted=self.preempted(),
            )

    def _wait_for_test(self) -> None:
        """While the file that names the last step is there, or until the run is told to stop."""
        while self._is_held() and not self.preempted():
            time.sleep(STEP_S)

    def _is_held(self) -> bool:
        try:
            # The step that is being taken comes after the last one.
            return self.hold is not None and self._taken - 1 == int(self.hold.read_text())
        except FileNotFoundError:
            return False


def main() -> int:
    told: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _frame: told.append(number))
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    faulthandler.register(signal.SIGUSR2)
    config = RunConfig.from_environment()
    assert config.process.rank is not None
    assert config.process.result_file is not None
    together = InStep(config.process.rank, config.layout.world_size)
    logs = config.process.result_file.parents[2]
    if config.process.rank:
        status = together.follow()
        if config.process.rank == 1 and status == 0 and (logs / LINGER).exists():
            (logs / LINGER).unlink()
            time.sleep(3600)
        return status
    hold = logs / HOLD
    this_run = identity(config, "simulated")
    resumption = find_resumption(config, this_run)
    folder = folder_of(config)
    if folder is not None:
        make_ready(folder)
    clock = RealClock(after=resumption.last_event if resumption else 0.0)
    log = EventLog(config.process.result_file, clock)
    pace = SimulatedPace(init=0.1, open_data=0.0, step=STEP_S, evaluation=STEP_S, save=STEP_S, load=STEP_S)

    def build() -> SteppedStep:
        step = SteppedStep(config, clock, log, pace)  # type: ignore[arg-type] # a clock whose time really passes
        step.together, step.preempted = together, lambda: bool(told)
        step.hold = None if resumption else hold
        return step

    outcome = run(
        config,
        build,
        log,
        clear_caches=lambda: "none, simulated",
        barrier=lambda: None,
        checkpoints=Checkpoints(folder, interval=config.job.save_interval, run=this_run),
        resumption=resumption,
    )
    status = EXIT_STATUS[outcome.status]
    together.tell(status)
    sys.stdout.write(f"{outcome.status} after {outcome.samples} sequences {outcome.reason}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
