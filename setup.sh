#!/usr/bin/env bash
# Makes the environment that everything runs in and prints its interpreter, alone on stdout: PYTHON=$(bash setup.sh)
#
#   bash setup.sh          what a run needs, in .venv
#   bash setup.sh --dev    what the tests need, too
#   bash setup.sh --nemo   NeMo's environment, in .venv-nemo: 1.6 GB, for the tests that convert checkpoints with its code
#
# A second call finds the environment as it should be and returns at once; an interrupted one leaves no stamp, so the
# next starts over; concurrent ones wait for each other.
# HARNESS_PYTHON=<interpreter>: use that one as it is and install nothing (a container whose torch is the GPU's own build).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

say() { echo "setup: $*" >&2; }
# A machine or a call that cannot work is status 2; an installation that failed is 1.
refuse() {
  say "$*"
  exit 2
}

venv=.venv lock=requirements.lock locks=(requirements.lock requirements-dev.lock requirements-nodeps.lock) stamp=.run.stamp
case "$*" in
  "") ;;
  --dev) lock=requirements-dev.lock stamp=.dev.stamp ;;
  # NeMo's last release asks for an older Megatron-Core, NumPy and protobuf than the project, so it cannot share .venv.
  --nemo) venv=.venv-nemo lock=requirements-nemo.lock locks=(requirements-nemo.lock) ;;
  *) refuse "unknown arguments: $*; usage: bash setup.sh [--dev | --nemo]" ;;
esac

if [[ -n "${HARNESS_PYTHON:-}" && $venv == .venv ]]; then
  command -v "$HARNESS_PYTHON" || refuse "HARNESS_PYTHON=$HARNESS_PYTHON is not a program"
  exit
fi

torch=$(grep -o 'torch==[0-9.]*' pyproject.toml)

# What the environment is made from: these files, this folder (the scripts in bin/ name it) and this Python.
fingerprint() { (pwd && echo "$torch" && readlink -f $venv/bin/python && cat setup.sh "${locks[@]}") | sha256sum; }
up_to_date() { [[ -x $venv/bin/python && -f "$venv/$1" && "$(<"$venv/$1")" == "$(fingerprint)" ]]; }
finish() {
  echo "$PWD/$venv/bin/python"
  exit
}

# The first Python that is new enough; never that of a virtual environment, which may be the one that is replaced here.
find_python() {
  local name code='import sys; sys.exit("too old") if sys.version_info < (3, 11) else print(sys._base_executable)'
  for name in python3 python3.11 python3.12 python3.13; do
    if "$name" -c "$code" 2>/dev/null; then return; fi
  done
  refuse "needs Python 3.11 or newer; python3 here is: $(python3 --version 2>&1)"
}

create() {
  local base=$1
  # The lock file stays, because other calls may be waiting on it.
  find $venv -mindepth 1 -not -path $venv/.setup.lock -delete
  if "$base" -c 'import ensurepip' 2>/dev/null; then
    "$base" -m venv $venv
  elif "$base" -m pip --version >/dev/null 2>&1; then
    # Debian without python3-venv but with python3-pip, which can install into another environment.
    "$base" -m venv --without-pip $venv
  else
    refuse "$base can make no virtual environment; on Debian or Ubuntu: apt-get install python3-venv"
  fi
}

install() {
  local base=$1 pip=("$venv/bin/python" -m pip)
  if ! $venv/bin/python -c 'import pip' 2>/dev/null; then
    pip=("$base" -m pip --python "$venv/bin/python")
  fi
  if [[ $venv == .venv-nemo ]]; then
    # This lock is complete: nothing is resolved, and nothing that it leaves out is installed.
    "${pip[@]}" install --no-compile --no-deps -r $lock "$torch"
  else
    # One command with torch, so that pip weighs them together; torch's build is the machine's choice, so no lock names it.
    "${pip[@]}" install -r $lock "$torch" &&
      "${pip[@]}" install --no-deps -r requirements-nodeps.lock
  fi
}

if up_to_date $stamp; then finish; fi

mkdir -p $venv
# In this order: another setup.sh, which may be doing the same, puts its lock there before anything else. It is not named
# .lock, because packages and other installers have files of that name.
if [[ -n "$(ls -A $venv)" && ! -e $venv/.setup.lock ]]; then
  refuse "$PWD/$venv is there and was not made by setup.sh; move it away"
fi
exec 9>>$venv/.setup.lock
if ! flock --nonblock 9; then
  say "waiting for another setup.sh in $PWD"
  flock 9
  if up_to_date $stamp; then finish; fi
fi

SECONDS=0
python=$(find_python)
if up_to_date .run.stamp; then
  rm -f $venv/.*.stamp
else
  say "creating $PWD/$venv with $("$python" --version)"
  # First of all, so that a half-deleted environment is never trusted.
  rm -f $venv/.*.stamp
  create "$python"
fi
say "installing the packages of $lock, one to three minutes; details in $venv/setup.log"
if ! install "$python" >$venv/setup.log 2>&1; then
  tail -n 20 $venv/setup.log >&2
  # What pip says when there is no answer, rather than a wrong one.
  if grep -qiE 'connection (broken|error)|timed out' $venv/setup.log; then refuse "the package index cannot be reached"; fi
  say "installation failed, see above; all of it is in $PWD/$venv/setup.log"
  exit 1
fi
fingerprint >$venv/.run.stamp
if [[ $stamp != .run.stamp ]]; then fingerprint >"$venv/$stamp"; fi
say "done in $SECONDS s"
finish
