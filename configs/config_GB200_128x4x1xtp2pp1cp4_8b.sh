# 512 GB200, like NVIDIA's v5.1 result, which took 5.3 minutes.
# That run used a CUDA graph of the whole iteration. FULL_CUDA_GRAPH=True makes one here.
# The warm-up is that of its logs; the reference's is 96 steps.
source "$(dirname "${BASH_SOURCE[0]}")/../config_common.sh"
export BENCHMARK=llama31_8b RULESET=6.1.0
export DGXNNODES=128 DGXNGPU=4
export TENSOR_MODEL_PARALLEL=2 CONTEXT_PARALLEL=4
export MINIBS=1 MICRO_BATCH_SIZE=1
export PRECISION=fp8
export GRAD_REDUCE_IN_FP32=False
export WARMUP_STEPS=64
export WALLTIME=${WALLTIME:-30}
