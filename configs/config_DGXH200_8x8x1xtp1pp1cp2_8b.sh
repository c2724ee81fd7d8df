# 64 H200, like HPE's v5.1 result, which took 37 minutes; layout, precision, learning rate and warm-up are those of its logs.
# That run used a CUDA graph of the whole iteration. FULL_CUDA_GRAPH=True makes one here.
# That run kept and gathered its weights in fp8 (FP8_PARAM_GATHER here). It also fits without.
source "$(dirname "${BASH_SOURCE[0]}")/../config_common.sh"
export BENCHMARK=llama31_8b RULESET=6.1.0
export DGXNNODES=8 DGXNGPU=8
export CONTEXT_PARALLEL=2
export MINIBS=1 MICRO_BATCH_SIZE=1
export PRECISION=fp8
export GRAD_REDUCE_IN_FP32=False
export WARMUP_STEPS=96
export WALLTIME=${WALLTIME:-70}
