# 256 B200 180GB, as the University of Florida's in v5.1: 241 minutes, there in fp8.
source "$(dirname "${BASH_SOURCE[0]}")/config_common.sh"
export BENCHMARK=llama31_405b
export DGXNNODES=32 DGXNGPU=8
export TENSOR_MODEL_PARALLEL=4 PIPELINE_MODEL_PARALLEL=8 INTERLEAVED_PIPELINE=8 CONTEXT_PARALLEL=2
export MINIBS=144 MICRO_BATCH_SIZE=1
export WALLTIME=${WALLTIME:-360}
