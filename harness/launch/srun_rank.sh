#!/usr/bin/env bash
# Translates srun's variables to torchrun's for one rank: srun ... bash srun_rank.sh COMMAND. No other script knows both.
set -euo pipefail

export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE=$DGXNGPU
exec "$@"
