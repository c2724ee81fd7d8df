# Llama 3.1 8B on the 8 B200 of one node, each with a whole copy of the model.
source "$(dirname "${BASH_SOURCE[0]}")/../config_common.sh"
export BENCHMARK=llama31_8b RULESET=6.1.0
export DGXNNODES=1 DGXNGPU=8
export MINIBS=4 MICRO_BATCH_SIZE=1
export WALLTIME=${WALLTIME:-430}
