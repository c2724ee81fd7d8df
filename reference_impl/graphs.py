"""CUDA graphs by Megatron-Core 0.16.1, of layers or of a whole iteration, and what Megatron-Core leaves to its caller.

Graphs of layers: Megatron-Core captures each layer's forward and backward pass after the first step of a warm-up
(core/transformer/cuda_graphs.py). With a pipeline there is one for each microbatch of a step, and all share one pool of
memory: a graph may overwrite what an earlier one, in the order of capture, has left to be read. Graph of an iteration:
it is captured in place of the last step of a warm-up (core/full_cuda_graph.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from megatron.core.full_cuda_graph import FullCudaGraphWrapper
from megatron.core.transformer.cuda_graphs import CudaGraphManager


@contextmanager
def eager(chunks: list[torch.nn.Module]) -> Iterator[None]:
    """Run layers without their graphs within the block, for evaluation.

    An evaluation has another number of microbatches than a step, so with a pipeline the next step would not begin with
    the first graph. And a graph waits for weights that are gathered behind the computation only during training.
    """
    held = [
        (module, module._modules.pop("cudagraph_manager"))
        for chunk in chunks
        for module in chunk.modules()
        if isinstance(module._modules.get("cudagraph_manager"), CudaGraphManager)
    ]
    try:
        yield
    finally:
        for module, manager in held:
            module._modules["cudagraph_manager"] = manager


def begin_step(chunks: list[torch.nn.Module]) -> None:
    """Make the first microbatch of a step quantise the weights anew, and the others reuse the result.

    A flag on the GPU tells graphs which microbatch they are in. Megatron-Core sets it only if the same graph was told
    otherwise the last time, which works if microbatches share a graph. With a pipeline each microbatch has its own
    graph and is always told the same, so the flag stays as the last one set it: every step after the second would
    multiply with the weights of the first.
    """
    for manager in (module for chunk in chunks for module in chunk.modules() if isinstance(module, CudaGraphManager)):
        for runner in manager.cudagraph_runners:
            if runner.is_first_layer:
                runner.fp8_param_cache_updated = None


def iteration(forward_backward: Callable[..., Any], eager_steps: int) -> Callable[..., Any]:
    """Return Megatron-Core's schedule, run as one graph from its call after `eager_steps` on; for training only.

    A process has at most one, and every call must have the same number of microbatches. Each call overwrites what the
    previous call returned.
    """
    wrapper: Callable[..., Any] = FullCudaGraphWrapper(forward_backward, cuda_graph_warmup_steps=eager_steps)
    return wrapper
