#!/usr/bin/env bash
# Runs all checks: bash run_tests.sh [--slow] [pytest arguments]. It ends at the first stage that fails.
# Without --slow: lint, types, shell, and the quick tests, in minutes. With --slow: only the remaining tests. They train for
# minutes, or need an environment of their own (NeMo, Slurm, a browser, a GPU) and are skipped without it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

tests="not slow"
if [[ ${1:-} == --slow ]]; then
  tests="slow"
  shift
fi

stage() {
  echo "== $*" >&2
}

stage "environment"
PYTHON=$(bash setup.sh --dev)
# The interpreter's folder also has the program shellcheck.
PATH=$(dirname "$PYTHON"):$PATH

if [[ $tests == "not slow" ]]; then
  stage "ruff check"
  "$PYTHON" -m ruff check .

  stage "ruff format --check"
  "$PYTHON" -m ruff format --check .

  stage "codespell"
  "$PYTHON" -m codespell_lib .

  stage "mypy"
  "$PYTHON" -m mypy benchmark compliance report harness reference_impl perf nullcuda tests

  stage "shellcheck"
  if ! command -v shellcheck >/dev/null; then
    echo "run_tests.sh: no shellcheck; on Debian or Ubuntu: apt-get install shellcheck" >&2
    exit 2
  fi
  find . \( -name .git -o -path './.venv*' -o -path ./data -o -path ./results \) -prune -o \
    -type f \( -name '*.sh' -o -name run.sub -o -path ./.ci/run \) -print0 |
    xargs -0 shellcheck --shell=bash --external-sources --source-path=SCRIPTDIR
fi

stage "pytest, $tests"
# Three processes, because many tests wait for other processes and two would leave two cores idle. Each test file stays in one
# process (loadfile), so that its fixtures are made once. tests/conftest.py decides the order.
"$PYTHON" -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder -m "$tests" "$@"
