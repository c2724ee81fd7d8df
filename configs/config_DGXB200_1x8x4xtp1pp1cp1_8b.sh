# 8 B200 in bf16, each with a whole copy of the model. We chose this shape, since every published run is in fp8 or nvfp4.
# It needs only bf16 from a GPU. The batch size is 32, and gradients are fp32.
source "$(dirname "${BASH_SOURCE[0]}")/../config_common.sh"
export BENCHMARK=llama31_8b RULESET=6.1.0
export DGXNNODES=1 DGXNGPU=8
export MINIBS=4 MICRO_BATCH_SIZE=1
export WALLTIME=${WALLTIME:-270}
