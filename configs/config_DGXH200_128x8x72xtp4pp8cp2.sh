# 1,024 H200 141GB, like Nebius's v5.0 result, which took 107 minutes.
# Weights are kept only in fp8, as in that run. With bf16 copies, it would fit only with some recomputation.
source "$(dirname "${BASH_SOURCE[0]}")/../config_common.sh"
export BENCHMARK=llama31_405b RULESET=6.0.0
export DGXNNODES=128 DGXNGPU=8
export TENSOR_MODEL_PARALLEL=4 PIPELINE_MODEL_PARALLEL=8 INTERLEAVED_PIPELINE=8 CONTEXT_PARALLEL=2
export MINIBS=72 MICRO_BATCH_SIZE=1
export PRECISION=fp8
export FP8_PARAM_GATHER=True
export GRAD_REDUCE_IN_FP32=False
export WALLTIME=${WALLTIME:-190}
