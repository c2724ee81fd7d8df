"""NEXP runs on this machine, one after the other, each watched and all checked: what `run_and_time.sh` does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from benchmark.config import NAMES, ConfigError, RunConfig
from benchmark.progress import LogFollower, Progress, advance, display
from benchmark.provenance import Experiment, record, stamp, write
from benchmark.resolve import Resolved

POLL_S = 0.2


def run_experiments(resolved: Resolved) -> int:
    """Run, check and summarise; returns the exit status: 0 a valid result, 1 not, 2 it could not start, 128+n a signal.

    Raises:
        ConfigError: the results folder cannot be made.
    """
    config = resolved.config
    data = data_ready(config) if preflight(config) else None
    if data is None:
        return 2
    started = datetime.now(UTC)
    folder = make_folder(config, started)
    recorded = record(resolved, data, started)
    statuses: list[int] = []
    experiments: list[Experiment] = []
    for index, seed in enumerate(config.seeds):
        one = Experiment(result=f"result_{index}.txt", seed=seed)
        write(folder, recorded, [*experiments, one])
        print(f"run {index + 1} of {config.experiments}, seed {seed}", flush=True)
        status, progress = run_once(config.for_experiment(seed=seed, result_file=folder / one.result), folder, index)
        experiments.append(_ended(one, status, progress))
        statuses.append(status)
        write(folder, recorded, experiments)
        if status >= 128:
            break
    return conclude(config, folder, statuses)


def preflight(config: RunConfig) -> bool:
    """Whether the rules allow what is about to run; what they do not allow is printed."""
    command = [sys.executable, "-m", "compliance", "preflight"]
    return subprocess.run(command, env=child_environment(config), check=False).returncode == 0


def data_ready(config: RunConfig) -> dict[str, Any] | None:
    """Verify the run's data, making the built-in one if need be; what it is, or None when it is not right."""
    done = subprocess.run(
        [sys.executable, "-m", "reference_impl.ready"],
        env=child_environment(config),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return json.loads(done.stdout) if done.returncode == 0 else None


def child_environment(config: RunConfig, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a process that reads `config` back: of our variables exactly its own, and all others."""
    others = {name: value for name, value in environment.items() if name not in NAMES}
    return others | config.to_environment()


def make_folder(config: RunConfig, started: datetime) -> Path:
    """LOGDIR/<DGXSYSTEM>/<time>, new.

    Raises:
        ConfigError: it cannot be made.
    """
    folder = config.log_dir.absolute() / config.system / stamp(started)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ConfigError([f"LOGDIR={config.log_dir}: cannot make {folder}: {error.strerror}"]) from None
    return folder


def run_once(config: RunConfig, folder: Path, index: int) -> tuple[int, Progress]:
    """One run: its exit status and how far it came."""
    assert config.result_file is not None
    follower, progress = LogFollower(config.result_file), Progress()
    console = folder / f"console_{index}.log"
    with console.open("wb") as output, display() as shown, started(config, output) as process:
        running = True
        while running:
            running = process.poll() is None
            for event in follower.poll():
                progress = advance(progress, event)
            shown.update(config, progress, time.monotonic())
            if running:
                time.sleep(POLL_S)
    if process.returncode != 0:
        print(
            f"run {index} ended with status {process.returncode}: {progress.reason or _last_line(console)}", flush=True
        )
        print(f"console   {console}", flush=True)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode, progress


@contextmanager
def started(config: RunConfig, output: Any) -> Iterator[subprocess.Popen[bytes]]:
    """The launcher of the ranks; SIGTERM and SIGINT are passed on to it, and it never outlives the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "reference_impl.pretrain"],
        env=child_environment(config),
        stdout=output,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        # Ctrl-C reaches every process of a terminal's group; it should reach the ranks once, through here.
        start_new_session=True,
    )

    def pass_on(number: int, _frame: FrameType | None) -> None:
        # Once: a second one would interrupt the launcher while it is ending the ranks.
        for either in before:
            signal.signal(either, signal.SIG_IGN)
        process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _ended(one: Experiment, status: int, progress: Progress) -> Experiment:
    said = progress.status or f"ended with status {status} and no run_stop"
    return Experiment(result=one.result, seed=one.seed, status=said, minutes=progress.minutes)


def _last_line(console: Path) -> str:
    lines = console.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"


def conclude(config: RunConfig, folder: Path, statuses: list[int]) -> int:
    """Check what was written, say where it is, and return the verdict."""
    ruleset = ["--ruleset", config.rules.ruleset]
    check = subprocess.run([sys.executable, "-m", "compliance", "check", *ruleset, folder], check=False).returncode
    subprocess.run([sys.executable, "-m", "compliance", "score", folder], check=False)
    worst = max(check, *(min(status, 1) if status < 128 else status for status in statuses))
    print(f"results   {folder}")
    print(f"verdict   {'PASS' if worst == 0 else 'FAIL'}", flush=True)
    return worst
