# The default: a tiny Llama 3.1 on bare CPU machines, in minutes. Set any of these variables beforehand to change it.
DGXSYSTEM=$(basename "${BASH_SOURCE[0]}" .sh)
export DGXSYSTEM=${DGXSYSTEM#config_}
export BENCHMARK=llama31_tiny RULESET=6.0.0
export PRECISION=${PRECISION:-fp32}

# On as many nodes as a job has (docs/slurm.md); two processes on each where there are two cores.
export DGXNNODES=${DGXNNODES:-1}
export DGXNGPU=${DGXNGPU:-$(($(nproc) < 2 ? 1 : 2))}
# The global batch size is 16 sequences on 1, 2, 4, 8 or 16 processes; the rules know no other. By awk, which takes whatever
# somebody has set for a number, so that it is refused by its name.
MINIBS=${MINIBS:-$(awk -v nodes="$DGXNNODES" -v each="$DGXNGPU" 'BEGIN { n = nodes * each; print (n > 0 ? int((15 + n) / n) : 1) }')}
MICRO_BATCH_SIZE=${MICRO_BATCH_SIZE:-$(awk -v all="$MINIBS" 'BEGIN { n = all + 0; print (n > 0 && n < 8 ? n : 8) }')}
export MINIBS MICRO_BATCH_SIZE

# Minutes of a job: some for each run.
export WALLTIME=${WALLTIME:-30}
