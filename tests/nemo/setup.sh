#!/usr/bin/env bash
# Makes NeMo's environment, .venv-nemo, and prints its interpreter, alone on stdout: bash tests/nemo/setup.sh
#
# NeMo's last release asks for an older Megatron-Core, NumPy and protobuf than the project, so it cannot share .venv.
# A second call finds the environment as it should be and returns at once; an interrupted one leaves no stamp, so the
# next starts over; concurrent ones wait for each other. uv installs where it is there, else pip.
# Exit status: 1 the installation failed, 2 it cannot be tried here, 3 the package index cannot be reached.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

say() { echo "tests/nemo/setup: $*" >&2; }
leave() {
  say "${*:2}"
  exit "$1"
}

venv=.venv-nemo lock=requirements-nemo.lock log=.venv-nemo/setup.log
base=${HARNESS_PYTHON:-.venv/bin/python}
command -v "$base" >/dev/null || leave 2 "$base is not there; bash setup.sh makes it"
torch=$(grep -o 'torch==[0-9.]*' pyproject.toml)

fingerprint() { (pwd && echo "$torch" && readlink -f $venv/bin/python && cat tests/nemo/setup.sh $lock) | sha256sum; }
up_to_date() { [[ -x $venv/bin/python && -f $venv/.stamp && "$(<$venv/.stamp)" == "$(fingerprint)" ]]; }
finish() {
  echo "$PWD/$venv/bin/python"
  exit
}

# The lock file is complete, so that nothing is resolved and nothing that it leaves out is installed.
install() {
  if command -v uv >/dev/null; then
    # uv has its own name for the folder of a machine's torch build.
    local wheels=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}
    uv pip install ${wheels:+--find-links "$wheels"} --python $venv/bin/python --no-deps -r $lock "$torch"
  else
    "$base" -m pip --python $venv/bin/python install --no-compile --no-deps -r $lock "$torch"
  fi
}

# What pip and uv say when there is no answer, rather than a wrong one.
unreachable='connection broken by|error sending request|dns error|Failed to (fetch|connect)|timed out'

if up_to_date; then finish; fi

mkdir -p $venv
# In this order: another call, which may be doing the same, puts its lock there before anything else.
if [[ -n "$(ls -A $venv)" && ! -e $venv/.setup.lock ]]; then
  leave 2 "$PWD/$venv is there and was not made by tests/nemo/setup.sh; move it away"
fi
exec 9>>$venv/.setup.lock
if ! flock --nonblock 9; then
  say "waiting for another tests/nemo/setup.sh in $PWD"
  flock 9
  if up_to_date; then finish; fi
fi

SECONDS=0
say "installing the packages of $lock into $PWD/$venv, 1.6 GB, one to three minutes; details in $log"
# First of all, so that a half-deleted environment is never trusted. The lock file stays: others may be waiting on it.
# It is not named .lock, because uv locks an environment by a file of that name.
rm -f $venv/.stamp
find $venv -mindepth 1 -not -path $venv/.setup.lock -delete
"$base" -m venv --without-pip $venv
if ! install >$log 2>&1; then
  tail -n 20 $log >&2
  if grep -qE "$unreachable" $log; then leave 3 "the package index cannot be reached"; fi
  leave 1 "installation failed, see above; all of it is in $PWD/$log"
fi
fingerprint >$venv/.stamp
say "done in $SECONDS s"
finish
