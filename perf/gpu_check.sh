#!/usr/bin/env bash
# Ten minutes on a GPU machine: what the trainer does there, each part recorded below OUT; 1 if one failed.
#
#   bash perf/gpu_check.sh [OUT]        OUT is gpu_check/ if not given; docs/gpu.md has the figures of the last time
#
# PYTHON=<interpreter> has torch for CUDA (python3 if not set). WHEELS=<folder> of wheels that it lacks, for a machine without
# a network: python3 -m pip download -d wheels --no-deps megatron-core==... pydantic==... and what else the first line misses.
set -euo pipefail
cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
out=${1:-gpu_check}
mkdir -p "$out"
failed=()

# A part, with its seconds at most; what it prints is shown and kept.
part() {
  local name=$1 seconds=$2 status=0
  shift 2
  echo "== $name: $*"
  timeout "$seconds" "$@" > >(tee "$out/$name.txt") 2>&1 || status=$?
  if ((status)); then
    echo "== $name ended with status $status"
    failed+=("$name")
  fi
}

if [[ -n ${WHEELS:-} ]]; then
  part install 60 "$python" -m pip install --quiet --no-index --no-deps "$WHEELS"/*.whl
fi
part machine 30 "$python" -m harness doctor
part tests 180 "$python" -m pytest tests/gpu -x -rs -m slow -p no:cacheprovider
part check 150 "$python" -m perf.gpu_check
part layers 180 "$python" -m perf.gpu_layers --layer-spec torch

if ((${#failed[@]})); then
  echo "FAIL  ${failed[*]}; all that was printed is in $out"
  exit 1
fi
echo "PASS  all that was printed is in $out"
