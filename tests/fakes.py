"""Stand-ins for everything that drives a run: time, the trainer, and the configuration of a system."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmark.config import RunConfig
from benchmark.loop import StepStats
from benchmark.mllog import TOKEN, Event, decode

EPOCH = 1_700_000_000.0


class FakeClock:
    """Time that advances by `tick` seconds each time it is read."""

    def __init__(self, start: float = EPOCH, tick: float = 0.0) -> None:
        self.seconds = start
        self.tick = tick

    def now(self) -> float:
        self.seconds += self.tick
        return self.seconds


def environment(**overrides: str | int) -> dict[str, str]:
    """Variables of a valid run of llama31_405b at a global batch size of 1152, changed by `overrides`."""
    base: dict[str, str | int] = {
        "BENCHMARK": "llama31_405b",
        "RULESET": "6.0.0",
        "DGXSYSTEM": "TEST",
        "DGXNNODES": 1,
        "DGXNGPU": 8,
        "MINIBS": 144,
    }
    return {name: str(value) for name, value in (base | overrides).items()}


def configured(**overrides: str | int) -> RunConfig:
    return RunConfig.from_environment(environment(**overrides))


def read_events(path: Path) -> list[Event]:
    """The events of a log, each line decoded strictly."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [decode(line.removeprefix(TOKEN)) for line in lines]


class FakeStep:
    """A trainer that computes nothing and notes, for each call, which event was the last in the log by then."""

    def __init__(
        self,
        log: Path,
        *,
        log_perplexities: Sequence[float] = (),
        stats: Callable[[int], StepStats] | None = None,
        failing: dict[str, BaseException] | None = None,
    ) -> None:
        self.log = log
        self.calls: list[tuple[str, str | None]] = []
        self.evaluated_at: list[int] = []
        self.sequences: list[int] = []
        self.steps = 0
        self.preempted_after: int | None = None
        """The step at whose end a rank says that it has been told to stop."""
        self._complete: Callable[[], None] | None = None
        self._log_perplexities = iter(log_perplexities)
        self._stats = stats or (lambda step: StepStats(loss=6.0, grad_norm=1.0, learning_rate=1e-5))
        self._failing = failing or {}

    def note(self, call: str) -> None:
        events = read_events(self.log)
        self.calls.append((call, events[-1].key if events else None))
        if call in self._failing:
            raise self._failing[call]

    def build(self) -> FakeStep:
        self.note("build")
        return self

    def barrier(self) -> None:
        self.note("barrier")

    def warm_up(self) -> None:
        self.note("warm_up")

    def open_data(self) -> None:
        self.note("open_data")

    def train(self, steps: int) -> Iterator[StepStats]:
        self.note("train")
        for _ in range(steps):
            self.steps += 1
            yield replace(self._stats(self.steps), preempted=self.steps == self.preempted_after)

    def evaluate(self, sequences: int) -> float:
        self.note("evaluate")
        self.evaluated_at.append(self.steps)
        self.sequences.append(sequences)
        return next(self._log_perplexities)

    def save(self, folder: Path, complete: Callable[[], None], failed: Callable[[str], None]) -> None:
        del failed
        self.finish_saving()
        self.note("save")
        folder.mkdir(parents=True)
        (folder / "steps").write_text(str(self.steps))
        self._complete = complete

    def finish_saving(self) -> None:
        if self._complete is not None:
            self._complete()
            self._complete = None

    def load(self, folder: Path) -> None:
        self.note("load")
        self.steps = int((folder / "steps").read_text())
