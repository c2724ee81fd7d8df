#!/usr/bin/env bash
# Builds Transformer Engine's part for torch, of which no wheel is published, for the environment of an interpreter.
#
#   bash nullcuda/build_te.sh PYTHON
#
# After build.sh, since torch has to import. The whole extension is one unit without optimisation, a minute instead of ten: what it
# does on the host is little. It is kept below ${XDG_CACHE_HOME:-~/.cache}/llama31, by the versions of all that it is made from.
set -euo pipefail
here=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
python=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

{ read -r site; read -r include; read -r suffix; read -r te; read -r torch; } < <("$python" - <<'END'
import sysconfig
from importlib.metadata import version
for name in ("purelib", "include"):
    print(sysconfig.get_path(name))
print(sysconfig.get_config_var("EXT_SUFFIX"), version("transformer-engine"), version("torch"), sep="\n")
END
)
target=$site/transformer_engine_torch$suffix
kept=${XDG_CACHE_HOME:-$HOME/.cache}/llama31/transformer_engine_torch-$te-torch$torch-$(cat "$here"/headers/*.h "$here/build_te.sh" |
  sha256sum | cut -c 1-12)$suffix
if [[ -f $kept ]]; then
  rm -f "$target"
  cp "$kept" "$target"
  echo "Building Transformer Engine's part for torch: already done, $kept"
  exit
fi

# Its setup.py, which pip runs even to download it, asks a compiler for its version.
mkdir -p "$work/toolkit/bin"
printf '#!/bin/sh\necho "release %s,"\n' "$("$python" -c 'import torch; print(torch.version.cuda)')" >"$work/toolkit/bin/nvcc"
chmod +x "$work/toolkit/bin/nvcc"
echo "Downloading transformer-engine-torch $te"
CUDA_HOME=$work/toolkit "$python" -m pip download --quiet --no-cache-dir --no-binary :all: --no-build-isolation --no-deps \
  --dest "$work" "transformer-engine-torch==$te"
tar -xzf "$work"/transformer_engine_torch-*.tar.gz -C "$work"
cd "$work"/transformer_engine_torch-*/

echo "Building Transformer Engine's part for torch, a minute or two"
{
  find csrc -name '*.cpp' ! -name pybind.cpp | sort | sed 's/.*/#include "&"/'
  echo '#include "csrc/extensions/pybind.cpp"'
} >unit.cpp
# In this order: ours stand in for NVIDIA's.
g++ -w -O0 -g0 -fPIC -fvisibility=hidden -DNDEBUG -std=c++20 \
  -DTORCH_API_INCLUDE_EXTENSION_H -DTORCH_EXTENSION_NAME=transformer_engine_torch \
  -I. -Icommon_headers -Icommon_headers/common -Icommon_headers/common/include -Icsrc \
  -isystem "$site/torch/include" -isystem "$site/torch/include/torch/csrc/api/include" -isystem "$include" \
  -isystem "$here/headers" -isystem "$site/nvidia/cu13/include" -c unit.cpp -o unit.o
g++ -shared -s -o unit.so unit.o -L"$site/torch/lib" -lc10 -lc10_cuda -ltorch -ltorch_cpu -ltorch_cuda -ltorch_python \
  -L"$site/nvidia/cu13/lib" -l:libcudart.so.13 -Wl,--allow-shlib-undefined -Wl,-rpath,"\$ORIGIN"
mkdir -p "$(dirname "$kept")"
cp unit.so "$kept.$$"
mv "$kept.$$" "$kept"
cp unit.so "$target"
