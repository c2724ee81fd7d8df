"""CUDA graphs by Megatron-Core 0.16.1, of layers or of a whole iteration, and what it leaves to others.

Of layers, it captures each one's forward and backward pass after the first step of a warm-up
(core/transformer/cuda_graphs.py). With a pipeline there is one for each microbatch of a step, and all share one pool of
memory: what a later one in the order of capture writes may be what an earlier one has left to be read. An iteration is
one graph, captured in place of the last step of a warm-up (core/full_cuda_graph.py).
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
    """Run layers without their graphs within the block.

    For evaluation. Its microbatches are other in number than a step's, so that with a pipeline the next step would not
    begin with the first graph; and of weights that are gathered behind the computation, a graph waits in training only.
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
    """Have the first microbatch of a step quantise the weights anew, and the others take what it has made.

    A flag on the GPU tells graphs which they are. Megatron-Core sets it where a graph was told otherwise the last time,
    which holds if microbatches share one. With a pipeline each has its own, is always told the same, and the flag stays
    as the last one has set it: every step after the second would multiply with the weights of the first.
    """
    for manager in (module for chunk in chunks for module in chunk.modules() if isinstance(module, CudaGraphManager)):
        for runner in manager.cudagraph_runners:
            if runner.is_first_layer:
                runner.fp8_param_cache_updated = None


def iteration(forward_backward: Callable[..., Any], eager_steps: int) -> Callable[..., Any]:
    """Megatron-Core's schedule as one graph from its call after `eager_steps` on; for training only.

    A process has one at most, and each call has as many microbatches. What it returns is overwritten by the next one.
    """
    wrapper: Callable[..., Any] = FullCudaGraphWrapper(forward_backward, cuda_graph_warmup_steps=eager_steps)
    return wrapper
