"""Other numbers of GPUs: the fewest that are fast enough, and what would fit if nothing does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from math import ceil, inf, lcm
from typing import TYPE_CHECKING, Any

from benchmark.config import ConfigError
from benchmark.hardware import PRECISIONS
from harness.plan import layouts, memory
from harness.plan.calibration import Calibration
from harness.plan.job import TrainingJob, precision_values
from harness.plan.layouts import Lengths, TimedLayout, cuts, timed
from harness.plan.planner import BF16_GRADIENTS
from harness.plan.search import LISTED, Candidate, Refusals, SearchResult, accepted, search, uncut

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

NEAR = 64
"""Numbers of GPUs above, and below, that are tried in search of one that fits."""


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """The subject of a search, whatever the number of GPUs."""

    base: Mapping[str, str]
    """A configuration's variables on whole nodes; its layout and number of nodes do not matter."""
    calibration: Calibration
    gpu: str | None = None
    quantised_weights: bool = False

    @property
    def node(self) -> int:
        """GPUs of a node."""
        return int(self.base["DGXNGPU"])

    @property
    def gpus(self) -> int:
        """GPUs of `base`."""
        return int(self.base["DGXNNODES"]) * self.node

    def on(self, gpus: int) -> dict[str, str]:
        """Return the variables for a number of GPUs: whole nodes, or a part of one.

        Raises:
            ConfigError: the number is neither.
        """
        if gpus < self.node:
            return {**self.base, "DGXNNODES": "1", "DGXNGPU": str(gpus)}
        nodes, remainder = divmod(gpus, self.node)
        if remainder:
            near = f"{nodes * self.node} and {(nodes + 1) * self.node} are"
            raise ConfigError([f"--gpus {gpus} is not a multiple of the {self.node} GPUs of a node; {near}"])
        return {**self.base, "DGXNNODES": str(nodes)}

    def at(self, gpus: int, listed: int = LISTED) -> SearchResult:
        """Search the layouts of a number of GPUs.

        Raises:
            ConfigError: as for `on` and `search`.
        """
        return self.search(self.on(gpus), listed)

    def search(self, values: Mapping[str, str], listed: int = 1) -> SearchResult:
        return search(values, self.calibration, self.gpu, quantised_weights=self.quantised_weights, listed=listed)


# The fewest.


@dataclass(frozen=True, kw_only=True)
class _Runs:
    """The allowed and the actual length of runs, by global batch size."""

    lengths: Lengths
    batches: Array
    """Every global batch size that the rules have a schedule for."""
    steps: Array
    """Length of a run at each of them."""

    @classmethod
    def of(cls, lengths: Lengths) -> _Runs:
        import numpy as np

        known = {gbs: steps for gbs in range(1, lengths.largest_batch + 1) if (steps := lengths.of(gbs)) is not None}
        return cls(lengths=lengths, batches=np.array(list(known), float), steps=np.array(list(known.values())))

    def needed(self, shape: TimedLayout, seconds: float) -> float:
        """Return the GPUs below which a layout takes longer than `seconds` at any batch; infinite if it always does.

        This is a lower bound for the layout on any number of GPUs from those of `shape` on: with more of them, the part
        of a step that is paid once gets shorter only in the optimizer, and the smallest batch gets larger.
        """
        job = shape.job
        possible = self.batches >= shape.least * job.data
        batches, steps = self.batches[possible], self.steps[possible]
        left = seconds - steps * (shape.once - shape.shared)
        work = steps * shape.each * batches / job.micro_batch * job.ranks
        return float(min(work[left > 0] / left[left > 0], default=inf))

    def fastest(self, shape: TimedLayout, step: int) -> tuple[float, int]:
        """Return seconds and GPUs at which a layout is fastest, with each replica's smallest minibatch."""
        import numpy as np

        job = shape.job
        times = np.where(self.batches % (shape.least * (step // job.ranks)) == 0, self.steps, inf)
        times = times * (shape.each * shape.least / job.micro_batch + shape.once - shape.shared)
        if not times.size:
            return inf, 0
        best = int(times.argmin())
        return float(times[best]), int(self.batches[best]) // shape.least * job.ranks


def fewest(request: SearchRequest, minutes: float, listed: int = LISTED) -> SearchResult | None:
    """Return the layouts of the fewest GPUs on which one should reach the target in this many minutes.

    If none does on any number of GPUs, return those of the fastest number; None if nothing fits on any.

    Raises:
        ConfigError: as for `search`.
    """
    job, rules = uncut(request.on(request.node), request.calibration, request.gpu, request.quantised_weights)
    runs = _Runs.of(Lengths(rules, request.calibration.of(job.size).evaluation))
    smallest = [replace(cut, gpus=lcm(cut.ranks, request.node)) for cut in cuts(job)]
    shapes = [timed(cut, request.calibration) for cut in smallest]
    gpus = _fewest(request, minutes, runs, shapes) or _fastest(request, runs, shapes)
    return None if gpus is None else request.at(gpus, listed)


def _fewest(request: SearchRequest, minutes: float, runs: _Runs, shapes: list[TimedLayout]) -> int | None:
    """Try layouts in the order of the fewest GPUs that each needs, and return the first number that is enough."""
    seconds = 60 * minutes - request.calibration.of(shapes[0].job.size).start
    waiting = [(_multiple(runs.needed(shape, seconds), shape.job), place) for place, shape in enumerate(shapes)]
    heapify(waiting)
    while waiting:
        gpus, place = heappop(waiting)
        if gpus == inf:
            return None
        smallest = shapes[place].job
        job = replace(smallest, gpus=int(gpus))
        shape = timed(job, request.calibration)
        if shape.least * job.data > runs.lengths.largest_batch:
            continue
        if not memory.fits(layouts.worst(job), job):
            heappush(waiting, (_enough_memory(shape, smallest.gpus, runs.lengths.largest_batch), place))
            continue
        best = _best(request, shape, runs)
        if best is not None and best.minutes <= minutes:
            return job.gpus
        heappush(waiting, (max(gpus + smallest.gpus, _multiple(runs.needed(shape, seconds), smallest)), place))
    return None


def _multiple(gpus: float, smallest: TrainingJob) -> float:
    """Round GPUs up to copies of the model on whole nodes; `smallest` is one copy."""
    return gpus if gpus == inf else max(1, ceil(gpus / smallest.gpus)) * smallest.gpus


def _enough_memory(shape: TimedLayout, step: int, largest_batch: int) -> float:
    """Return the fewest GPUs, above those of a layout that does not fit, among which its optimizer is split enough."""

    def holds(count: int) -> bool:
        job = replace(shape.job, gpus=count * step)
        return memory.fits(layouts.worst(job), job)

    low, high = shape.job.gpus // step, largest_batch // shape.least * shape.job.ranks // step
    if high <= low or not holds(high):
        return inf
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high * step


def _fastest(request: SearchRequest, runs: _Runs, shapes: list[TimedLayout]) -> int | None:
    """Return the number of GPUs on which the fastest layout of all is fastest."""
    for seconds, gpus, place in sorted((*runs.fastest(shape, shape.job.gpus), i) for i, shape in enumerate(shapes)):
        if seconds == inf:
            return None
        job = replace(shapes[place].job, gpus=gpus)
        shape = timed(job, request.calibration)
        if memory.fits(layouts.worst(job), job) and _best(request, shape, runs) is not None:
            return gpus
    return None


def _best(request: SearchRequest, shape: TimedLayout, runs: _Runs) -> Candidate | None:
    """Return a layout at its best minibatch that RunConfig accepts; None if it accepts none."""
    values = request.on(shape.job.gpus)
    return next(accepted([shape], runs.lengths, values, request.calibration, 1, Refusals()), None)


# When nothing fits.


@dataclass(frozen=True, kw_only=True)
class Instead:
    """A change after which a layout fits."""

    what: str
    """The change as a person would say or type it."""
    result: SearchResult


def instead(request: SearchRequest, nothing: SearchResult) -> Iterator[Instead]:
    """Yield what would fit if no layout of a search does: the nearest other numbers of GPUs, and other settings."""
    for counts in _around(nothing.gpus, request.node):
        tries = (request.at(gpus, listed=1) for gpus in counts)
        result = next((each for each in tries if each.candidates), None)
        if result is not None:
            yield Instead(what=f"{result.gpus:,} GPUs", result=result)
    values = request.on(nothing.gpus)
    for what, change in _changes(nothing):
        try:
            result = request.search({**values, **change})
        except ConfigError:
            continue
        if result.candidates:
            yield Instead(what=what, result=result)
    quantised = replace(request, quantised_weights=True).search(values)
    if quantised.candidates:
        yield Instead(what="--quantised-weights", result=quantised)


def _around(gpus: int, node: int) -> tuple[Iterable[int], Iterable[int]]:
    """Return the numbers below and above a number, the nearest first."""
    sizes = [*range(1, node), *range(node, gpus + (NEAR + 1) * node, node)]
    return [size for size in sizes if size < gpus][: -NEAR - 1 : -1], [size for size in sizes if size > gpus][:NEAR]


def _changes(nothing: SearchResult) -> Iterator[tuple[str, Mapping[str, str]]]:
    for precision in PRECISIONS:
        if precision != nothing.precision and nothing.gpu.peak(precision) is not None:
            yield f"--precision {precision}", {"FP8_RECIPE": "", "FP8_PARAM_GATHER": "", **precision_values(precision)}
    for change in (
        BF16_GRADIENTS,
        {"RECOMPUTE_GRANULARITY": "selective", "RECOMPUTE_MODULES": "mlp"},
        {"RECOMPUTE_GRANULARITY": "full", "RECOMPUTE_METHOD": "uniform", "RECOMPUTE_NUM_LAYERS": "1"},
    ):
        yield " ".join(f"{name}={value}" for name, value in change.items()), change
