"""Runs the trainer's own Step as one rank on the null device, and reports what it asked of the device.

The Step is unmodified: it builds, warms up, trains, evaluates and, given a folder, saves and loads. Three things around
it cannot be real. Weights are drawn, not loaded; no collective leaves this process; and since no kernel computes, the
sum of tokens is zero, which `_something_computed` replaces by one.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch.nn.modules import module
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.config import RunConfig, kernels
from nullcuda.device import NullDevice
from nullcuda.world import LonelyStore, join
from reference_impl import parallel, step
from reference_impl.data.published import manifest_of
from reference_impl.model import unwrap
from reference_impl.preserve import preserved, torch_optimizers

_LISTED = 12
"""Lines of code whose memory is reported by its content."""


@dataclass(kw_only=True)
class Ask:
    """One rank of one configuration, and how many steps to run. harness/dryrun sends one as a line of JSON."""

    variables: dict[str, str]
    """Variables of the run by shell name, including RANK and LOCAL_RANK."""
    microbatches: int
    """Microbatches of a step, in place of the run's own."""
    gpu: dict[str, Any]
    """name, capability, memory, multiprocessors and count, as for NullDevice.become."""
    steps: int = 2
    folder: str | None = None
    """Folder to save to and load from; None to do neither."""


@dataclass
class Phases:
    """Records the device's memory in each phase: bytes at its end, and at most."""

    found: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        torch.cuda.reset_peak_memory_stats()
        yield
        self.found.append(
            {
                "phase": name,
                "allocated": torch.cuda.memory_allocated(),
                "peak": torch.cuda.max_memory_allocated(),
                "reserved": torch.cuda.max_memory_reserved(),
            }
        )


def run(ask: Ask) -> dict[str, Any]:
    """Run one rank, and return the values that harness.dryrun.answer describes, as JSON."""
    device = NullDevice()
    device.become(**ask.gpu)
    config = RunConfig.from_environment(ask.variables)
    config = config.changed(MINIBS=ask.microbatches * config.layout.micro_batch_size)
    rank = config.process.rank or 0
    store = join(rank, config.layout.world_size)
    parallel.initialize(config, null_device=True)
    phase = Phases()
    with _something_computed(), _Graphs() as graphs:
        with phase("build"):
            trainer = step.MegatronStep(config, manifest_of(config.benchmark_row, {}))
        before = _optimizer_entries(trainer)
        with phase("warm-up"):
            trainer.warm_up()
        after = _optimizer_entries(trainer)
        left = _left_by_warm_up(trainer)
        graphs.forget_replays()
        batches = step.synthetic_batches(config)
        timed = []
        for number in range(1, ask.steps + 1):
            device.reset()
            with phase(f"step {number}"):
                timed.append(_timed(partial(trainer.train_once, batches)))
        counted = device.report()
        disorder = graphs.disorder()
        with phase("evaluation"):
            trainer._evaluate(batches, trainer._whole_pipelines(1))
        in_evaluation = graphs.forget_replays()
        device.reset()
        holders = _holders(trainer, device, partial(trainer.train_once, batches))
        flops = device.report()["flops"]
        disorder += graphs.disorder()
        unread = set() if ask.folder is None else _save_and_load(trainer, Path(ask.folder), phase)
    return {
        "rank": rank,
        "stage": parallel_state.get_pipeline_model_parallel_rank(),
        "layer_spec": kernels.layer_spec(config.kernels, parallel.machine()),
        "versions": {name: version(name) for name in ("torch", "transformer-engine", "megatron-core")},
        "parameters": sum(parameter.numel() for chunk in trainer.chunks for parameter in chunk.parameters()),
        "layers": sum(len(unwrap(chunk).decoder.layers) for chunk in trainer.chunks),
        "microbatches": config.layout.gradient_accumulation_steps,
        "changed_by_warm_up": sorted(
            name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
        ),
        "tensors": len(_holding(trainer)),
        "not_put_back": sorted(left),
        "not_read_back": sorted(unread),
        "phases": phase.found,
        "holders": holders,
        "graphs": len(graphs.captured),
        "graphs_out_of_order": disorder,
        "graphs_in_evaluation": in_evaluation,
        "host": [{"wall_s": wall, "cpu_s": cpu} for wall, cpu in timed],
        "step": counted | {"collectives": _by_group(counted, store), "kernels": _demangled(counted["kernels"])},
        "flops": flops,
    }


class _Graphs:
    """Notes the order in which torch's graphs are captured and replayed while it is entered."""

    def __init__(self) -> None:
        self.captured: list[int] = []
        self._replayed: list[int] = []
        self._patched = ExitStack()

    def __enter__(self) -> _Graphs:
        for name, noted in (("capture_end", self.captured), ("replay", self._replayed)):
            self._patched.enter_context(mock.patch.object(torch.cuda.CUDAGraph, name, self._noting(name, noted)))
        return self

    def __exit__(self, *_: object) -> None:
        self._patched.close()

    @staticmethod
    def _noting(name: str, noted: list[int]) -> Callable[[torch.cuda.CUDAGraph], None]:
        original = getattr(torch.cuda.CUDAGraph, name)

        def noting(graph: torch.cuda.CUDAGraph) -> None:
            original(graph)
            noted.append(id(graph))

        return noting

    def forget_replays(self) -> int:
        """Forget the replays so far, and return how many there were."""
        count = len(self._replayed)
        self._replayed.clear()
        return count

    def disorder(self) -> int:
        """Return how many replays since the last call were out of turn; graphs take turns in the order of capture."""
        turns = zip(self._replayed, cycle(self.captured), strict=False)
        count = sum(replayed != captured for replayed, captured in turns)
        # Replays of an unfinished round.
        count += self.forget_replays() % len(self.captured) if self.captured else 0
        return count


def _something_computed() -> AbstractContextManager[Any]:
    """Replace a sum over all ranks that is zero by one, because losses and norms are divided by the sum of tokens."""

    def sums(*values: float) -> list[float]:
        return [total or 1.0 for total in parallel.sum_over_ranks(*values)]

    return mock.patch.object(step, "sum_over_ranks", sums)


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the (wall, processor) seconds of this process that `work` takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def _save_and_load(trainer: step.MegatronStep, folder: Path, phase: Phases) -> set[str]:
    """Return the names of tensors with weights or state that loading the checkpoint does not write to."""
    with phase("save"):
        trainer.save(folder, lambda: None, _refuse)
        trainer.finish_saving()
    with phase("load"), _Writes() as writes:
        trainer.load(folder)
    return writes.missing(_holding(trainer))


def _left_by_warm_up(trainer: step.MegatronStep) -> set[str]:
    """Return the names of tensors with weights or state that nothing writes to when a warm-up ends."""
    with _Writes() as writes, preserved(trainer.chunks, trainer.optimizer):
        writes.forget()
    return writes.missing(_holding(trainer))


def _holding(trainer: step.MegatronStep) -> dict[str, torch.Tensor]:
    """Return, by name, every tensor on the device that holds a weight, a weight's scale, or the optimizer's state."""
    held = {}
    for number, chunk in enumerate(trainer.chunks):
        for name, tensor in (*chunk.module.named_parameters(), *chunk.module.named_buffers()):
            for inner, values in _all_inner(tensor).items():
                # A kernel makes it from the bytes; no operation of torch writes it.
                if inner != "_transpose":
                    held[f"chunk {number}, {name} {inner}".rstrip()] = values
    for number, optimizer in enumerate(torch_optimizers(trainer.optimizer)):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for index, parameter in enumerate(parameters):
            held[f"optimizer {number}, parameter {index}"] = parameter
            for name, value in optimizer.state.get(parameter, {}).items():
                if torch.is_tensor(value):
                    held[f"optimizer {number}, parameter {index}, {name}"] = value
    return held


class _Writes(TorchDispatchMode):
    """Notes where operations of torch write in place while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self._written: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.is_mutable:
            self._written |= {inner.data_ptr() for inner in _all_inner(args[0]).values()}
        return func(*args, **(kwargs or {}))

    def forget(self) -> None:
        self._written.clear()

    def missing(self, held: dict[str, torch.Tensor]) -> set[str]:
        """Return the names of those that nothing was written to."""
        return {name for name, tensor in held.items() if tensor.numel() and tensor.data_ptr() not in self._written}


def _refuse(fault: str) -> None:
    raise RuntimeError(fault)


def _demangled(kernels: dict[str, int]) -> dict[str, int]:
    """Return the same counts, under the names that a profiler shows."""
    return {torch._C._demangle(name): count for name, count in kernels.items()}


def _by_group(counted: dict[str, Any], store: LonelyStore) -> list[dict[str, Any]]:
    """Return collectives by the description of their process group; bytes are of the whole buffer on this rank."""
    calls: Counter[tuple[str, str]] = Counter()
    size: Counter[tuple[str, str]] = Counter()
    for key, count in counted["collectives"].items():
        operation, identifier = key.split(" ", 1)
        group = _description(store.told.get(identifier, ""))
        calls[operation, group] += count
        size[operation, group] += counted["bytes"][key]
    return [
        {"operation": operation, "group": group, "calls": calls[operation, group], "bytes": size[operation, group]}
        for operation, group in sorted(calls)
    ]


def _description(key: str) -> str:
    """Return the group's description, from its identifier's key: <prefix>//<group>//cuda//<number, or two ranks>."""
    parts = key.split("//")
    name = parts[-3] if len(parts) >= 3 else "0"
    group = dist.distributed_c10d._resolve_process_group(name)  # type: ignore
    return str(group.group_desc).removesuffix("_GROUP").lower() or "world"


def _holders(trainer: step.MegatronStep, device: NullDevice, one_step: Callable[[], object]) -> list[dict[str, Any]]:
    """Return what holds the device's memory at the peak of a step: permanent tensors, and the rest by line of code."""
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.memory._record_memory_history(stacks="python", max_entries=10_000_000)
    with _recomputation_marked(device):
        one_step()
    trace = torch.cuda.memory._snapshot()["device_traces"][torch.cuda.current_device()]
    torch.cuda.memory._record_memory_history(enabled=None)
    places: Counter[str] = Counter()
    for event in _live_at_peak(trace):
        places[_place(event)] += event["size"]
    held = _always_there(trainer) + places.most_common(_LISTED)
    left = torch.cuda.max_memory_allocated() - sum(size for _, size in held)
    held.append(("all else", left))
    return [{"what": what, "bytes": size} for what, size in held if size]


def _always_there(trainer: step.MegatronStep) -> list[tuple[str, int]]:
    def size(tensors: Iterator[torch.Tensor]) -> int:
        # Views of one buffer count once.
        held = (inner for tensor in tensors for inner in _all_inner(tensor).values())
        stores = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in held}
        return sum(stores.values())

    inner = torch_optimizers(trainer.optimizer)
    weights = {id(parameter) for chunk in trainer.chunks for parameter in chunk.parameters()}
    return [
        ("weights", size(parameter for chunk in trainer.chunks for parameter in chunk.parameters())),
        ("quantised copies of the weights", size(_quantised(trainer))),
        ("gradients", size(buffer.grad_data for chunk in trainer.chunks for buffer in chunk.buffers)),
        (
            "optimizer's copy of the weights",
            size(p for one in inner for group in one.param_groups for p in group["params"] if id(p) not in weights),
        ),
        (
            "optimizer's moments",
            size(
                value
                for one in inner
                for state in one.state.values()
                for value in state.values()
                if torch.is_tensor(value) and value.is_cuda
            ),
        ),
    ]


def _all_inner(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the tensors that hold a tensor's values, by name: itself, or a quantised one's and its quantiser's."""
    if (quantiser := getattr(tensor, "_quantizer", None)) is None:
        return {"": tensor}
    inside = vars(tensor) | {f"quantiser's {name}": value for name, value in vars(quantiser).items()}
    beside = ("main_grad", "main_param")  # Megatron-Core's, which are counted elsewhere
    return {name: value for name, value in inside.items() if torch.is_tensor(value) and name not in beside}


def _quantised(trainer: step.MegatronStep) -> Iterator[torch.Tensor]:
    """Yield what Transformer Engine keeps of each weight for its products, from a step's first microbatch on."""
    for chunk in trainer.chunks:
        for layer in chunk.modules():
            for copy in getattr(layer, "_fp8_workspaces", {}).values():
                yield from (value for value in vars(copy).values() if torch.is_tensor(value) and value.is_cuda)


def _live_at_peak(trace: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a trace's allocations that are live at the peak; frees of earlier allocations are left out."""
    live: dict[int, dict[str, Any]] = {}
    now, most, best = 0, 0, 0
    for index, event in enumerate(trace):
        if event["action"] == "alloc":
            now += event["size"]
        elif event["action"] == "free_completed":
            now -= event["size"]
        if now > most:
            most, best = now, index
    for event in trace[: best + 1]:
        if event["action"] == "alloc":
            live[event["addr"]] = event
        elif event["action"] == "free_completed":
            live.pop(event["addr"], None)
    return list(live.values())


def _place(event: dict[str, Any]) -> str:
    """Return the innermost line outside torch that an allocation comes from, and the line that called it."""
    frames = [frame for frame in event.get("frames", ()) if "/torch/" not in frame["filename"]]
    named = [f"{_short(frame['filename'])}:{frame['line']}" for frame in frames if frame["filename"] not in ("", "??")]
    return " < ".join(named[:2]) or "torch's backward pass"


def _short(filename: str) -> str:
    """Return a file's name relative to its folder of packages, or to the checkout."""
    return filename.rpartition("site-packages/")[2].removeprefix(f"{Path.cwd()}/")


def _optimizer_entries(trainer: step.MegatronStep) -> dict[str, str]:
    """Return every entry of every optimizer's groups and states: described if it is a tensor."""
    entries = {}
    for number, inner in enumerate(torch_optimizers(trainer.optimizer)):
        for index, group in enumerate(inner.param_groups):
            for name, value in group.items():
                if name != "params":
                    entries[f"optimizer {number}, group {index}, {name}"] = _described(value)
        parameters = (parameter for group in inner.param_groups for parameter in group["params"])
        for index, parameter in enumerate(parameters):
            for name, value in inner.state.get(parameter, {}).items():
                entries[f"optimizer {number}, parameter {index}, {name}"] = _described(value)
    return entries


def _described(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)


@contextmanager
def _recomputation_marked(device: NullDevice) -> Iterator[None]:
    """Count the matrix products of forward passes that run inside a backward pass as recomputed.

    Autograd runs a GPU's backward pass in a thread of its own.
    """
    main = threading.get_ident()
    entered: list[Any] = []

    def enter(*_: Any) -> None:
        if threading.get_ident() != main:
            entered.append(device.phase("recomputed"))
            if len(entered) == 1:
                entered[0].__enter__()

    def leave(*_: Any) -> None:
        if threading.get_ident() != main:
            last = entered.pop()
            if not entered:
                last.__exit__(None, None, None)

    hooks = [
        module.register_module_forward_pre_hook(enter),
        module.register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
