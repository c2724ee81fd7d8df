# 64 H100, as Cisco's in v5.1: 44 minutes. It ran without CUDA graphs and with its weights in fp8.
# Learning rate and warm-up are ours: those of the reference at this batch size.
source "$(dirname "${BASH_SOURCE[0]}")/../config_common.sh"
export BENCHMARK=llama31_8b RULESET=6.1.0
export DGXNNODES=8 DGXNGPU=8
export MINIBS=1 MICRO_BATCH_SIZE=1
export PRECISION=fp8
export FP8_PARAM_GATHER=True
export GRAD_REDUCE_IN_FP32=False
export WALLTIME=${WALLTIME:-80}
