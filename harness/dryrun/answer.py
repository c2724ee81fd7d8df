"""Holds what a rank on the null device reports, and judges whether it would fit its GPU."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict

from benchmark.config import RunConfig
from benchmark.hardware import OUTSIDE_ALLOCATOR, Gpu
from benchmark.plurals import counted

TOLERANCE = 0.001
"""Largest relative difference between the matrix products that were counted and the model's own."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Phase(_Part):
    """PyTorch's allocator in one phase: bytes handed out at its end, and at most."""

    phase: str
    allocated: int
    peak: int
    reserved: int
    """Most bytes that it reserved on the device, handed out or not."""


class Holder(_Part):
    """An owner of memory at the peak of a step, in bytes."""

    what: str
    bytes: int


class Seconds(_Part):
    """Host time of one step, in seconds. Nothing runs on the device, so this is the time to feed it."""

    wall_s: float
    cpu_s: float


class Traffic(_Part):
    """One kind of collective in one process group, in one step. Bytes are those of the whole buffer on this rank."""

    operation: str
    group: str
    calls: int
    bytes: int


class StepCounts(_Part):
    """Operations that the last step requested of the device, by name."""

    calls: dict[str, int]
    waits: dict[str, int]
    """How often the host waited for the device."""
    kernels: dict[str, int]
    products: dict[str, int]
    collectives: tuple[Traffic, ...]
    faults: dict[str, int]
    """Rules of CUDA that were broken, with counts."""
    unanswered: dict[str, int]
    """Functions that the null device lacks; they returned success."""


class Answer(_Part):
    """The result of one rank."""

    rank: int
    stage: int
    layer_spec: str
    versions: dict[str, str]
    parameters: int
    layers: int
    microbatches: int
    """Microbatches of each step here, in place of the run's own."""
    changed_by_warm_up: tuple[str, ...]
    """Entries of the optimizer's groups and states that the warm-up changed."""
    tensors: int
    """Number of tensors that hold weights, scales and the optimizer's state."""
    not_put_back: tuple[str, ...]
    """Those among them that nothing writes to when a warm-up ends."""
    not_read_back: tuple[str, ...]
    """Those among them that loading a checkpoint does not write to; empty if none was loaded."""
    phases: tuple[Phase, ...]
    holders: tuple[Holder, ...]
    graphs: int
    """Graphs captured in the warm-up, and replayed since."""
    graphs_out_of_order: int
    """Replays in steps that were out of the order of capture; graphs share memory, so the order matters."""
    graphs_in_evaluation: int
    """Replays in an evaluation, whose number of microbatches differs from a step's."""
    host: tuple[Seconds, ...]
    """Host time of each step."""
    step: StepCounts
    flops: dict[str, int]
    """FLOP of a step: `step` all matrix products, `recomputed` those that the backward pass repeats, `attention`."""

    @property
    def peak(self) -> int:
        """Most bytes allocated."""
        return max(phase.peak for phase in self.phases)

    @property
    def reserved(self) -> int:
        """Most bytes reserved."""
        return max(phase.reserved for phase in self.phases)

    @property
    def waits(self) -> int:
        """How often the host waits in a step."""
        return sum(self.step.waits.values())

    @property
    def launches(self) -> int:
        """Operations queued in a step: kernels, products, attention, fills, copies, collectives, graphs."""
        calls = self.step.calls
        queued = ("launches", "matrix products", "cudnnBackendExecute", "memset", "cudaGraphLaunch")
        copies = sum(count for name, count in calls.items() if name.startswith("copy "))
        collectives = sum(traffic.calls for traffic in self.step.collectives)
        return sum(calls.get(name, 0) for name in queued) + copies + collectives

    @property
    def host_ms(self) -> float:
        """Milliseconds of one core of this machine per microbatch, in the last step."""
        return 1000 * self.host[-1].cpu_s / self.microbatches


class RankVerdict(BaseModel):
    """One rank of a configuration, judged for a GPU."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    config: RunConfig
    gpu: Gpu
    answer: Answer

    @property
    def needed(self) -> int:
        """Bytes that the GPU needs: the most reserved, and the memory outside the allocator."""
        return self.answer.reserved + OUTSIDE_ALLOCATOR

    @property
    def fits(self) -> bool:
        return self.needed <= self.gpu.memory

    @cached_property
    def model_flops(self) -> int:
        """FLOP of the model's matrix products in these microbatches on this rank, without attention."""
        config, layout, size = self.config, self.config.layout, self.config.size
        tokens = layout.micro_batch_size * config.rules.sequence_length // layout.context_parallel
        matrices = self.answer.layers * (size.layer_parameters - 2 * size.hidden)
        if self.answer.stage == layout.pipeline_model_parallel - 1:
            matrices += config.vocabulary * size.hidden
        return 6 * matrices * tokens * self.answer.microbatches // layout.tensor_model_parallel

    @property
    def flops(self) -> int:
        """FLOP of the counted matrix products, without those that are repeated."""
        return self.answer.flops.get("step", 0)

    @property
    def faults(self) -> list[str]:
        """Return why this rank would not fit, or would not run as it should; empty if it passes."""
        return list(self._faults())

    def _faults(self) -> Iterator[str]:
        if not self.fits:
            yield (
                f"reserved {gib(self.answer.reserved)} + outside the allocator {gib(OUTSIDE_ALLOCATOR)} = "
                f"{gib(self.needed)} GiB is above the {gib(self.gpu.memory)} GiB of a {self.gpu.name}"
            )
        if abs(self.flops / self.model_flops - 1) > TOLERANCE:
            yield (
                f"the step's matrix products are {self.flops / 1e12:.1f} TFLOP, but the model's are "
                f"{self.model_flops / 1e12:.1f}: the step computes something else"
            )
        if changed := self.answer.changed_by_warm_up:
            yield f"the warm-up changes {len(changed)} entries of the optimizer: {', '.join(changed[:3])} ..."
        for what, names in (
            ("the warm-up does not restore", self.answer.not_put_back),
            ("loading a checkpoint does not set", self.answer.not_read_back),
        ):
            if names:
                yield f"{what} {counted(len(names), 'tensor')}: {', '.join(names[:3])} ..."
        if self.answer.graphs_out_of_order:
            yield f"{self.answer.graphs_out_of_order} graphs are replayed out of the order of their capture"
        if self.answer.graphs_in_evaluation:
            yield f"an evaluation replays {self.answer.graphs_in_evaluation} graphs that belong to a step"
        yield from (f"{count} x {name}: CUDA does not allow this" for name, count in self.answer.step.faults.items())

    def document(self) -> dict[str, Any]:
        """Return the verdict as JSON values."""
        return {
            "config": self.config.system,
            "gpu": self.gpu.name,
            "gpu_bytes": self.gpu.memory,
            "outside_allocator_bytes": OUTSIDE_ALLOCATOR,
            "fits": self.fits,
            "faults": self.faults,
            "own_microbatches": self.config.layout.gradient_accumulation_steps,
            "peak_bytes": self.answer.peak,
            "reserved_bytes": self.answer.reserved,
            "host_waits": self.answer.waits,
            "launches": self.answer.launches,
            "host_ms_per_microbatch": self.answer.host_ms,
            "model_flops": self.model_flops,
            **self.answer.model_dump(mode="json"),
        }


class Broken(BaseModel):
    """One rank of a configuration that ended with an error."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    config: RunConfig
    gpu: Gpu
    rank: int
    error: str
    trace: str
    """Where the error was raised."""

    @property
    def faults(self) -> list[str]:
        return [self.error]

    def document(self) -> dict[str, Any]:
        """Return the error as JSON values."""
        where = {"config": self.config.system, "gpu": self.gpu.name, "rank": self.rank, "fits": False}
        return where | {"faults": self.faults, "trace": self.trace}


def gib(size: float) -> str:
    return f"{size / 2**30:.1f}"
