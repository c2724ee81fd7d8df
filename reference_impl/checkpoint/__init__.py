"""Weights and training state on disk: initial weights in other projects' formats, and our own checkpoints."""
