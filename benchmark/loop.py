"""One run, from before the model exists until after the clock has stopped. Everybody reads this page.

It knows no Megatron, no ranks and no environment: `Step` hides what trains, `EventLog` logs, and its clock gives the
time. Every rank runs this page; every decision depends on values that all ranks share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Protocol

from benchmark.announce import announce
from benchmark.checkpoints import Checkpoints, Resumption
from benchmark.config import RunConfig
from benchmark.errors import RunFailedError
from benchmark.eventlog import EventLog
from benchmark.initial_loss import require_initial_loss
from benchmark.stragglers import SlowRank


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    """One optimizer step, the same on all ranks."""

    loss: float
    """Mean loss over the tokens of the global batch, in nats."""
    grad_norm: float
    """Norm of the whole model's gradient, before clipping."""
    learning_rate: float
    """Learning rate of this step."""
    preempted: bool = False
    """A rank has been told to save and stop; the run is to be continued."""
    slowest: tuple[SlowRank, ...] = ()
    """Slow ranks in the steps since the last evaluation, given with the last of those steps."""


class Step(Protocol):
    """Trains the model. The real one is `reference_impl.step`; tests and rehearsals bring their own."""

    def warm_up(self) -> None:
        """Run the training and evaluation code on synthetic data; leave every bit of state as it was."""

    def open_data(self) -> None:
        """Open the datasets. Called once, after the clock has started."""

    def train(self, steps: int) -> Iterator[StepStats]:
        """Take `steps` optimizer steps, yielding after each; the loop exhausts it unless it stops there for good."""
        ...

    def evaluate(self, sequences: int) -> float:
        """Return the log perplexity of the first `sequences` validation samples, by token; equal on all ranks."""
        ...

    def save(self, folder: Path, complete: Callable[[], None], failed: Callable[[str], None]) -> None:
        """Start to write the training state into the empty `folder`; training may continue meanwhile.

        Later, when every rank has written its part, the first rank calls `complete`: while it trains, when the next
        save begins, or in `finish_saving`. If that or any part cannot be written, all ranks call `failed` with the same
        reason instead, and none waits for the save.
        """

    def finish_saving(self) -> None:
        """Return when no save is running."""

    def load(self, folder: Path) -> None:
        """Load the training state that a save has written, under this layout or another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended."""

    status: str
    """`success` or `aborted`, as logged with run_stop; `preempted` if the run is to be continued and logs none."""
    samples: int
    """Samples trained on."""
    log_perplexity: float | None
    """Log perplexity of the last evaluation."""
    reason: str
    """Why the run ended without success; empty for success."""


class NonFiniteError(RunFailedError):
    """A loss or a gradient norm is not a finite number."""


def run(
    config: RunConfig,
    build: Callable[[], Step],
    log: EventLog,
    *,
    clear_caches: Callable[[], str],
    barrier: Callable[[], None],
    checkpoints: Checkpoints | None = None,
    resumption: Resumption | None = None,
) -> Outcome:
    """Run once and log it, from the start or from a checkpoint.

    Args:
        build: constructs the Step; called after init_start, so that model construction is part of initialisation.
        clear_caches: drops cached file data and says how.
        barrier: returns when every rank has called it.
        checkpoints: where and how often the training state is saved; nowhere if None.
        resumption: where an interrupted run resumes; None starts a new one.

    Raises:
        Exception: whatever the Step raises, after run_stop has been logged as aborted.
    """
    checkpoints = checkpoints or Checkpoints()
    if resumption is None:
        step = initialise(config, build, log, clear_caches, barrier)
        return timed_region(config, step, log, checkpoints)
    step = resume(config, build, log, barrier, resumption)
    return timed_region(config, step, log, checkpoints, done=resumption.step)


def initialise(
    config: RunConfig,
    build: Callable[[], Step],
    log: EventLog,
    clear_caches: Callable[[], str],
    barrier: Callable[[], None],
) -> Step:
    """Do everything that comes before run_start, log run_start, and return the Step."""
    log.event("cache_clear", True, method=clear_caches())
    log.start("init_start")
    step = build()
    step.warm_up()
    for key, value in announce(config):
        log.event(key, value)
    start_run(log, barrier)
    return step


def start_run(log: EventLog, barrier: Callable[[], None]) -> None:
    """End initialisation and start the timed region, as one act.

    Every rank has finished initialising before the clock starts (first barrier), both events carry the same instant
    (no gap in which work could hide), and no rank touches data before the clock has started (second barrier).
    Source: training_rules.adoc, "Timing": the timer starts before any training data is touched.
    """
    barrier()
    instant = log.clock.now()
    log.end("init_stop", at=instant)
    log.start("run_start", at=instant)
    barrier()


def resume(
    config: RunConfig, build: Callable[[], Step], log: EventLog, barrier: Callable[[], None], resumption: Resumption
) -> Step:
    """Bring Step and log back to the checkpoint. The clock never stopped: it ran on during the interruption.

    Nothing is warmed up, since that would only take time again. The log is changed last, so that a resumption that
    fails can be tried again.
    """
    step = build()
    step.load(resumption.folder)
    barrier()
    log.cut(resumption.log_bytes)
    samples = resumption.step * config.layout.global_batch_size
    log.event("tracked_stats", resumption.told(log.clock.now()), step=resumption.step, samples_count=samples)
    return step


def timed_region(config: RunConfig, step: Step, log: EventLog, checkpoints: Checkpoints, *, done: int = 0) -> Outcome:
    """Train until an evaluation reaches the target, between run_start and run_stop.

    Args:
        done: optimizer steps taken before. Saves come after a step and before an evaluation, so this number says
            exactly where a run is.
    """
    rules, gbs = config.rules, config.layout.global_batch_size
    accuracy, status, reason, error_type = None, "aborted", "", ""
    try:
        step.open_data()
        for first, due in _blocks(config, done):
            if done == first:
                log.start("block_start", samples_count=done * gbs)
            began = log.clock.now()
            for stats in step.train(due - done):
                done += 1
                began = _log_step(log, stats, began, step=done, samples=done * gbs)
                if done == 1:
                    require_initial_loss(config, stats.loss)
                checkpoints.settle(log)
                if stats.preempted or checkpoints.due(done):
                    began = checkpoints.save(step.save, log, step=done, samples=done * gbs)
                if stats.preempted:
                    step.finish_saving()
                    checkpoints.settle(log)
                    status, reason = "preempted", f"told to stop after step {done}"
                    return Outcome(status=status, samples=done * gbs, log_perplexity=accuracy, reason=reason)
            log.end("block_stop", samples_count=done * gbs)

            log.start("eval_start", samples_count=done * gbs)
            accuracy = _finite(step.evaluate(rules.eval_sequences), "log perplexity", done)
            log.event("eval_accuracy", accuracy, samples_count=done * gbs)
            log.end("eval_stop", samples_count=done * gbs)
            if accuracy <= rules.target_log_perplexity:
                status = "success"
                break
        else:
            reason = f"log perplexity {accuracy} after {done} steps, target {rules.target_log_perplexity} not reached"
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
        if not isinstance(error, RunFailedError):
            # The run did not end by itself: a launcher may continue it from a checkpoint.
            error_type = type(error).__name__
            raise
    finally:
        if status != "preempted":
            _stop(log, status, samples=done * gbs, reason=reason, error=error_type)
    step.finish_saving()
    return Outcome(status=status, samples=done * gbs, log_perplexity=accuracy, reason=reason)


def _blocks(config: RunConfig, done: int) -> Iterator[tuple[int, int]]:
    """Yield the first and last step of each block of training that is not over after step `done`."""
    ends = config.schedule.evaluation_steps(config.step_limit)
    return ((first, due) for first, due in pairwise(chain([0], ends)) if due >= done)


def _log_step(log: EventLog, stats: StepStats, began: float, *, step: int, samples: int) -> float:
    """Log one training step, and return the time it ended, at which the next one begins."""
    loss = _finite(stats.loss, "training loss", step)
    now = log.clock.now()
    value = {
        "train_step_time": round(now - began, 6),
        "reduced_train_loss": loss,
        "grad_norm": _finite(stats.grad_norm, "gradient norm", step),
        "learning_rate": stats.learning_rate,
    }
    log.event("tracked_stats", value, at=now, step=step, samples_count=samples)
    if stats.slowest:
        slowest = {"slowest_ranks": [asdict(rank) for rank in stats.slowest]}
        log.event("tracked_stats", slowest, at=now, step=step, samples_count=samples)
    return now


def _stop(log: EventLog, status: str, *, samples: int, **explanation: str) -> None:
    """Stop the clock and log why; an empty explanation is left out."""
    said: dict[str, str] = {name: text for name, text in explanation.items() if text}
    log.end("run_stop", at=None, status=status, samples_count=samples, **said)
    log.event("train_samples", samples)


def _finite(value: float, name: str, step: int) -> float:
    if not math.isfinite(value):
        raise NonFiniteError(f"{name} is {value} at step {step}")
    return value
