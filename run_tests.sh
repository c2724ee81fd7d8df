#!/usr/bin/env bash
# The one test command: bash run_tests.sh [pytest arguments]. The first stage that fails ends it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

stage() {
  echo "== $*" >&2
}

stage "environment"
PYTHON=$(bash setup.sh --dev)
# The shell checker is a program beside the interpreter.
PATH=$(dirname "$PYTHON"):$PATH

stage "ruff check"
"$PYTHON" -m ruff check .

stage "ruff format --check"
"$PYTHON" -m ruff format --check .

stage "mypy"
"$PYTHON" -m mypy benchmark compliance reference_impl perf tests

stage "shellcheck"
find . \( -name .git -o -path './.venv*' -o -path ./data -o -path ./results \) -prune -o \
  -type f \( -name '*.sh' -o -name run.sub -o -path ./.ci/run \) -print0 |
  xargs -0 shellcheck --shell=bash --external-sources

stage "pytest"
# Three at a time, a file by itself, in the order of tests/conftest.py: fixtures are made once a file, and much waits for
# other processes, so that two cores are busy with three.
"$PYTHON" -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder "$@"
