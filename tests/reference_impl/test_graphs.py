"""The code around Megatron-Core's graphs of layers; the null device checks the order of replays."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from megatron.core.transformer.cuda_graphs import CudaGraphManager

from reference_impl import graphs


class Manager(CudaGraphManager):
    """One that needs no GPU: its runners' last word to the flag is the one that they would give again."""

    def __init__(self, *, first: bool) -> None:
        torch.nn.Module.__init__(self)
        self.cudagraph_runners = [
            SimpleNamespace(is_first_layer=first, fp8_param_cache_updated=number == 0) for number in range(2)
        ]


class Layer(torch.nn.Module):
    cudagraph_manager: Manager

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        self.cudagraph_manager = Manager(first=first)


@pytest.fixture
def chunk() -> torch.nn.Sequential:
    return torch.nn.Sequential(Layer(first=True), Layer(first=False), torch.nn.Linear(1, 1))


def managers(chunk: torch.nn.Sequential) -> list[Manager]:
    return [layer.cudagraph_manager for layer in chunk.children() if isinstance(layer, Layer)]


def test_layers_have_their_graphs_again_after_an_evaluation(chunk: torch.nn.Sequential) -> None:
    """Even if the evaluation fails; within the block Megatron-Core runs layers without graphs."""
    before = managers(chunk)
    inside: list[bool] = []
    with suppress(ValueError), graphs.eager([chunk]):
        inside += [hasattr(layer, "cudagraph_manager") for layer in chunk.children()]
        raise ValueError
    assert not any(inside)
    assert managers(chunk) == before


def test_a_step_begins_with_weights_that_are_quantised_anew(chunk: torch.nn.Sequential) -> None:
    """In each microbatch's graph, the first layer sets again which microbatch it is."""
    graphs.begin_step([chunk])
    first, second = (manager.cudagraph_runners for manager in managers(chunk))
    assert [runner.fp8_param_cache_updated for runner in first] == [None, None]
    assert [runner.fp8_param_cache_updated for runner in second] == [True, False]
