"""Measures checking logs against the official compliance checker: whole processes, as they are used.

Ours checks any number of logs in one process; the official checker takes one log per process. Processor time is the
user and system time of the child processes, peak memory the largest resident set of any of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click

from benchmark.benchmarks import LLAMA31_405B
from benchmark.checkout import ROOT
from benchmark.config import RunConfig
from benchmark.eventlog import EventLog
from benchmark.loop import StepStats, run
from benchmark.mllog import TOKEN
from compliance.rewritten import rewrite

PUBLISHED = ROOT.parent / "shared" / "published"
ROUNDS = {"v5.0": "5.0.0", "v5.1": "5.1.0"}
GENERATED_RULESET = "6.0.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildrenCost:
    """The cost of some child processes together."""

    cpu: float
    """Seconds, user and system."""
    peak: float
    """Largest resident set, bytes."""


class TickingClock:
    """Time that advances each time it is read, so that a log of weeks takes seconds."""

    def __init__(self) -> None:
        self.seconds = 1.75e9

    def now(self) -> float:
        self.seconds += 1.294
        return self.seconds


class FileLog(EventLog):
    """Writes mllog's lines without its search for the caller, which takes longer than everything else here."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, TickingClock())
        self.file = path.open("w", encoding="utf-8")

    def _write(self, event_type: str, key: str, value: Any, at: float | None, metadata: dict[str, Any]) -> None:
        event = {
            "namespace": "",
            "time_ms": int((self.clock.now() if at is None else at) * 1000),
            "event_type": event_type,
            "key": key,
            "value": value,
            "metadata": {"file": "benchmark/loop.py", "lineno": 133, **metadata},
        }
        self.file.write(f"{TOKEN} {json.dumps(event)}\n")


class LongStep:
    """A Step that takes no time and reaches the target once its log is large enough."""

    def __init__(self, log: FileLog, size: int) -> None:
        self.log, self.size = log, size

    def warm_up(self) -> None: ...
    def open_data(self) -> None: ...
    def save(self, folder: Path, complete: Callable[[], None], failed: Callable[[str], None]) -> None: ...
    def finish_saving(self) -> None: ...
    def load(self, folder: Path) -> None: ...

    def train(self, steps: int) -> Iterator[StepStats]:
        for step in range(steps):
            yield StepStats(loss=7.7 - step / 7e6, grad_norm=1.0 + step / 3e6, learning_rate=1.1111111111e-6)

    def evaluate(self, sequences: int) -> float:  # noqa: ARG002
        return 5.59 if self.log.file.tell() >= self.size else 6.7 - self.log.file.tell() / 1e9


def configuration() -> RunConfig:
    """Return a 405B run with so small a batch that evaluations are rare among its steps, as in a long run."""
    variables = {
        "BENCHMARK": LLAMA31_405B.name,
        "RULESET": GENERATED_RULESET,
        "DGXSYSTEM": "perf",
        "DGXNNODES": "8",
        "DGXNGPU": "8",
        "TENSOR_MODEL_PARALLEL": "8",
        "PIPELINE_MODEL_PARALLEL": "8",
        "MINIBS": "16",
        # Later than any run gives up by itself.
        "MAX_STEPS": "1000000",
        "SEED": "1",
    }
    return RunConfig.from_environment(variables)


def write_log(path: Path, size: int) -> None:
    """Let the real loop log a valid run of at least `size` bytes."""
    log = FileLog(path)
    step = LongStep(log, size)
    run(configuration(), lambda: step, log, clear_caches=lambda: "none", barrier=lambda: None)
    log.file.close()


# A child's peak memory includes what its parent held, so a bare interpreter is the parent that waits for it.
_WAIT = """
import os, sys
report = os.dup(1)
for stream in (1, 2):
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
child = os.posix_spawn(sys.executable, [sys.executable, "-m", *sys.argv[1:]], os.environ)
_, status, usage = os.wait4(child, 0)
code, cpu = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
os.write(report, f"{code} {cpu} {usage.ru_maxrss}".encode())
"""


def cost_of(commands: Sequence[Sequence[str]]) -> ChildrenCost:
    """Run commands one after another, each with the same interpreter, and add up their costs.

    Raises:
        RuntimeError: one of them exits with a status other than 0.
    """
    costs = [_cost_of_one(command) for command in commands]
    return ChildrenCost(cpu=sum(cost.cpu for cost in costs), peak=max(cost.peak for cost in costs))


def _cost_of_one(command: Sequence[str]) -> ChildrenCost:
    done = subprocess.run([sys.executable, "-c", _WAIT, *command], stdout=subprocess.PIPE, text=True, check=True)
    code, cpu, kibibytes = done.stdout.split()
    if code != "0":
        raise RuntimeError(f"{' '.join(command)} exits with {code}")
    return ChildrenCost(cpu=float(cpu), peak=float(kibibytes) * 1024)


def ours(ruleset: str, paths: Sequence[Path]) -> list[list[str]]:
    return [["compliance", "check", "--ruleset", ruleset, *map(str, paths)]]


def official(ruleset: str, paths: Sequence[Path]) -> list[list[str]]:
    options = ["--ruleset", ruleset, "--log_output", os.devnull]
    return [["mlperf_logging.compliance_checker", *options, str(path)] for path in paths]


def published_logs(name: str, ruleset: str, folder: Path) -> list[Path]:
    """Return the logs of a round, rewritten: the official checker may execute names in a stranger's log.

    Raises:
        RuntimeError: they cannot be rewritten.
    """
    folder.mkdir()
    copy = rewrite(PUBLISHED / name, folder, ruleset)
    if copy.findings:
        raise RuntimeError(f"{copy.findings[0].file}: {copy.findings[0].actual}")
    return sorted(map(Path, copy.logs))


def compare(title: str, logs: Mapping[str, Sequence[Path]], rounds: int) -> None:
    """Check the logs of each ruleset with both checkers, in turns, and print medians and ratios."""
    tools: dict[str, Callable[[str, Sequence[Path]], list[list[str]]]] = {"compliance": ours, "official": official}
    costs: dict[str, list[ChildrenCost]] = {name: [] for name in tools}
    for _ in range(rounds):
        for name, tool in tools.items():
            commands = [command for ruleset, paths in logs.items() for command in tool(ruleset, paths)]
            costs[name].append(cost_of(commands))
    print(f"{title}, median of {rounds}")
    peer = median(cost.cpu for cost in costs["official"])
    for name, values in costs.items():
        cpu, peak = median(cost.cpu for cost in values), max(cost.peak for cost in values)
        print(f"  {name:12} {cpu:8.2f} s CPU   {peak / 1e6:8.1f} MB peak   {peer / cpu:6.1f} x as fast as the official")


@click.command()
@click.option("--megabytes", default=100, help="Size of the generated log.")
@click.option("--rounds", default=3, help="Rounds over the published logs; the generated one is checked once.")
def main(megabytes: int, rounds: int) -> None:
    """Measure both checkers on the published logs, where they are beside this checkout, and on one large log."""
    with tempfile.TemporaryDirectory() as folder:
        if PUBLISHED.is_dir():
            logs = {ruleset: published_logs(name, ruleset, Path(folder, name)) for name, ruleset in ROUNDS.items()}
            compare(f"{sum(map(len, logs.values()))} published logs", logs, rounds)
        else:
            print(f"no published logs in {PUBLISHED}: skipped")
        path = Path(folder) / "result_0.txt"
        write_log(path, megabytes * 1_000_000)
        compare(f"a log of {path.stat().st_size / 1e6:.0f} MB", {GENERATED_RULESET: [path]}, rounds=1)


if __name__ == "__main__":
    main()
