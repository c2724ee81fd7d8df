# 10,240 GB200: there is no published result. It shows that a rehearsal works at any size.
source "$(dirname "${BASH_SOURCE[0]}")/../config_common.sh"
export BENCHMARK=llama31_405b RULESET=6.0.0
export DGXNNODES=2560 DGXNGPU=4
export TENSOR_MODEL_PARALLEL=4 PIPELINE_MODEL_PARALLEL=8 INTERLEAVED_PIPELINE=8 CONTEXT_PARALLEL=2
export MINIBS=8 MICRO_BATCH_SIZE=1
export GRAD_REDUCE_IN_FP32=False
export WALLTIME=${WALLTIME:-60}
