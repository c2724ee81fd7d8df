"""Valid logs, made by the real loop with a trainer that computes nothing, and the means to break them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark import loop
from benchmark.benchmarks import LLAMA31_8B, find
from benchmark.config import RunConfig
from benchmark.eventlog import EventLog
from benchmark.loop import StepStats
from benchmark.mllog import TOKEN
from benchmark.rules import ScaledLearningRate
from compliance.check import open_run
from compliance.checks.runs import check_run
from compliance.findings import Finding, Severity
from tests.fakes import FakeClock, configured

STEP_SECONDS = 2.0
EVALUATION_SECONDS = 3.0
INIT_SECONDS = 5.0


@dataclass
class CurveStep:
    """A trainer whose losses are given and whose steps take time on a fake clock."""

    clock: FakeClock
    initial_loss: float
    log_perplexities: Iterator[float]
    taken: int = 0

    def warm_up(self) -> None:
        self.clock.seconds += INIT_SECONDS

    def open_data(self) -> None:
        self.clock.seconds += 0.5

    def train(self, steps: int) -> Iterator[StepStats]:
        for _ in range(steps):
            self.taken += 1
            self.clock.seconds += STEP_SECONDS
            yield StepStats(loss=self.initial_loss - 1e-3 * self.taken, grad_norm=1.0, learning_rate=1e-5)

    def evaluate(self, sequences: int) -> float:
        self.clock.seconds += EVALUATION_SECONDS
        return next(self.log_perplexities)

    def save(self, folder: Path, complete: Callable[[], None], failed: Callable[[str], None]) -> None: ...
    def finish_saving(self) -> None: ...
    def load(self, folder: Path) -> None: ...


def tiny(**overrides: str | int) -> RunConfig:
    """The harness's own benchmark, at the batch size that its rules start from."""
    rate = find("llama31_tiny").learning_rate
    assert isinstance(rate, ScaledLearningRate)
    here: dict[str, str | int] = {
        "BENCHMARK": "llama31_tiny",
        "DGXNGPU": 1,
        "MINIBS": rate.batch,
        "SEED": 20,
    }
    return configured(**(here | overrides))


def llama31_405b(**overrides: str | int) -> RunConfig:
    here: dict[str, str | int] = {"SEED": 405}
    return configured(**(here | overrides))


def llama31_8b(**overrides: str | int) -> RunConfig:
    here: dict[str, str | int] = {
        "BENCHMARK": "llama31_8b",
        "RULESET": LLAMA31_8B.rulesets[-1],
        "SEED": 8,
        "MINIBS": 16,
        "CONFIG_FILENAME": "config_TEST.sh",
    }
    return configured(**(here | overrides))


def reaching(config: RunConfig, evaluations: int = 3) -> list[float]:
    """Log perplexities of which only the last, the target itself, reaches the target."""
    target = config.rules.target_log_perplexity
    return [target + 0.125 * left for left in range(evaluations - 1, -1, -1)]


def make_log(
    path: Path, config: RunConfig, log_perplexities: Iterable[float], *, initial_loss: float | None = None
) -> Path:
    """Run the real loop once; the first training loss is what the rules expect unless one is given."""
    clock = FakeClock()
    if initial_loss is None:
        initial_loss = sum(config.benchmark_row.initial_train_loss) / 2
    step = CurveStep(clock=clock, initial_loss=initial_loss, log_perplexities=iter(log_perplexities))
    loop.run(config, lambda: step, EventLog(path, clock), clear_caches=lambda: "test", barrier=lambda: None)
    return path


class LogFile:
    """A log of which a test changes events, and then looks at the findings."""

    def __init__(self, path: Path, ruleset: str | None = None) -> None:
        self.path = path
        self.ruleset = ruleset
        lines = path.read_text(encoding="utf-8").splitlines()
        self.events: list[dict[str, Any]] = [json.loads(line.removeprefix(TOKEN)) for line in lines]

    def indices(self, key: str) -> list[int]:
        return [index for index, event in enumerate(self.events) if event["key"] == key]

    def get(self, key: str, nth: int = 0) -> dict[str, Any]:
        """The nth event of a key; -1 is the last."""
        return self.events[self.indices(key)[nth]]

    def set(self, key: str, value: object, nth: int = 0) -> None:
        self.get(key, nth)["value"] = value

    def drop(self, key: str, nth: int = 0) -> None:
        del self.events[self.indices(key)[nth]]

    def move(self, key: str, *, before: str) -> None:
        event = self.events.pop(self.indices(key)[0])
        self.events.insert(self.indices(before)[0], event)

    def repeat(self, key: str) -> None:
        index = self.indices(key)[0]
        self.events.insert(index, self.events[index])

    def delay(self, key: str, seconds: float) -> None:
        """Let the first event of a key and all later ones happen later."""
        for event in self.events[self.indices(key)[0] :]:
            event["time_ms"] += int(seconds * 1000)

    def save(self) -> Path:
        lines = (f"{TOKEN} {json.dumps(event)}\n" for event in self.events)
        self.path.write_text("".join(lines), encoding="utf-8")
        return self.path

    def append(self, text: str) -> None:
        """Save, with a text after the last event."""
        self.save().open("a", encoding="utf-8").write(text)

    def findings(self) -> tuple[Finding, ...]:
        """Return the findings for the file as it is."""
        return check_run(open_run(self.path, self.ruleset))


def errors(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity is Severity.ERROR]
