"""From text to batches: the built-in corpus, the manifest that vouches for a dataset, and Megatron-Core's datasets."""
