#!/usr/bin/env bash
# Makes the environment that everything runs in and prints its interpreter, alone on stdout: PYTHON=$(bash setup.sh)
#
#   bash setup.sh          what a run needs, in .venv
#   bash setup.sh --dev    what the tests need, too
#   bash setup.sh --host   what the batch host of a job in containers needs, in .venv-host: no torch (docs/slurm.md)
#   bash setup.sh --nemo   NeMo's environment, in .venv-nemo: 1.6 GB, for the tests that convert checkpoints with its code
#   bash setup.sh --null-gpu   what `llama31 dryrun` needs, in .venv-null: CUDA's torch and Transformer Engine on a null device; 900 MB
#                          down, 2.5 GB on disk, a minute or two of g++ (nullcuda/README.md)
#   bash setup.sh --made [--host | --null-gpu]    installs nothing: status 2 where the environment is missing or out of date
#
# A second call finds the environment as it should be and returns at once; an interrupted one leaves no stamp, so the
# next starts over; concurrent ones wait for each other. pip's own variables and files are honoured (PIP_INDEX_URL,
# PIP_NO_INDEX, PIP_FIND_LINKS ...).
#
# HARNESS_PYTHON=<interpreter>   use that one as it is and install nothing (a container whose torch is the GPU's own build)
# SETUP_PYTHON=<interpreter>     make the environment from that one, Python 3.11 or newer
# TORCH_INDEX_URL=<address>      where torch's CPU build comes from; empty: the index of all other packages
set -euo pipefail
unset CDPATH
cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")"

# Some 200 MB, where the public index has a build for NVIDIA GPUs of 5 GB.
TORCH_CPU_INDEX=${TORCH_INDEX_URL-https://download.pytorch.org/whl/cpu}

# To whoever called, also where standard error is pip's and goes to its log.
exec 8>&2
say() { echo "setup: $*" >&8; }
# A machine or a call that cannot work is status 2; an installation that failed is 1.
refuse() {
  say "$*"
  exit 2
}

made=
# Beside the locks, what an environment is made from.
sources=()
if [[ ${1-} == --made ]]; then
  made=only
  shift
fi
venv=.venv lock=requirements.lock locks=(requirements-host.lock requirements.lock requirements-dev.lock requirements-nodeps.lock)
stamp=.run.stamp option=
case "$*" in
  "") ;;
  -h | --help)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' setup.sh
    exit
    ;;
  --dev) lock=requirements-dev.lock stamp=.dev.stamp option=" --dev" ;;
  --host) venv=.venv-host lock=requirements-host.lock locks=(requirements-host.lock) option=" --host" ;;
  # NeMo's last release asks for an older Megatron-Core, NumPy and protobuf than the project, so it cannot share .venv.
  --nemo) venv=.venv-nemo lock=requirements-nemo.lock locks=(requirements-nemo.lock) option=" --nemo" ;;
  # Its torch is CUDA's, so it cannot share .venv either.
  --null-gpu)
    venv=.venv-null lock=requirements-null.lock locks=(requirements.lock requirements-null.lock) stamp=.null.stamp option=" --null-gpu"
    sources=(nullcuda/build*.sh nullcuda/device/* nullcuda/headers/*.h)
    ;;
  *) refuse "unknown arguments: $*; usage: bash setup.sh [--made] [--dev | --host | --nemo | --null-gpu | --help]" ;;
esac

if [[ -n "${HARNESS_PYTHON:-}" && $venv != .venv-n* ]]; then
  command -v -- "$HARNESS_PYTHON" || refuse "HARNESS_PYTHON=$HARNESS_PYTHON is not a program"
  exit
fi

case "$(uname -sm)" in
  "Linux x86_64" | "Linux aarch64") ;;
  *) refuse "needs Linux on x86-64 or aarch64, not $(uname -sm); elsewhere, use WSL2 or the container of the Dockerfile" ;;
esac

torch=$(grep -o 'torch==[0-9.]*' pyproject.toml)

# What the environment is made from: these files, this folder (the scripts in bin/ name it) and this Python.
packages() { pwd && echo "$torch" && readlink -f $venv/bin/python && cat setup.sh "${locks[@]}"; }
fingerprint() { { packages && if [[ $1 == .null.stamp ]]; then cat "${sources[@]}"; fi; } | sha256sum; }
up_to_date() { [[ -x $venv/bin/python && -f "$venv/$1" && "$(<"$venv/$1")" == "$(fingerprint "$1")" ]]; }
finish() {
  echo "$PWD/$venv/bin/python"
  exit
}

# The first Python that is new enough; never that of a virtual environment, which may be the one that is replaced here.
find_python() {
  local name names=(python3 python3.11 python3.12 python3.13)
  local code='import sys; sys.exit("too old") if sys.version_info < (3, 11) else print(sys._base_executable)'
  if [[ -n ${SETUP_PYTHON:-} ]]; then names=("$SETUP_PYTHON"); fi
  for name in "${names[@]}"; do
    if "$name" -c "$code" 2>/dev/null; then return; fi
  done
  refuse "needs Python 3.11 or newer; ${names[0]} here is: $("${names[0]}" --version 2>&1); to name another:" \
    "SETUP_PYTHON=/path/to/python3.11 bash setup.sh$option"
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

# Where pip has been told to look, in any of its files or variables; empty where it has not.
own_index() {
  "${pip[@]}" config list 2>/dev/null | grep -oE "(index-url|extra-index-url|find-links)='[^']+'|no-index='(1|true|yes|on)'"
}

# torch's build for this machine. Without a GPU the CPU's is enough, a twentieth of the other, if nobody has told pip
# where to look; what is installed here satisfies what is asked for below.
install_torch() {
  local own
  if [[ -e /proc/driver/nvidia/version || -e /dev/nvidiactl ]]; then
    say "$torch for this machine's NVIDIA GPU: about 5 GB with its CUDA libraries"
  elif own=$(own_index); then
    say "$torch from where pip is told to look ($(head -n 1 <<<"$own")): about 200 MB, or 5 GB if its build is for CUDA"
  elif [[ -z $TORCH_CPU_INDEX ]]; then
    say "$torch from the public index, since TORCH_INDEX_URL is empty: about 5 GB with CUDA libraries"
  else
    say "$torch for CPUs, since there is no NVIDIA GPU: about 200 MB from $TORCH_CPU_INDEX"
    "${pip[@]}" install --retries 1 --timeout 20 --no-deps --index-url "$TORCH_CPU_INDEX" "$torch" ||
      say "$TORCH_CPU_INDEX has no $torch for this machine, or cannot be reached; the public index has: about 5 GB"
  fi
}

# CUDA's torch without CUDA, and in its place a device that counts.
install_null_gpu() {
  if ! up_to_date .run.stamp; then
    # Exactly that version of torch: a build for CPUs, where pip finds one, calls itself a later one. Nothing is compiled to
    # bytecode, nor kept by pip, which would take longer than all else.
    locked_packages --no-compile --no-cache-dir -r requirements.lock -r $lock &&
      "${pip[@]}" install --no-compile --no-cache-dir --no-deps "${torch/==/===}" &&
      fingerprint .run.stamp >$venv/.run.stamp || return
  fi
  echo "Building the null device" &&
    bash nullcuda/build.sh "$("$PWD/$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" &&
    bash nullcuda/build_te.sh "$PWD/$venv/bin/python"
}

# The locks are complete: nothing is resolved, and no file is installed that is not one of those that were locked. torch is no
# part of them: its build is the machine's choice (CPU or CUDA, public index or local wheel), and each has a checksum of its own.
locked_packages() {
  "${pip[@]}" install --require-hashes --no-deps "$@"
}

install() {
  if [[ $venv == .venv-null ]]; then
    install_null_gpu
    return
  fi
  if [[ $venv == .venv-nemo ]]; then
    locked_packages --no-compile -r $lock && "${pip[@]}" install --no-compile --no-deps "$torch"
    return
  fi
  if [[ $venv == .venv-host ]]; then
    locked_packages -r $lock
  else
    install_torch
    # torch comes last: what it asks for is in the lock, but for CUDA's libraries, which come with its build.
    locked_packages -r $lock &&
      locked_packages -r requirements-nodeps.lock &&
      "${pip[@]}" install "$torch"
  fi && "${pip[@]}" install --no-deps --no-build-isolation --editable .
}

# Says what pip is doing, every so often, until its own standard input ends.
report() {
  local status
  while status=0 && read -rt 15 _ || status=$? && ((status > 128)); do
    say "$SECONDS s: $(grep -E '^ *(Downloading|Collecting|Installing|Building|Processing)' $venv/setup.log | tail -n 1 | cut -c 1-100)"
  done
}

if [[ -L $venv ]]; then
  refuse "$PWD/$venv is a link; an environment belongs to one checkout: remove the link, and call again"
fi
if up_to_date $stamp; then finish; fi
if [[ -n $made ]]; then
  refuse "$PWD/$venv is missing or out of date: bash setup.sh$option makes it, where there is a package index"
fi

if ! mkdir -p $venv 2>/dev/null || [[ ! -w $venv ]]; then
  refuse "$PWD cannot be written; a checkout that is read-only runs with HARNESS_PYTHON=<an interpreter that has it all>," \
    "DATADIR=<the dataset's folder> and LOGDIR=<where results go>"
fi
# In this order: another setup.sh, which may be doing the same, puts its lock there before anything else. It is not named
# .lock, because packages and other installers have files of that name.
if [[ -n "$(ls -A $venv)" && ! -e $venv/.setup.lock ]]; then
  refuse "$PWD/$venv is there and was not made by setup.sh; move it away"
fi
exec 9>>$venv/.setup.lock
locked=0
flock --nonblock 9 2>/dev/null || locked=$?
if ((locked == 1)); then
  say "waiting for another setup.sh in $PWD"
  flock 9
  if up_to_date $stamp; then finish; fi
elif ((locked != 0)); then
  say "no locks on this file system (flock ended with status $locked): see to it that only one setup.sh runs here"
fi

SECONDS=0
# Neither a variable nor a file may send packages to the user's own folder, which this environment does not see.
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1
python=$(find_python)
if [[ $venv == .venv-null ]]; then
  for tool in g++ nm readelf strings; do
    command -v $tool >/dev/null || refuse "the null device is built here, by $tool, which is missing; on Debian or Ubuntu: apt-get install g++"
  done
  if ! up_to_date .run.stamp; then say "about 900 MB for 2.5 GB on disk: CUDA's torch without CUDA, and Transformer Engine"; fi
fi
if up_to_date .run.stamp && [[ $venv == .venv-null ]]; then
  # Its packages stay when only the device is built anew.
  rm -f $venv/$stamp
elif up_to_date .run.stamp; then
  rm -f $venv/.*.stamp
else
  say "creating $PWD/$venv with $("$python" --version)"
  # First of all, so that a half-deleted environment is never trusted.
  rm -f $venv/.*.stamp
  create "$python"
fi
pip=("$PWD/$venv/bin/python" -m pip)
if ! "${pip[@]}" --version >/dev/null 2>&1; then
  pip=("$python" -m pip --python "$PWD/$venv/bin/python")
fi
say "installing the packages of $lock; details in $venv/setup.log"
: >$venv/setup.log
exec {reporting}> >(report)
failed=0
install >>$venv/setup.log 2>&1 || failed=$?
exec {reporting}>&-
if ((failed)); then
  tail -n 20 $venv/setup.log >&2
  # What pip says when there is no answer, rather than a wrong one.
  if grep -qiE 'connection (broken|error)|timed out' $venv/setup.log; then refuse "the package index cannot be reached"; fi
  say "installation failed, see above; all of it is in $PWD/$venv/setup.log"
  exit 1
fi
fingerprint .run.stamp >$venv/.run.stamp
if [[ $stamp != .run.stamp ]]; then fingerprint "$stamp" >"$venv/$stamp"; fi
say "done in $SECONDS s"
finish
