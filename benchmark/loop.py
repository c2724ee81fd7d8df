"""One run, from before the model exists to after the clock has stopped. The page that everyone reads.

No Megatron, no ranks, no environment: what trains is behind `Step`, what is logged goes through `EventLog`, time comes
from its clock. Every rank runs this page; every decision is taken on values that all ranks share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from benchmark.announce import announce
from benchmark.clock import start_run
from benchmark.config import RunConfig
from benchmark.events import EventLog


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    """One optimizer step, as all ranks see it."""

    loss: float
    """Mean loss over the tokens of the global batch, nats."""
    grad_norm: float
    """Of the whole model, before clipping."""
    learning_rate: float
    """That this step was taken with."""


class Step(Protocol):
    """What trains. The real one is `reference_impl.step`; tests and rehearsals bring their own."""

    def warm_up(self) -> None:
        """Run the training and evaluation code on synthetic data; leave every bit of state as it was."""

    def open_data(self) -> None:
        """Open the datasets. Called once, after the clock has started."""

    def train(self, steps: int) -> Iterator[StepStats]:
        """Take `steps` optimizer steps, yielding after each; the loop exhausts it."""
        ...

    def evaluate(self, sequences: int) -> float:
        """Log perplexity over the first `sequences` validation sequences, weighted by token, the same on every rank."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended."""

    status: str
    """`success` or `aborted`, as logged with run_stop."""
    samples: int
    """Sequences trained on."""
    log_perplexity: float | None
    """At the last evaluation."""
    reason: str
    """Why an aborted run ended; empty for success."""


class NonFinite(ArithmeticError):
    """A loss that is not a number ends the run."""


def run(
    config: RunConfig,
    build: Callable[[], Step],
    log: EventLog,
    *,
    clear_caches: Callable[[], str],
    barrier: Callable[[], None],
) -> Outcome:
    """Run once and log it.

    Args:
        build: constructs the Step; called after init_start, so that model construction is part of initialisation.
        clear_caches: drops cached file data and says how.
        barrier: returns when every rank has called it.

    Raises:
        Whatever the Step raises, after run_stop has been logged as aborted.
    """
    log.event("cache_clear", True, method=clear_caches())
    log.start("init_start")
    step = build()
    step.warm_up()
    for key, value in announce(config):
        log.event(key, value)
    start_run(log, barrier)
    return timed_region(config, step, log)


def timed_region(config: RunConfig, step: Step, log: EventLog) -> Outcome:
    """Train until an evaluation reaches the target, between run_start and run_stop."""
    rules, gbs = config.rules, config.global_batch_size
    done, accuracy, status, reason = 0, None, "aborted", ""
    try:
        step.open_data()
        for due in config.schedule.evaluation_steps(config.max_steps):
            log.start("block_start", samples_count=done * gbs)
            began = log.clock.now()
            for stats in step.train(due - done):
                done += 1
                began = _log_step(log, stats, began, step=done, samples=done * gbs)
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
        if not isinstance(error, NonFinite):
            raise
    finally:
        explanation: dict[str, str] = {"reason": reason} if reason else {}
        log.end("run_stop", at=None, status=status, samples_count=done * gbs, **explanation)
        log.event("train_samples", done * gbs)
    return Outcome(status=status, samples=done * gbs, log_perplexity=accuracy, reason=reason)


def _log_step(log: EventLog, stats: StepStats, began: float, *, step: int, samples: int) -> float:
    """Log one training step; returns the time it ended, where the next one begins."""
    loss = _finite(stats.loss, "training loss", step)
    now = log.clock.now()
    value = {
        "train_step_time": round(now - began, 6),
        "reduced_train_loss": loss,
        "grad_norm": _finite(stats.grad_norm, "gradient norm", step),
        "learning_rate": stats.learning_rate,
    }
    log.event("tracked_stats", value, at=now, step=step, samples_count=samples)
    return now


def _finite(value: float, name: str, step: int) -> float:
    if not math.isfinite(value):
        raise NonFinite(f"{name} is {value} at step {step}")
    return value
