# 4,096 GB300: nobody has published one; the layout is that of NVIDIA's 512.
source "$(dirname "${BASH_SOURCE[0]}")/config_common.sh"
export BENCHMARK=llama31_405b
export DGXNNODES=1024 DGXNGPU=4
export TENSOR_MODEL_PARALLEL=2 PIPELINE_MODEL_PARALLEL=8 INTERLEAVED_PIPELINE=8 CONTEXT_PARALLEL=2
export MINIBS=8 MICRO_BATCH_SIZE=1
export PRECISION=nvfp4
export GRAD_REDUCE_IN_FP32=False
export WALLTIME=${WALLTIME:-60}
