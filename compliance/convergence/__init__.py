"""A result against the reference: how far it came, and what its score is."""
