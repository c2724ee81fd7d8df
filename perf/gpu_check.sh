#!/usr/bin/env bash
# Checks and measures the trainer on a GPU machine, in ten minutes. It records each part below OUT and exits with 1 if one failed.
#
#   bash perf/gpu_check.sh [OUT]        OUT is gpu_check/ if not given; docs/gpu.md says what the parts check
#
# PYTHON=<interpreter> has torch for CUDA (default: python3). On a machine without a network, WHEELS=<folder> has the wheels that
# it lacks: python3 -m pip download -d wheels --no-deps megatron-core==... pydantic==... and whatever else the first part misses.
set -euo pipefail
cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
out=${1:-gpu_check}
mkdir -p "$out"
failed=()

# Runs one part with a time limit in seconds; shows and keeps its output.
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
  echo "FAIL  ${failed[*]}; the output is in $out"
  exit 1
fi
echo "PASS  the output is in $out"
