"""Runs one run: starts its processes, shows its log, forwards signals, and ends what does not end by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import IO

from benchmark.config import RunConfig
from benchmark.processes import adopting, ending_with_this
from harness.launch.ending import Ending, has_succeeded, how_it_ended, last_words
from harness.launch.hang import END_S, Awaited, HangTimer
from harness.launch.launcher import Launcher, Process, child_environment
from harness.launch.signals import Received
from harness.launch.standing import standing
from harness.launch.telemetry import sampled, sampler
from report.follower import LogFollower
from report.screen import Onlooker, characters, screen
from report.watch import WatchView, status

POLL_S = 0.2
"""Seconds between two looks at the log, the signals and the process."""

_ALONE = WatchView()


def run_once(
    config: RunConfig, output: IO[bytes], launcher: Launcher, received: Received, view: WatchView = _ALONE
) -> Ending:
    """Run the processes of one run from start to end, and return how they ended.

    Args:
        output: the console.
        view: how to show the run.
    """
    assert config.process.result_file is not None
    console = Path(output.name)
    follower = LogFollower(config.process.result_file, config.rules.ruleset)
    # If the run was resumed, earlier processes wrote the start of its console and log.
    said_before = output.seek(0, os.SEEK_END)
    view = replace(view, blocks=characters(), resuming=follower.poll())
    before = standing(follower.run)
    with adopting() as family:
        with started(config, launcher, output) as process, telemetry(config, launcher):
            heard, hang = look_on(config, follower, process, console, launcher, received, view)
        gone = family.end()
        # In a job, ranks are not descendants of this process.
        gone = launcher.gone(process) and gone
    heard = follower.poll() or heard
    # If these processes logged nothing, the log's last lines are those of earlier ones and say nothing about these.
    now = standing(follower.run) if heard else replace(before, status="", reason="", error="", stopped_ms=None)
    ending = how_it_ended(process.returncode, now, last_words(console, said_before), hang, stop=received.stop)
    if ending.status and has_succeeded(config.process.result_file, now, config):
        print(f"its processes ended with status {ending.status} after the run; its log is whole", flush=True)
        ending = Ending(status=0, standing=now)
    return replace(ending, gone=gone, standing=now if heard else before)


def look_on(
    config: RunConfig,
    follower: LogFollower,
    process: Process,
    console: Path,
    launcher: Launcher,
    received: Received,
    view: WatchView,
) -> tuple[bool, list[str]]:
    """Show a run until its process ends, forward signals to it, and kill it if the awaited sign of life does not come.

    Returns:
        Whether it has logged anything, and where it hung.
    """
    heard, hurried, hang, heard_at = False, False, list[str](), time.monotonic()
    patience = HangTimer(config.job.hang_monitor_timeout * 60, heard_at)
    with Onlooker(screen(status)) as shown:
        running = True
        while running:
            running = process.poll() is None
            if follower.poll():
                heard, heard_at, view = True, time.monotonic(), replace(view, resuming=False)
                patience.heard(heard_at, run_stop=follower.run.has("run_stop"))
            shown.show(follower.run, replace(view, quiet=time.monotonic() - heard_at))
            while running and received.pending:
                hand_on(received.pending.pop(), process, launcher, patience)
            if running and (patience.is_over(time.monotonic()) or (received.again and not hurried)):
                hurried = received.again
                if patience.awaited is Awaited.LINE and not hang:
                    hang = find_hang(launcher, console, config.job.hang_monitor_timeout * 60)
                elif patience.awaited is Awaited.END:
                    print(f"run_stop came {END_S:g} s ago but processes are left: killing them", flush=True)
                launcher.kill(process)
                patience.killed(time.monotonic())
            if running:
                time.sleep(POLL_S)
        if heard:
            shown.show(follower.run, view, last=True)
    return heard, hang


def hand_on(number: int, process: Process, launcher: Launcher, patience: HangTimer) -> None:
    """Tell the ranks to save and stop, or to stop at once; they stop on SIGTERM, whichever signal arrived here."""
    if number == signal.SIGUSR1:
        launcher.send(process, number)
    else:
        print("stopping", flush=True)
        launcher.send(process, signal.SIGTERM)
        patience.told_to_stop(time.monotonic())


def find_hang(launcher: Launcher, console: Path, limit: float) -> list[str]:
    """Return a line for each rank that hangs, with its place, and print the lines."""
    hang = [f"no line in the log for {limit:g} s", *launcher.stacks(console)]
    print("\n".join(f"hang      {line}" for line in hang), flush=True)
    return hang


def telemetry(config: RunConfig, launcher: Launcher) -> AbstractContextManager[None]:
    """Sample every node within the block, if the configuration asks for samples."""
    if not config.job.telemetry_interval or config.process.result_file is None:
        return nullcontext()
    return sampled(launcher.on_each_node(sampler(config.process.result_file, config.job.telemetry_interval)))


@contextmanager
def started(config: RunConfig, launcher: Launcher, output: IO[bytes]) -> Iterator[Process]:
    """Start a run's processes, which never outlive the block."""
    process = subprocess.Popen(
        launcher.command(),
        env=child_environment(config) | launcher.variables(),
        stdout=output,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        # Ctrl-C reaches every process of a terminal's group; the ranks should get it once, through this process.
        start_new_session=True,
        # If this process is killed, the child is told to stop, and ends the ranks.
        preexec_fn=ending_with_this(signal.SIGTERM),
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            launcher.kill(process)
            process.wait()
