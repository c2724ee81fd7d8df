"""llama31 dryrun: run any rank of any configuration on the null device, in an environment of its own."""
