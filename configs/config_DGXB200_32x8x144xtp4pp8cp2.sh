# 256 B200 180GB, like the University of Florida's v5.1 result, which took 241 minutes.
source "$(dirname "${BASH_SOURCE[0]}")/../config_common.sh"
export BENCHMARK=llama31_405b RULESET=6.0.0
export DGXNNODES=32 DGXNGPU=8
export TENSOR_MODEL_PARALLEL=4 PIPELINE_MODEL_PARALLEL=8 INTERLEAVED_PIPELINE=8 CONTEXT_PARALLEL=2
export MINIBS=144 MICRO_BATCH_SIZE=1
export PRECISION=fp8
export GRAD_REDUCE_IN_FP32=False
export WALLTIME=${WALLTIME:-340}
