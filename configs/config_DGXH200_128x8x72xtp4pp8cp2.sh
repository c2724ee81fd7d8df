# 1,024 H200 141GB, as Nebius's in v5.0: 107 minutes.
# Weights in fp8 alone, as that run had them; with bf16 ones beside, it fits with some layers computed again only.
source "$(dirname "${BASH_SOURCE[0]}")/../config_common.sh"
export BENCHMARK=llama31_405b RULESET=6.0.0
export DGXNNODES=128 DGXNGPU=8
export TENSOR_MODEL_PARALLEL=4 PIPELINE_MODEL_PARALLEL=8 INTERLEAVED_PIPELINE=8 CONTEXT_PARALLEL=2
export MINIBS=72 MICRO_BATCH_SIZE=1
export PRECISION=fp8
export FP8_PARAM_GATHER=True
export GRAD_REDUCE_IN_FP32=False
export WALLTIME=${WALLTIME:-190}
