"""The environment with the null device, and the variables of a process in it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from benchmark.checkout import ROOT
from benchmark.errors import RefusedError


class NoNullDeviceError(RefusedError):
    """There is no environment with the null device, or it is outdated."""


def interpreter() -> Path:
    """Return the interpreter of the environment that `setup.sh --null-gpu` makes.

    Raises:
        NoNullDeviceError: the environment is missing or out of date.
    """
    setup = subprocess.run(
        ["bash", str(ROOT / "setup.sh"), "--made", "--null-gpu"], capture_output=True, text=True, check=False
    )
    if setup.returncode:
        raise NoNullDeviceError(
            f"{setup.stderr.strip().removeprefix('setup: ')}\n"
            "A dry run needs an environment of its own, with CUDA's torch, Transformer Engine and the null device."
        )
    return Path(setup.stdout.strip())


def variables(python: Path, library: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables of a process on the null device.

    Args:
        library: variables that the configuration exports for the libraries underneath.
    """
    (site,) = (python.parents[1] / "lib").glob("python3.*/site-packages")
    nvidia = site / "nvidia" / "cu13"
    # Hides this machine's GPUs, toolkits and preloaded libraries from the process.
    visible = {name: value for name, value in environment.items() if name not in _HIDDEN}
    return {
        **visible,
        **library,
        # At run time Transformer Engine compiles a few kernels, with headers that it looks for in a toolkit.
        "NVTE_CUDA_INCLUDE_DIR": str(nvidia / "include"),
        "TRITON_LIBCUDA_PATH": str(nvidia / "lib"),
        # Compiled fusions hold a little less at the peak (docs/gpu.md), but compiling takes half a minute.
        "TORCHDYNAMO_DISABLE": "1",
        # Multicast of user buffers needs a fabric that does not exist here.
        "UB_SKIPMC": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "PYTHONPATH": str(ROOT),
    }


_HIDDEN = frozenset(
    {"CUDA_HOME", "CUDA_PATH", "CUDNN_HOME", "CUDA_VISIBLE_DEVICES", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH"}
)
