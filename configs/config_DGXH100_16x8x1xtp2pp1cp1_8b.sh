# 128 H100 at TP 2, a shape that was submitted; no step of it is in the tables that the planner was fitted to.
# We chose the precision of Cisco's 64 H100 in v5.1, and the reference's learning rate and warm-up at this batch size.
source "$(dirname "${BASH_SOURCE[0]}")/../config_common.sh"
export BENCHMARK=llama31_8b RULESET=6.1.0
export DGXNNODES=16 DGXNGPU=8
export TENSOR_MODEL_PARALLEL=2
export MINIBS=1 MICRO_BATCH_SIZE=1
export PRECISION=fp8
export GRAD_REDUCE_IN_FP32=False
export WALLTIME=${WALLTIME:-60}
