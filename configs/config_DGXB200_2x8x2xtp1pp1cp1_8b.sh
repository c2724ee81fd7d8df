# 16 B200, like Dell's v5.1 result, which took 61 minutes.
# That run used a CUDA graph of the whole iteration. FULL_CUDA_GRAPH=True makes one here.
# We chose the reference's learning rate and warm-up at this batch size.
source "$(dirname "${BASH_SOURCE[0]}")/../config_common.sh"
export BENCHMARK=llama31_8b RULESET=6.1.0
export DGXNNODES=2 DGXNGPU=8
export MINIBS=2 MICRO_BATCH_SIZE=2
export PRECISION=fp8
export GRAD_REDUCE_IN_FP32=False
export WALLTIME=${WALLTIME:-100}
