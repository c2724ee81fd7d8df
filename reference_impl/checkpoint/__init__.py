"""Weights and training state on disk: initial weights in the formats of others, and our own checkpoints."""
