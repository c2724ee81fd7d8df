#!/usr/bin/env bash
# One benchmark run, or NEXP of them, from nothing to checked results.
#
#   bash run_and_time.sh                                            runs the tiny model of config_tiny.sh, on this machine
#   bash run_and_time.sh FILE                                       runs the configuration of FILE, on this machine
#   source configs/config_<SYSTEM>.sh && bash run_and_time.sh       runs the configuration of the environment, on this machine
#
# If torchrun's variables are set (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), it is one rank of a run. If only
# RESULT_FILE is set, it is all ranks of one run, on one node.
set -euo pipefail

setting_up=
stop() {
  if [[ -n $setting_up ]] && kill -TERM -- "-$setting_up" 2>/dev/null; then setting_up=; fi
  echo stopping
  exit "$1"
}
trap 'stop 130' INT
trap 'stop 143' TERM
trap 'stop 129' HUP

root=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")" >/dev/null && pwd)

refuse() {
  echo "run_and_time.sh: $*; bash run_and_time.sh --help" >&2
  exit 2
}

case ${1-} in
  -h | --help)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit
    ;;
  -*) refuse "unknown option $1" ;;
esac
if (($# > 1)); then refuse "one FILE at most, got $# arguments: $*"; fi
if (($# == 1)) && [[ ! -f $1 ]]; then refuse "no config file '$1'"; fi

# A shell handles no signal while it runs a command in the foreground, and setup.sh may take minutes. So it runs in the
# background, in its own process group, which `stop` ends.
exec {answer}<> <(:)
set -m
bash "$root/setup.sh" >&"$answer" &
setting_up=$!
set +m
wait "$setting_up"
read -r python <&"$answer"
exec {answer}>&-
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

# Signals that arrive while Python starts are held back until it can handle them, if env can do that (coreutils 8.31).
patient=()
if env --block-signal=INT true 2>/dev/null; then patient=(env "--block-signal=INT,TERM,HUP"); fi

if (($# == 1)); then
  exec "${patient[@]}" "$python" -m harness run "$1"
elif [[ -n ${RANK:-} ]]; then
  # Without LOCAL_WORLD_SIZE (ranks started by hand), DGXNGPU counts; the rank finds its GPU by the same rule.
  ranks=${LOCAL_WORLD_SIZE:-${DGXNGPU:-1}}
  exec "$python" -m harness.launch.bind "${LOCAL_RANK:-$((RANK % ranks))}" "$ranks" "$python" -m reference_impl.pretrain
elif [[ -n ${RESULT_FILE:-} ]]; then
  exec "$python" -m reference_impl.pretrain
elif [[ -n ${DGXSYSTEM:-} ]]; then
  exec "${patient[@]}" "$python" -m harness run
else
  exec "${patient[@]}" "$python" -m harness run "$root/config_tiny.sh"
fi
