# 1,024 H200 141GB, as Nebius's in v5.0: 107 minutes. Its weights were kept in fp8; here the norms are computed again to make room.
source "$(dirname "${BASH_SOURCE[0]}")/../config_common.sh"
export BENCHMARK=llama31_405b RULESET=6.0.0
export DGXNNODES=128 DGXNGPU=8
export TENSOR_MODEL_PARALLEL=4 PIPELINE_MODEL_PARALLEL=8 INTERLEAVED_PIPELINE=8 CONTEXT_PARALLEL=2
export MINIBS=72 MICRO_BATCH_SIZE=1
export PRECISION=fp8
export RECOMPUTE_GRANULARITY=selective
export RECOMPUTE_MODULES=layernorm
export GRAD_REDUCE_IN_FP32=False
export WALLTIME=${WALLTIME:-170}
