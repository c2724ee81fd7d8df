#!/usr/bin/env bash
# The one test command: bash run_tests.sh [--slow] [pytest arguments]. The first stage that fails ends it.
# Without --slow, lint, types, shell and tests of everything, in minutes. With it, the tests that are left out then, and only
# those: what needs an environment of its own (NeMo, Slurm, a browser, a GPU; skipped where it is not there) or trains for minutes.
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
# The shell checker is a program beside the interpreter.
PATH=$(dirname "$PYTHON"):$PATH

if [[ $tests == "not slow" ]]; then
  stage "ruff check"
  "$PYTHON" -m ruff check .

  stage "ruff format --check"
  "$PYTHON" -m ruff format --check .

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
# Three at a time, a file by itself, in the order of tests/conftest.py: fixtures are made once a file, and much waits for
# other processes, so that two cores are busy with three.
"$PYTHON" -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder -m "$tests" "$@"
