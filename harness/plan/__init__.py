"""Planning a run before an allocation is spent: memory, step time, time to target, and the layouts there are."""
