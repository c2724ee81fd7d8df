"""The first training loss: the cheapest proof that a run starts from the right weights, with the right tokenizer.

A wrong tokenizer, RoPE scaling or set of weights trains without an error, for hours, towards a target that it does not
reach in time. The first loss shows it after one step.
"""

from __future__ import annotations

from benchmark.config import RunConfig


class WrongInitialLoss(ArithmeticError):
    """A first training loss that a right start does not give; ends the run."""


def require_initial_loss(config: RunConfig, loss: float) -> None:
    """Judge the loss of a run's first step, in nats.

    A run with INITIAL_LOSS_GATE=0, which its run.json says, is not judged; nor is one of another network, or one that
    starts from random weights where the benchmark starts from a checkpoint, or the other way round: the range is of the
    benchmark's own start.

    Raises:
        WrongInitialLoss: with the numbers and the likely causes.
    """
    row, loaded = config.benchmark_row, config.data.load_checkpoint is not None
    low, high = row.initial_train_loss
    own_start = config.size == row.size and loaded == (row.initial_weights is not None)
    if low <= loss <= high or not config.data.initial_loss_gate or not own_start:
        return
    start = f"LOAD_CHECKPOINT={config.data.load_checkpoint}" if loaded else "random weights"
    likely = _LIKELY[loss > high] if loaded else _LIKELY_FROM_RANDOM
    raise WrongInitialLoss(
        f"first training loss {loss:.4f} from {start}, expected {low} to {high} for {config.benchmark}; likely causes: "
        f"{likely}; INITIAL_LOSS_GATE=0 trains all the same"
    )


_LIKELY = {
    True: (
        "a wrong tokenizer or dataset (token ids of another vocabulary), wrong RoPE scaling (factor, base), a wrong or "
        "damaged checkpoint, weights mapped to the wrong tensors"
    ),
    False: (
        "a checkpoint that was trained on this data already, the validation data as training data, a loss that is "
        "averaged over padding"
    ),
}
"""From a checkpoint, by whether the loss is too high."""

_LIKELY_FROM_RANDOM = (
    "another vocabulary than the benchmark's, weights drawn with another deviation, "
    "a loss that is averaged over padding"
)
