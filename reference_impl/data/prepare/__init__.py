"""From text to a dataset."""
