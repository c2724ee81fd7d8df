"""Mutations of what a log says about its training steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.compliance.mutations.edits import all_of, batch_of, event_like, put, put_metadata, without
from tests.compliance.mutations.mutation import Label, of_8b, of_405b, of_both
from tests.compliance.mutations.sources import (
    EXACT_COUNTS,
    NOT_CHECKED,
    RUN,
    WEIGHTS_8B,
    WEIGHTS_405B,
    official,
    published,
    rules,
)
from tests.logs import LogFile

PASS, REJECT, DEBATABLE = Label.PASS, Label.REJECT, Label.DEBATABLE

BEFORE_THE_STEP = published("NVIDIA v6.0 405B", "tracked_stats count the sequences before the step, 0 ... N-GBS")
ACCOUNT = f"{EXACT_COUNTS}; the reported steps account for fewer sequences than the log claims"


def _stats(log: LogFile) -> list[dict[str, Any]]:
    return [log.events[index] for index in log.indices("tracked_stats")]


def _before_the_step(log: LogFile) -> None:
    for event in _stats(log):
        event["metadata"]["step"] -= 1
        event["metadata"]["samples_count"] -= batch_of(log)


def _lose(*steps: int) -> Callable[[LogFile], None]:
    """Some tracked_stats are missing, counted from 0; -1 is the last."""

    def edit(log: LogFile) -> None:
        indices = log.indices("tracked_stats")
        for index in sorted((indices[step] for step in steps), reverse=True):
            del log.events[index]

    return edit


def _only_first_half(log: LogFile) -> None:
    indices = log.indices("tracked_stats")
    for index in reversed(indices[len(indices) // 2 :]):
        del log.events[index]


def _every_32nd(log: LogFile) -> None:
    for index in reversed(log.indices("tracked_stats")):
        metadata = log.events[index]["metadata"]
        if metadata["step"] % 32:
            del log.events[index]
        else:
            metadata["step"] -= 1.0
            metadata["samples_count"] += 0.0


def _throughput_alone(log: LogFile) -> None:
    without("tracked_stats")(log)
    for nth in range(len(log.indices("block_stop"))):
        index = log.indices("block_stop")[nth]
        block = log.events[index]
        stats = event_like(block, "tracked_stats", {"throughput": 30.5}, step=block["metadata"]["samples_count"])
        log.events.insert(index, stats)


def _bigger_steps(log: LogFile) -> None:
    for event in _stats(log):
        event["metadata"]["samples_count"] = 2 * batch_of(log) * event["metadata"]["step"]


def _fewer_steps(log: LogFile) -> None:
    """Steps of two global batches each, half as many, which add up."""
    for index in reversed(log.indices("tracked_stats")):
        metadata = log.events[index]["metadata"]
        if metadata["step"] % 2:
            del log.events[index]
        else:
            metadata["step"] //= 2


def _as_floats(log: LogFile) -> None:
    for event in _stats(log):
        for name in ("step", "samples_count"):
            event["metadata"][name] = float(event["metadata"][name])


def _first_loss(loss: float) -> Callable[[LogFile], None]:
    def edit(log: LogFile) -> None:
        stats = _stats(log)
        fall = stats[0]["value"]["reduced_train_loss"] - loss
        for event in stats:
            event["value"]["reduced_train_loss"] -= fall

    return edit


def _loss_of_31_steps(log: LogFile) -> None:
    _every_32nd(log)
    for nth, event in enumerate(_stats(log)):
        event["value"]["reduced_train_loss"] = 8.32 - 0.1 * nth


TRAINING = (
    *of_both(
        "steps-before", "tracked_stats count the sequences before the step.", _before_the_step, PASS, BEFORE_THE_STEP
    ),
    *of_both(
        "steps-before-one-lost",
        "tracked_stats count before the step, and one in the middle is missing.",
        all_of(_before_the_step, _lose(100)),
        REJECT,
        ACCOUNT,
    ),
    of_8b(
        "steps-before-last-lost",
        "tracked_stats count before the step, and the last one is missing.",
        all_of(_before_the_step, _lose(-1)),
        REJECT,
        ACCOUNT,
    ),
    of_405b(
        "steps-before-first-lost",
        "tracked_stats count before the step, from the second step, with the last one missing.",
        all_of(_before_the_step, _lose(0, -1)),
        REJECT,
        ACCOUNT,
    ),
    *of_both("steps-one-lost", "One of the reported steps is missing.", _lose(100), REJECT, ACCOUNT),
    *of_both(
        "steps-first-half", "Steps are reported up to the middle of the run alone.", _only_first_half, REJECT, ACCOUNT
    ),
    of_8b("steps-last-lost", "The last ten steps are not reported.", _lose(*range(-10, 0)), REJECT, ACCOUNT),
    *of_both(
        "no-steps", "No step is reported.", without("tracked_stats"), PASS, published("AMD v6.0 8B", "no tracked_stats")
    ),
    of_8b(
        "steps-every-32nd",
        "Every 32nd step is reported, as a float.",
        _every_32nd,
        PASS,
        published("Verda v5.1 8B", "steps 31.0, 63.0 ..."),
    ),
    of_8b(
        "throughput-alone",
        "tracked_stats hold the throughput of a block, with the sequences as step.",
        _throughput_alone,
        PASS,
        published("AMD v5.1 8B", "tracked_stats of a block"),
    ),
    of_405b(
        "steps-as-floats", "Steps and sequences are floats.", _as_floats, PASS, published("Verda v5.1 8B", "floats")
    ),
    of_405b(
        "steps-of-two-batches",
        "Each step counts two global batches.",
        _bigger_steps,
        REJECT,
        rules("Hyperparameters", "global_batch_size: batch size in sequences"),
    ),
    of_8b(
        "fewer-steps",
        "Half as many steps, of two global batches each, add up to the same number.",
        _fewer_steps,
        REJECT,
        rules("Hyperparameters", "global_batch_size: batch size in sequences"),
    ),
    # Where training began.
    of_8b(
        "first-loss-trained",
        "The first training loss is 3.4, of a model that is trained already.",
        _first_loss(3.4),
        REJECT,
        WEIGHTS_8B,
    ),
    of_8b(
        "first-loss-far",
        "The first training loss is 40.",
        _first_loss(40.0),
        DEBATABLE,
        WEIGHTS_8B,
    ),
    of_8b(
        "first-loss-of-31-steps",
        "The first reported loss, of step 31, is 8.32.",
        _loss_of_31_steps,
        PASS,
        published("Verda v5.1 8B", "8.32 at step 31"),
    ),
    of_405b(
        "first-loss-trained",
        "The first training loss is 5.65, of a checkpoint that is trained on.",
        _first_loss(5.65),
        REJECT,
        WEIGHTS_405B,
    ),
    of_405b(
        "first-loss-random",
        "The first training loss is 12.4, of random weights.",
        _first_loss(12.4),
        REJECT,
        WEIGHTS_405B,
    ),
    # The number of training samples.
    *of_both(
        "train-samples-one",
        "train_samples is 1.",
        put("train_samples", 1),
        REJECT,
        f"{EXACT_COUNTS}; fewer than were trained on",
    ),
    of_405b(
        "train-samples-zero",
        "train_samples is 0.",
        put("train_samples", 0),
        REJECT,
        f"{EXACT_COUNTS}; fewer than were trained on",
    ),
    of_8b(
        "train-samples-half",
        "train_samples is half of what the evaluations say.",
        lambda log: log.set("train_samples", log.get("train_samples")["value"] // 2),
        REJECT,
        f"{EXACT_COUNTS}; fewer than were trained on",
    ),
    of_8b(
        "train-samples-empty",
        "train_samples is empty.",
        put("train_samples", ""),
        REJECT,
        official("common.yaml", "v != ''"),
    ),
    of_405b(
        "train-samples-of-dataset",
        "train_samples is the size of a data set.",
        put("train_samples", 1574207408),
        PASS,
        published("NVIDIA v5.1 405B", "1574207408"),
    ),
    of_8b(
        "train-samples-of-schedule",
        "train_samples is the length of the schedule.",
        put("train_samples", 38400000),
        PASS,
        published("AMD v6.0 8B", "38400000"),
    ),
    # How the run ended.
    *of_both(
        "aborted",
        "run_stop says aborted.",
        put_metadata("run_stop", status="aborted"),
        REJECT,
        f"{RUN}; a lone run that did not converge is no result",
    ),
    of_8b(
        "no-status-of-stop",
        "run_stop has no status.",
        lambda log: log.get("run_stop")["metadata"].pop("status"),
        REJECT,
        official("common.yaml", "run_stop: 'status' in v['metadata']"),
    ),
    of_405b(
        "stop-counts-less",
        "run_stop says fewer sequences than the last evaluation.",
        lambda log: put_metadata("run_stop", samples_count=276480)(log),
        REJECT,
        EXACT_COUNTS,
    ),
    of_8b(
        "stop-without-count",
        "run_stop says no number of sequences.",
        lambda log: log.get("run_stop")["metadata"].pop("samples_count"),
        PASS,
        NOT_CHECKED,
    ),
)
