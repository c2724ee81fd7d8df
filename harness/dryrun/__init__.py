"""llama31 dryrun: any rank of any configuration, run on the null device of an environment of its own."""
