# 8 B300 in fp8, as Dell's in v5.1: 93 minutes; Nebius's in nvfp4 took 73.
# It ran with a CUDA graph of the whole iteration, which this trainer has not.
# Learning rate and warm-up are ours: those of the reference at this batch size.
source "$(dirname "${BASH_SOURCE[0]}")/../config_common.sh"
export BENCHMARK=llama31_8b RULESET=6.1.0
export DGXNNODES=1 DGXNGPU=8
export MINIBS=2 MICRO_BATCH_SIZE=2
export PRECISION=fp8
export GRAD_REDUCE_IN_FP32=False
export WALLTIME=${WALLTIME:-150}
