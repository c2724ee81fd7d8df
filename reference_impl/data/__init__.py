"""From text to batches: the built-in corpus, the manifest that describes a dataset, and Megatron-Core's datasets."""
