"""From a dataset to a run's batches."""
