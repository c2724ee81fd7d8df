"""Judge the first training loss, the cheapest proof of the right weights and the right tokenizer.

A run with a wrong tokenizer, RoPE scaling or set of weights trains without an error for hours, and misses its target.
The first loss shows the mistake after one step.
"""

from __future__ import annotations

from benchmark.config import RunConfig
from benchmark.errors import RunFailedError


class WrongInitialLossError(RunFailedError):
    """The first training loss is not that of a right start; ends the run."""


def require_initial_loss(config: RunConfig, loss: float) -> None:
    """Refuse a first loss, in nats, that lies outside the benchmark's range.

    The range holds for the benchmark's own start only. A run of another network is not judged, nor one that starts from
    random weights where the benchmark starts from a checkpoint, or the other way round. INITIAL_LOSS_GATE=0, which
    run.json records, turns the check off.

    Raises:
        WrongInitialLossError: the loss is outside the range; the message has the numbers and the likely causes.
    """
    row, loaded = config.benchmark_row, config.data.load_checkpoint is not None
    low, high = row.initial_train_loss
    own_start = config.size == row.size and loaded == (row.initial_weights is not None)
    if low <= loss <= high or not config.data.initial_loss_gate or not own_start:
        return
    start = f"LOAD_CHECKPOINT={config.data.load_checkpoint}" if loaded else "random weights"
    likely = _LIKELY[loss > high] if loaded else _LIKELY_FROM_RANDOM
    raise WrongInitialLossError(
        f"first training loss {loss:.4f} from {start}, expected {low} to {high} for {config.benchmark}; likely causes: "
        f"{likely}; INITIAL_LOSS_GATE=0 trains anyway"
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
"""Whether the loss is too high -> likely causes, for a run from a checkpoint."""

_LIKELY_FROM_RANDOM = (
    "another vocabulary than the benchmark's, weights drawn with another standard deviation, "
    "a loss that is averaged over padding"
)
