"""The constants of the step-time model: how they are fitted to measured steps, and how they are stored.

Each constant multiplies terms of the step time and is fitted in its logarithm, with relative errors of the measured
steps against a broad Gaussian prior. So one measurement is enough to refit, constants that no measurement determines
stay where physics puts them, and the derivative of a step's log time by a log constant is the share of its terms.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmark.errors import RefusedError
from benchmark.sizes import SIZES, ModelSize
from harness.plan.job import TrainingJob
from harness.plan.step_time import Term, seconds, terms

SHIPPED = Path(__file__).with_name("calibration.json")

OWN = "own"
"""Release that stands for the software of a user's own logs."""

LOGGED_SPREAD = 0.015
"""Relative error of a median step from logs: two clusters with the same GPUs and configuration differ by 0.8 %."""

TABLED_SPREAD = 0.03
"""Relative error of a step from a framework's documentation: one configuration differs by 2 % between releases."""

UNCALIBRATED_SPREAD = 0.30
"""Possible error for a (GPU, precision) that was never measured: GB300, left out of the fit, was predicted 38 % off."""

SINGLE_SPREAD = 0.10
"""Possible error for a (GPU, precision) measured once: releases of a framework differ by 7 to 9 %."""

LEAST_SPREAD = 0.05
"""Smallest error that is claimed: rows of one software that agree say little about the next."""

FULL_GRAPH_GAIN: Mapping[str, float] = {"B200": 1.15, "GB200": 1.54, "GB300": 1.79}
"""Factor on a step in nvfp4 without a CUDA graph of the whole iteration, as NVIDIA has published it.

In fp8 there is no difference. The 405B submissions in nvfp4, from which the constants come, ran in such graphs, as does
a config with FULL_CUDA_GRAPH.
"""

WHOLE_GRAPHS = "405b"
"""The size whose nvfp4 steps were measured in such graphs. Those of 8B ran in graphs of one layer each, which this
trainer also has, except for the one on B300."""


@dataclass(frozen=True, slots=True)
class Prior:
    """What is assumed of a constant before any measurement: a log-normal distribution."""

    value: float
    spread: float
    """Standard deviation of the logarithm: 0.1 is 10 %."""


PRIORS: Mapping[str, Prior] = {
    "matmul": Prior(1.5, 0.1),  # dense matrix products reach two thirds of the datasheet's peak
    "attention": Prior(2.0, 0.15),
    "elementwise": Prior(2.0, 1.0),  # also covers whatever else grows with a layer's tokens: launch gaps, power limits
    "gpu": Prior(1.0, 0.1),  # relative to H100 or GB200
    "release": Prior(1.0, 0.1),  # relative to v5.0
    "stack": Prior(1.0, 0.05),  # relative to code tuned for MLPerf
    "tensor": Prior(0.3, 0.5),  # share of the transfer that is not hidden behind matrix products, as in the next three
    "traffic": Prior(0.5, 0.5),
    "latency": Prior(1.0, 0.5),
    "context": Prior(0.3, 0.5),
    "pipeline": Prior(0.3, 0.5),
    "data": Prior(0.5, 0.5),
    "fixed": Prior(0.2, 0.5),  # seconds a step
}
"""Priors by the first word of a constant's name."""


def physical_prior(name: str) -> Prior:
    return PRIORS[name.split(".")[0]]


class Constants(dict[str, float]):
    """Constants by name; one that was never fitted has the value of its prior."""

    def __missing__(self, name: str) -> float:
        return physical_prior(name).value

    def prior(self, name: str) -> Prior:
        """Return the prior of a constant, from whoever has measured it elsewhere."""
        return Prior(self[name], min(physical_prior(name).spread, 0.1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A step that was timed somewhere; times in seconds."""

    job: TrainingJob
    seconds: float
    """Median step."""
    source: str
    spread: float = LOGGED_SPREAD
    """Standard deviation of the step's logarithm that the fit allows."""
    evaluation: float | None = None
    """Seconds of an evaluation, divided by the steps that its samples would fill, divided by seconds of a step."""
    start: float | None = None
    """Seconds of a run outside its steps and evaluations: opening data, first steps, outliers."""

    @property
    def group(self) -> str:
        return group(self.job)


def group(job: TrainingJob) -> str:
    """Return what one measurement is evidence about: the GPU, the precision, and the model's size."""
    return f"{job.gpu.name} {job.precision} {job.size.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """How well the constants reproduce one measured step."""

    source: str
    group: str
    software: str
    gpus: int
    error: float
    """Predicted over measured, minus one."""
    left_out: float
    """The same, with constants that were fitted without this step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """The constants that fit the measured steps of one size of the model."""

    constants: Constants
    evaluation: float
    """As in Measured; the median."""
    start: float
    """As in Measured; the median."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Constants and where they come from."""

    sizes: Mapping[str, Fitted]
    """Constants by the name of the model's size. The terms are the same for all sizes, but what a small model's layers
    lose to short kernels, and a large one's to transfers and the pipeline, goes into constants of the same names.
    """
    residuals: tuple[Residual, ...]
    made: str
    """Date."""
    command: str

    def of(self, size: ModelSize) -> Fitted:
        """Return the constants of a size, or of the nearest measured one."""
        return self.sizes[nearest(size, self.sizes)]

    def spread(self, job: TrainingJob) -> float:
        """Return the possible relative error of a step: twice the root mean square of its group's left-out errors."""
        errors = [residual.left_out for residual in self.residuals if residual.group == group(job)]
        if not errors:
            return UNCALIBRATED_SPREAD
        if len(errors) == 1:
            return SINGLE_SPREAD
        return max(LEAST_SPREAD, 2 * fmean(error**2 for error in errors) ** 0.5)

    def measured(self, job: TrainingJob) -> int:
        """Return the number of steps in this job's group that the constants were fitted to."""
        return sum(residual.group == group(job) for residual in self.residuals)

    def graph_gain(self, job: TrainingJob) -> float | None:
        """Return the factor on a step without such a graph; None if the constants do not come from steps in one.

        Constants from a user's own logs describe the user's own steps.
        """
        whole = nearest(job.size, self.sizes) == WHOLE_GRAPHS
        if job.precision != "nvfp4" or job.release == OWN or not whole:
            return None
        return FULL_GRAPH_GAIN.get(job.gpu.name)

    def has_fp8_attention(self, job: TrainingJob) -> bool:
        """Return whether the measured steps of this job's kind used attention in fp8, which this trainer lacks.

        Nobody has published its gain, and no constant shows it: every 8B step in nvfp4 has it, and no other step does.
        """
        small = nearest(job.size, self.sizes) != WHOLE_GRAPHS
        return small and job.precision == "nvfp4" and job.release != OWN

    def software(self, gpu: str, precision: str, size: ModelSize) -> tuple[str, str]:
        """Return the (release, stack) to assume: the user's own if there is one, else the latest submission's."""
        group = f"{gpu} {precision} {nearest(size, self.sizes)}"
        known = [residual.software for residual in self.residuals if residual.group == group]
        order = sorted(known, key=lambda software: (software.startswith(OWN), software.endswith(" mlperf"), software))
        release, stack = (order[-1] if order else "v5.0 mlperf").split()
        return release, stack


def nearest(size: ModelSize, known: Mapping[str, Fitted]) -> str:
    """Return the name of the size in `known` whose layers are closest to those of `size` in parameters."""
    return min(known, key=lambda name: abs(log(SIZES[name].layer_parameters / size.layer_parameters)))


def calibrate(
    measured: Sequence[Measured], *, made: str, command: str, before: Calibration | None = None
) -> Calibration:
    """Fit constants to measured steps, and return them with each step's error, also when that step is left out.

    Args:
        before: source of constants that the measurements do not determine; physics if None.
    """
    sizes = dict(before.sizes) if before else {}
    residuals = list(before.residuals) if before else []
    for name in dict.fromkeys(row.job.size.name for row in measured):
        rows = [row for row in measured if row.job.size.name == name]
        known = before.of(SIZES[name]) if before else None
        sizes[name] = _fitted(rows, known)
        residuals += _residuals(rows, sizes[name].constants, known)
    return Calibration(sizes=sizes, residuals=tuple(residuals), made=made, command=command)


def _prior(known: Fitted | None) -> Callable[[str], Prior]:
    return physical_prior if known is None else known.constants.prior


def _fitted(rows: Sequence[Measured], known: Fitted | None) -> Fitted:
    """Return the constants and the pace of the rows of one size."""
    evaluations = [row.evaluation for row in rows if row.evaluation is not None]
    starts = [row.start for row in rows if row.start is not None]
    return Fitted(
        constants=Constants({**(known.constants if known else {}), **fit(rows, _prior(known))}),
        evaluation=median(evaluations) if evaluations else known.evaluation if known else 1 / 3,
        start=median(starts) if starts else known.start if known else 0.0,
    )


def _residuals(rows: Sequence[Measured], constants: Constants, known: Fitted | None) -> Iterator[Residual]:
    prior = _prior(known)
    for row in rows:
        others = [other for other in rows if other is not row]
        without = Constants({**constants, **fit(others, prior)})
        without.update({name: prior(name).value for name in _names(row) - _names(*others)})
        yield Residual(
            source=row.source,
            group=row.group,
            software=f"{row.job.release} {row.job.stack}",
            gpus=row.job.gpus,
            error=seconds(row.job, constants) / row.seconds - 1,
            left_out=seconds(row.job, without) / row.seconds - 1,
        )


def _names(*rows: Measured) -> set[str]:
    return {name for row in rows for term in terms(row.job) for name in term.constants}


# The fit.


def fit(measured: Sequence[Measured], prior: Callable[[str], Prior] = physical_prior) -> Constants:
    """Return the most probable constants, given measured steps: Gauss-Newton on logarithms."""
    rows = [(terms(row.job), log(row.seconds), row.spread) for row in measured]
    names = sorted(_names(*measured))
    constants = Constants({name: prior(name).value for name in names})
    for _ in range(50):
        change = _change(rows, names, constants, prior)
        for name, step in zip(names, change, strict=True):
            constants[name] *= exp(max(-1.0, min(1.0, step)))
        if max(map(abs, change), default=0.0) < 1e-9:
            break
    return constants


def _change(
    rows: Sequence[tuple[Sequence[Term], float, float]],
    names: Sequence[str],
    constants: Constants,
    prior: Callable[[str], Prior],
) -> list[float]:
    """Return one step of Gauss-Newton, in the order of `names`: least squares over priors and measured steps."""
    import numpy as np

    index = {name: i for i, name in enumerate(names)}
    matrix, right = np.zeros((len(names) + len(rows), len(names))), np.zeros(len(names) + len(rows))
    for name, i in index.items():
        matrix[i, i] = 1 / prior(name).spread
        right[i] = log(prior(name).value / constants[name]) / prior(name).spread
    for row, (step_terms, measured, spread) in enumerate(rows, start=len(names)):
        calibrated = [(term, term.calibrated(constants)) for term in step_terms]
        total = sum(value for _, value in calibrated)
        for term, value in calibrated:
            for name in term.constants:
                matrix[row, index[name]] += value / total / spread
        right[row] = (measured - log(total)) / spread
    change: list[float] = np.linalg.lstsq(matrix, right)[0].tolist()
    return change


# The file.


def load(path: Path = SHIPPED) -> Calibration:
    """Read a calibration from its file.

    Raises:
        RefusedError: the file is not a calibration.
    """
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Calibration(
            sizes={SIZES[name].name: _of_values(values) for name, values in fields["sizes"].items()},
            residuals=tuple(Residual(**residual) for residual in fields["residuals"]),
            made=fields["made"],
            command=fields["command"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RefusedError(f"{path} is not a calibration file: {type(error).__name__}: {error}") from None


def _of_values(values: Mapping[str, Any]) -> Fitted:
    return Fitted(constants=Constants(values["constants"]), evaluation=values["evaluation"], start=values["start"])


def dump(calibration: Calibration) -> str:
    """Return a calibration as the text of its file."""
    fields = {
        "made": calibration.made,
        "command": calibration.command,
        "sizes": {name: _values(fitted) for name, fitted in calibration.sizes.items()},
    }
    head = json.dumps(fields, indent=2)[:-2]
    rows = ",\n".join(f"    {json.dumps(_row(residual))}" for residual in calibration.residuals)
    return f'{head},\n  "residuals": [\n{rows}\n  ]\n}}\n'


def _values(fitted: Fitted) -> dict[str, object]:
    return {
        "constants": {name: round(value, 4) for name, value in sorted(fitted.constants.items())},
        "evaluation": round(fitted.evaluation, 4),
        "start": round(fitted.start, 1),
    }


def _row(residual: Residual) -> dict[str, object]:
    return {
        "source": residual.source,
        "group": residual.group,
        "software": residual.software,
        "gpus": residual.gpus,
        "error": round(residual.error, 4),
        "left_out": round(residual.left_out, 4),
    }
