#!/usr/bin/env bash
# Makes the Python environment that everything runs in. Prints only its interpreter on stdout: PYTHON=$(bash setup.sh)
#
#   bash setup.sh          what a run needs, in .venv
#   bash setup.sh --dev    the same, and what the tests need
#   bash setup.sh --host   what the batch host of a job in containers needs, in .venv-host, without torch (docs/slurm.md)
#   bash setup.sh --nemo   NeMo's environment, in .venv-nemo: 1.6 GB, for the tests that convert checkpoints with its code
#   bash setup.sh --null-gpu   what `llama31 dryrun` needs, in .venv-null: the CUDA build of torch and Transformer Engine on a
#                          null device; downloads 900 MB, takes 2.5 GB on disk and a minute or two of g++ (nullcuda/README.md)
#   bash setup.sh --made [--host | --null-gpu]    only checks: exit status 2 if the environment is missing or out of date
#
# If the environment is up to date, a second call returns at once. After an interrupted call, the next one starts over.
# Concurrent calls wait for each other. pip's own variables and files are honoured (PIP_INDEX_URL, PIP_NO_INDEX,
# PIP_FIND_LINKS ...).
#
# HARNESS_PYTHON=<interpreter>   use this interpreter as it is and install nothing (a container with its own build of torch)
# SETUP_PYTHON=<interpreter>     make the environment from this Python, 3.11 or newer
# TORCH_INDEX_URL=<address>      the index of torch's CPU build; if empty, the index of all other packages
set -euo pipefail
unset CDPATH
cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")"

# This build takes about 200 MB. The public index has a build for NVIDIA GPUs, which takes 5 GB.
TORCH_CPU_INDEX=${TORCH_INDEX_URL-https://download.pytorch.org/whl/cpu}

# Descriptor 8 is the caller's standard error, even where standard error goes to pip's log.
exec 8>&2
say() { echo "setup: $*" >&8; }
# Status 2: this machine or call cannot work. Status 1: an installation failed.
refuse() {
  say "$*"
  exit 2
}

made=
# The files, besides the locks, that an environment is made from.
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
  # NeMo's last release needs an older Megatron-Core, NumPy and protobuf than the project, so it cannot share .venv.
  --nemo) venv=.venv-nemo lock=requirements-nemo.lock locks=(requirements-nemo.lock) option=" --nemo" ;;
  # It has the CUDA build of torch, so it cannot share .venv either.
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

# Everything that the environment depends on: these files, this folder (the scripts in bin/ name it) and this Python.
packages() { pwd && echo "$torch" && readlink -f $venv/bin/python && cat setup.sh "${locks[@]}"; }
fingerprint() { { packages && if [[ $1 == .null.stamp ]]; then cat "${sources[@]}"; fi; } | sha256sum; }
up_to_date() { [[ -x $venv/bin/python && -f "$venv/$1" && "$(<"$venv/$1")" == "$(fingerprint "$1")" ]]; }
finish() {
  echo "$PWD/$venv/bin/python"
  exit
}

# Prints the first Python that is new enough. Never one in a virtual environment, which may be the one replaced here.
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
  # Keep the lock file: other calls may be waiting on it.
  find $venv -mindepth 1 -not -path $venv/.setup.lock -delete
  if "$base" -c 'import ensurepip' 2>/dev/null; then
    "$base" -m venv $venv
  elif "$base" -m pip --version >/dev/null 2>&1; then
    # Debian without python3-venv. Its python3-pip can install into another environment.
    "$base" -m venv --without-pip $venv
  else
    refuse "$base cannot make a virtual environment; on Debian or Ubuntu: apt-get install python3-venv"
  fi
}

# Prints the indexes that pip's files or variables name, or nothing.
own_index() {
  "${pip[@]}" config list 2>/dev/null | grep -oE "(index-url|extra-index-url|find-links)='[^']+'|no-index='(1|true|yes|on)'"
}

# Installs torch's CPU build if there is no GPU and pip has no index of its own. It has a twentieth of the size. `install`
# below then finds torch satisfied; in all other cases it installs torch itself.
install_torch() {
  local own
  if [[ -e /proc/driver/nvidia/version || -e /dev/nvidiactl ]]; then
    say "$torch for this machine's NVIDIA GPU: about 5 GB with its CUDA libraries"
  elif own=$(own_index); then
    say "$torch from pip's configured index ($(head -n 1 <<<"$own")): about 200 MB, or 5 GB if its build is for CUDA"
  elif [[ -z $TORCH_CPU_INDEX ]]; then
    say "$torch from the public index, since TORCH_INDEX_URL is empty: about 5 GB with CUDA libraries"
  else
    say "$torch for CPUs, since there is no NVIDIA GPU: about 200 MB from $TORCH_CPU_INDEX"
    "${pip[@]}" install --retries 1 --timeout 20 --no-deps --index-url "$TORCH_CPU_INDEX" "$torch" ||
      say "$TORCH_CPU_INDEX has no $torch for this machine or cannot be reached; using the public index instead: about 5 GB"
  fi
}

# Installs the CUDA build of torch without CUDA's libraries, and builds the null device in their place.
install_null_gpu() {
  if ! up_to_date .run.stamp; then
    # `===` rejects a CPU build, whose version (2.13.0+cpu) pip prefers. Compiling bytecode and filling pip's cache would take
    # longer than everything else.
    locked_packages --no-compile --no-cache-dir -r requirements.lock -r $lock &&
      "${pip[@]}" install --no-compile --no-cache-dir --no-deps "${torch/==/===}" &&
      fingerprint .run.stamp >$venv/.run.stamp || return
  fi
  echo "Building the null device" &&
    bash nullcuda/build.sh "$("$PWD/$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" &&
    bash nullcuda/build_te.sh "$PWD/$venv/bin/python"
}

# Installs from locks only. They are complete, so pip resolves nothing and installs only files whose hashes are locked. torch is
# not in them: its build depends on the machine (CPU or CUDA, public index or local wheel), and each build has its own checksum.
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
    # torch comes last: the locks have its dependencies, except CUDA's libraries, which come with its build.
    locked_packages -r $lock &&
      locked_packages -r requirements-nodeps.lock &&
      "${pip[@]}" install "$torch"
  fi && "${pip[@]}" install --no-deps --no-build-isolation --editable .
}

# Prints pip's current step every 15 seconds, until its standard input closes.
report() {
  local status steps='^ *(Downloading|Collecting|Installing|Building|Processing)'
  while status=0 && read -rt 15 _ || status=$? && ((status > 128)); do
    say "$SECONDS s: $({ grep -E "$steps" $venv/setup.log || echo "starting pip"; } | tail -n 1 | cut -c 1-100)"
  done
}

if [[ -L $venv ]]; then
  refuse "$PWD/$venv is a link, but an environment belongs to one checkout; remove the link and call again"
fi
if up_to_date $stamp; then finish; fi
if [[ -n $made ]]; then
  refuse "$PWD/$venv is missing or out of date: bash setup.sh$option makes it, on a machine that reaches a package index"
fi

if ! mkdir -p $venv 2>/dev/null || [[ ! -w $venv ]]; then
  refuse "$PWD cannot be written; to run from a read-only checkout, set HARNESS_PYTHON=<an interpreter with all packages>," \
    "DATADIR=<the folder of the dataset> and LOGDIR=<the folder for results>"
fi
# Check this before locking: a concurrent setup.sh puts its lock there before anything else. The lock is not named .lock,
# because packages and other installers have files of that name.
if [[ -n "$(ls -A $venv)" && ! -e $venv/.setup.lock ]]; then
  refuse "$PWD/$venv exists but was not made by setup.sh; move it away"
fi
exec 9>>$venv/.setup.lock
locked=0
flock --nonblock 9 2>/dev/null || locked=$?
if ((locked == 1)); then
  say "waiting for another setup.sh in $PWD"
  flock 9
  if up_to_date $stamp; then finish; fi
elif ((locked != 0)); then
  say "this file system has no locks (flock ended with status $locked); make sure that only one setup.sh runs here"
fi

SECONDS=0
# No variable or file may make pip install into the user's own folder, which this environment does not see.
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1
python=$(find_python)
if [[ $venv == .venv-null ]]; then
  for tool in g++ nm readelf strings; do
    command -v $tool >/dev/null || refuse "building the null device needs $tool, which is missing; on Debian or Ubuntu: apt-get install g++"
  done
  if ! up_to_date .run.stamp; then say "downloading about 900 MB for 2.5 GB on disk: the CUDA build of torch without CUDA, and Transformer Engine"; fi
fi
if up_to_date .run.stamp && [[ $venv == .venv-null ]]; then
  # Keep the packages when only the device has to be built again.
  rm -f $venv/$stamp
elif up_to_date .run.stamp; then
  rm -f $venv/.*.stamp
else
  say "creating $PWD/$venv with $("$python" --version)"
  # Remove the stamps first, so that a half-deleted environment is never trusted.
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
  # pip's messages when it gets no answer at all.
  if grep -qiE 'connection (broken|error)|timed out' $venv/setup.log; then refuse "the package index cannot be reached"; fi
  say "installation failed, see above; the complete log is $PWD/$venv/setup.log"
  exit 1
fi
fingerprint .run.stamp >$venv/.run.stamp
if [[ $stamp != .run.stamp ]]; then fingerprint "$stamp" >"$venv/$stamp"; fi
say "done in $SECONDS s"
finish
