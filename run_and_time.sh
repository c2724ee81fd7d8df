#!/usr/bin/env bash
# One benchmark run, or NEXP of them, from nothing to checked results.
#
#   bash run_and_time.sh                                    the tiny model of config_tiny.sh, on this machine
#   source config_<SYSTEM>.sh && bash run_and_time.sh       another configuration, on this machine
#
# Inside a job that has set torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), it is one rank;
# with RESULT_FILE alone, all ranks of one run on one node.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$(bash "$root/setup.sh")
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

if [[ -n ${RANK:-} ]]; then
  exec "$python" -m benchmark.launch.bind "${LOCAL_RANK:-0}" "${LOCAL_WORLD_SIZE:-1}" "$python" -m reference_impl.pretrain
elif [[ -n ${RESULT_FILE:-} ]]; then
  exec "$python" -m reference_impl.pretrain
elif [[ -n ${DGXSYSTEM:-} ]]; then
  exec "$python" -m benchmark run
else
  exec "$python" -m benchmark run "$root/config_tiny.sh"
fi
