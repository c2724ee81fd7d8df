#!/usr/bin/env bash
# Builds the null device into an environment, in the places where torch looks for NVIDIA's libraries.
#
#   bash nullcuda/build.sh SITE_PACKAGES
#
# Each library that torch and Transformer Engine load becomes a shell with the name and the symbol versions that they expect. All
# shells link to libnullcuda.so. A function that is not implemented gets a stub, which returns success and is counted under
# "unanswered". Needs g++ and binutils, and only the headers of the runtime from NVIDIA's wheels.
set -euo pipefail
here=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
site=$(cd -- "$1" && pwd)
target=$site/nvidia/cu13/lib
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$target" "$site/nvidia/cudnn/lib"

shopt -s nullglob
askers=("$site"/torch/lib/*.so "$site"/transformer_engine/wheel_lib/*.so)

# shellcheck disable=SC2016 # expanded by the inner shell
printf '%s\0' "$here"/device/*.cpp | xargs -0 -P 2 -I{} bash -c '
  g++ -std=c++17 -O1 -fPIC -fvisibility=hidden -Wall -Wextra -Werror -c "$1" -o "$2/$(basename "$1" .cpp).o" "${@:3}"
' _ {} "$work" -I"$here/headers" -isystem "$site/nvidia/cu13/include"

# Functions that the libraries import, or look up at run time.
{
  nm -D --undefined-only "${askers[@]}" | awk 'NF > 1 {print $2}' | sed 's/@.*//' |
    grep -E '^(cuda|__cuda|cu[A-Z]|cublas|cudnn|nccl|cufft|cusparse|cusolver|curand|cupti|nvrtc|nvshmem|nvJitLink)'
  strings -a "${askers[@]}" | grep -E '^(cudnn[A-Z]|nvrtc[A-Z])[A-Za-z0-9_]+$'
  grep -hoE '\bcu[A-Z][A-Za-z0-9]+(_v[0-9]+)? *\(' "$site/nvidia/cu13/include/cuda.h" | tr -d ' ('
} | sort -u >"$work/wanted"
nm --defined-only "$work"/*.o | awk '$2 == "T" {print $3}' | sort -u >"$work/answered"
{
  echo 'extern int nullcuda_unanswered(const char *);'
  comm -23 "$work/wanted" "$work/answered" | awk '{print "int " $1 "(void) { return nullcuda_unanswered(\"" $1 "\"); }"}'
} >"$work/rest.c"
gcc -O1 -fPIC -w -c "$work/rest.c" -o "$work/rest.o"
rm -f "$target/libnullcuda.so"
g++ -shared -o "$target/libnullcuda.so" -Wl,-soname,libnullcuda.so "$work"/*.o -ldl

# Libraries by SONAME, and the symbol versions that are imported from each.
{
  readelf -d "${askers[@]}" | grep NEEDED | grep -oE 'lib(cu|nccl|nv)[A-Za-z_]*\.so\.[0-9]+'
  readelf -VW "${askers[@]}" | awk '
    /File: / {sub(/.*File: /, ""); file = $1}
    /  Name: / {if (file ~ /^lib(cu|nccl|nv)/) {sub(/.*Name: /, ""); print file, $1}}'
  # These are opened at run time, so no library lists them.
  printf '%s\n' libcuda.so.1 libnvrtc.so.13 libcurand.so.10 libnvidia-ml.so.1
} | sort -u >"$work/libraries"
echo 'int shell;' >"$work/shell.c"
gcc -fPIC -c "$work/shell.c" -o "$work/shell.obj"
awk '{print $1}' "$work/libraries" | sort -u | while read -r name; do
  awk -v name="$name" '$1 == name && NF > 1 {print $2 " { shell_" NR "; };"}' "$work/libraries" >"$work/versions"
  versions=()
  if [[ -s $work/versions ]]; then versions=("-Wl,--version-script=$work/versions"); fi
  # Remove the old file first, because installers hard-link files from their cache.
  rm -f "$target/$name"
  gcc -shared -o "$target/$name" "$work/shell.obj" -Wl,-soname,"$name" "${versions[@]}" \
    -Wl,--no-as-needed -L"$target" -lnullcuda -Wl,-rpath,"\$ORIGIN"
done
for library in "$target"/libcudnn*; do
  ln -sf "../../cu13/lib/$(basename "$library")" "$site/nvidia/cudnn/lib/"
done
