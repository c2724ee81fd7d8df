# The default: a tiny Llama 3.1 on a bare CPU machine, in minutes. Set any of these variables beforehand to change it.
DGXSYSTEM=$(basename "${BASH_SOURCE[0]}" .sh)
export DGXSYSTEM=${DGXSYSTEM#config_}
export BENCHMARK=llama31_tiny RULESET=6.0.0
export PRECISION=${PRECISION:-fp32}

export DGXNNODES=${DGXNNODES:-1}
# Two processes where there are two cores; the global batch size is 16 sequences either way.
if (($(nproc) >= 2)); then
  export DGXNGPU=${DGXNGPU:-2} MINIBS=${MINIBS:-8}
else
  export DGXNGPU=${DGXNGPU:-1} MINIBS=${MINIBS:-16}
fi
export MICRO_BATCH_SIZE=${MICRO_BATCH_SIZE:-8}
