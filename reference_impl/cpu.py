"""Runs Megatron-Core without CUDA: `install()` redirects the calls that cannot work there.

Only calls that raise without CUDA (or, for seeding, are queued forever) are redirected, so nothing else in the process
can depend on it. The one exception, `Tensor.type()`, answers differently only to callers inside megatron.core. No file
of Megatron-Core is changed. Written against 0.16.1; `docs/decisions.md` lists the alternatives that were tried.

`keep_freed_memory()` only makes it faster; nothing depends on it.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import types
from collections.abc import Callable
from typing import Any

import torch

_CPU = torch.device("cpu")

# mallopt's parameters, from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def install() -> None:
    """Redirect the calls once per process, before models are built; do nothing if CUDA is available."""
    if torch.cuda.is_available():
        return
    _replace(torch.Tensor, cuda=lambda self, *args, **kwargs: self, type=_tensor_type)
    _replace(
        torch.cuda,
        current_device=lambda: _CPU,
        synchronize=lambda device=None: None,
        # One generator serves as both: the CUDA generator's state is the CPU generator's.
        get_rng_state=lambda *args, **kwargs: torch.get_rng_state(),
        set_rng_state=lambda state, *args, **kwargs: torch.set_rng_state(state),
        manual_seed=torch.manual_seed,
    )
    _redirect_megatron()


def keep_freed_memory() -> None:
    """Let this process reuse memory that it frees, instead of getting zeroed pages for the next tensor.

    glibc maps each large tensor separately and unmaps it when it is freed; the page faults take a seventh of the tiny
    model's time (docs/performance.md). Does nothing if CUDA is available, or with another C library.
    """
    if torch.cuda.is_available():
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _replace(owner: Any, **attributes: Any) -> None:
    for name, value in attributes.items():
        setattr(owner, name, value)


def _redirect_megatron() -> None:
    from megatron.core import utils
    from megatron.core.dist_checkpointing import exchange_utils
    from megatron.core.models.common.embeddings import rope_utils
    from megatron.core.optimizer import clip_grads, optimizer
    from megatron.core.pipeline_parallel import schedules
    from megatron.core.tensor_parallel import random

    _replace(random, _get_cuda_rng_state=torch.cuda.get_rng_state, _set_cuda_rng_state=torch.cuda.set_rng_state)
    # These modules write device="cuda" literally. Each gets its own `torch`; the real module stays as it is.
    for module in (utils, exchange_utils, rope_utils, clip_grads, optimizer, schedules):
        _replace(module, torch=_TorchOnCpu("torch"))


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(factory)
    def create(*args: Any, **kwargs: Any) -> torch.Tensor:
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = _CPU
        kwargs.pop("pin_memory", None)
        return factory(*args, **kwargs)

    return create


class _TorchOnCpu(types.ModuleType):
    """`torch` as seen by the modules that ask for device="cuda"."""

    tensor = staticmethod(_on_cpu(torch.tensor))
    zeros = staticmethod(_on_cpu(torch.zeros))
    empty = staticmethod(_on_cpu(torch.empty))
    empty_like = staticmethod(_on_cpu(torch.empty_like))

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _tensor_type(self: torch.Tensor, *args: Any, _original: Any = torch.Tensor.type, **kwargs: Any) -> Any:
    """Answer `Tensor.type()` to Megatron-Core in CUDA's spelling; its optimizers expect 'torch.cuda.FloatTensor'."""
    name = _original(self, *args, **kwargs)
    if not isinstance(name, str) or name.startswith("torch.cuda."):
        return name
    caller = sys._getframe(1).f_globals.get("__name__", "")
    return name.replace("torch.", "torch.cuda.", 1) if caller.startswith("megatron.core") else name
