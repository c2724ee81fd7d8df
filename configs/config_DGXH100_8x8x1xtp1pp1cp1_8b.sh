# 64 H100, like Cisco's v5.1 result, which took 44 minutes, without CUDA graphs and with its weights in fp8.
# We chose the reference's learning rate and warm-up at this batch size.
source "$(dirname "${BASH_SOURCE[0]}")/../config_common.sh"
export BENCHMARK=llama31_8b RULESET=6.1.0
export DGXNNODES=8 DGXNGPU=8
export MINIBS=1 MICRO_BATCH_SIZE=1
export PRECISION=fp8
export FP8_PARAM_GATHER=True
export GRAD_REDUCE_IN_FP32=False
export WALLTIME=${WALLTIME:-80}
