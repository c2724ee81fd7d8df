"""The environment that has the null device, and the variables of a process in it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from benchmark.checkout import ROOT
from benchmark.errors import RefusedError


class NoNullDeviceError(RefusedError):
    """Raised where there is no environment with the null device, or an outdated one."""


def interpreter() -> Path:
    """Of the environment that `setup.sh --null-gpu` has made.

    Raises:
        NoNullDeviceError: it is missing or out of date.
    """
    asked = subprocess.run(
        ["bash", str(ROOT / "setup.sh"), "--made", "--null-gpu"], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        raise NoNullDeviceError(
            f"{asked.stderr.strip().removeprefix('setup: ')}\n"
            "A dry run needs an environment of its own: CUDA's torch, Transformer Engine, a device that only counts."
        )
    return Path(asked.stdout.strip())


def variables(python: Path, library: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Of a process on the null device.

    Args:
        library: what the configuration exports for the libraries underneath.
    """
    (site,) = (python.parents[1] / "lib").glob("python3.*/site-packages")
    nvidia = site / "nvidia" / "cu13"
    # A GPU, a toolkit or a preloaded library of this machine is not what is to be asked.
    kept = {name: value for name, value in environment.items() if name not in _HIDDEN}
    return {
        **kept,
        **library,
        # Transformer Engine compiles a few kernels when it runs, by headers that it looks for in a toolkit.
        "NVTE_CUDA_INCLUDE_DIR": str(nvidia / "include"),
        "TRITON_LIBCUDA_PATH": str(nvidia / "lib"),
        # Compiled, what is fused holds a little less at the peak (docs/gpu.md); compiling takes half a minute.
        "TORCHDYNAMO_DISABLE": "1",
        # Multicast of user buffers asks a fabric that is not there.
        "UB_SKIPMC": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "PYTHONPATH": str(ROOT),
    }


_HIDDEN = frozenset(
    {"CUDA_HOME", "CUDA_PATH", "CUDNN_HOME", "CUDA_VISIBLE_DEVICES", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH"}
)
