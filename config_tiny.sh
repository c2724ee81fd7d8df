# The default: a tiny Llama 3.1 on machines with only CPUs, in minutes. To change any of these variables, set it before.
DGXSYSTEM=$(basename "${BASH_SOURCE[0]}" .sh)
export DGXSYSTEM=${DGXSYSTEM#config_}
export BENCHMARK=llama31_tiny RULESET=6.0.0
export PRECISION=${PRECISION:-fp32}

# A job runs it on all of its nodes (docs/slurm.md). Two processes on each node, if there are two cores.
export DGXNNODES=${DGXNNODES:-1}
export DGXNGPU=${DGXNGPU:-$(($(nproc) < 2 ? 1 : 2))}
# The rules allow only a global batch size of 16 samples, on 1, 2, 4, 8 or 16 processes. awk accepts any text as a number, so
# that a bad value of the variables above does not fail here and is refused by its name later.
MINIBS=${MINIBS:-$(awk -v nodes="$DGXNNODES" -v each="$DGXNGPU" 'BEGIN { n = nodes * each; print (n > 0 ? int((15 + n) / n) : 1) }')}
MICRO_BATCH_SIZE=${MICRO_BATCH_SIZE:-$(awk -v all="$MINIBS" 'BEGIN { n = all + 0; print (n > 0 && n < 8 ? n : 8) }')}
export MINIBS MICRO_BATCH_SIZE

# Minutes of a job, with all its runs.
export WALLTIME=${WALLTIME:-30}
