"""The first training loss of a run that starts from a checkpoint: the cheapest proof that it is the right one.

A wrong tokenizer, RoPE scaling or set of weights trains without an error, for hours, towards a target that it does not
reach in time. The first loss shows it after one step.
"""

from __future__ import annotations

from benchmark.config import RunConfig


class WrongInitialLoss(ArithmeticError):
    """A first training loss that right initial weights do not give; ends the run."""


def require_initial_loss(config: RunConfig, loss: float) -> None:
    """Judge the loss of a run's first step, in nats.

    A run that draws its weights at random is not judged, nor one with INITIAL_LOSS_GATE=0, which its run.json says.

    Raises:
        WrongInitialLoss: with the numbers and the likely causes.
    """
    if config.load_checkpoint is None or not config.initial_loss_gate:
        return
    low, high = config.rules.initial_train_loss
    if low <= loss <= high:
        return
    raise WrongInitialLoss(
        f"first training loss {loss:.4f} from LOAD_CHECKPOINT={config.load_checkpoint}, expected {low} to {high} for "
        f"{config.benchmark}; likely causes: {_LIKELY[loss > high]}; INITIAL_LOSS_GATE=0 trains all the same"
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
"""By whether the loss is too high."""
