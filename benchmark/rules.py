"""The rules of the benchmarks, one row for each benchmark and ruleset; benchmark.benchmarks finds them.

The trainer takes its schedule from these rows and the checker judges by them, so a run cannot be trained by one rule
and judged by another. To add a ruleset, add a `replace(...)` row to its benchmark's.

Sources: MLCommons training_policies `training_rules.adoc` (hyperparameter and evaluation tables of llama31_405b and
llama31_8b) and the RCP files of mlperf_logging 4.1.68; `tests/benchmark/test_rules.py` compares the rows with those
files.

A sample is one sequence of tokens, as MLPerf counts them; all lengths are in samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, cos, floor, pi
from typing import TypeVar

from benchmark.errors import HarnessError

_Number = TypeVar("_Number", int, float)


def _ceil_div(numerator: int, denominator: int) -> int:
    """Return CEIL(numerator / denominator) exactly; math.ceil of a float quotient is off by one for large numbers."""
    return -(-numerator // denominator)


@dataclass(frozen=True, kw_only=True)
class ReferencePoint:
    """A reference convergence point (RCP): how many samples the reference needed at one global batch size."""

    global_batch_size: int
    samples: tuple[int, ...]
    """Samples to the target, one entry for each seed."""
    base_learning_rate: float | None = None
    """The reference's learning rate at this batch size; None where the ruleset fixes it."""
    warmup_samples: int | None = None
    """The reference's warm-up; None where the ruleset fixes it."""

    @property
    def mean(self) -> float:
        """The mean of all seeds, in samples."""
        return sum(self.samples) / len(self.samples)


@dataclass(frozen=True, kw_only=True)
class ScaledLearningRate:
    """A learning rate that the global batch size decides: peak, warm-up and decay scale from one reference batch."""

    base: float
    """Peak learning rate at `batch`."""
    batch: int
    """The reference batch, in samples."""
    end: float
    """Learning rate at the end of the decay, the same for every batch size."""
    warmup_steps: int
    """Warm-up steps at `batch`."""
    total_steps: int
    """Steps of warm-up and decay together, at `batch`."""

    def peak(self, gbs: int) -> float:
        """Return `base * gbs / batch`, multiplied first.

        The official checker tests doubles for equality. Only this order of evaluation passes wherever any value can.
        The policy's text rounds to 8 decimals, which that checker rejects at 97 % of the batch sizes.
        """
        return self.base * gbs / self.batch

    def verifiable(self, gbs: int) -> bool:
        """Return whether `peak` passes the official checker's test; at 9 % of the batch sizes no double does."""
        return self.peak(gbs) * self.batch == gbs * self.base

    def nearest_verifiable(self, gbs: int) -> tuple[int, ...]:
        """Return the closest batch sizes below and above `gbs` that are verifiable."""
        below = next((b for b in range(gbs - 1, 0, -1) if self.verifiable(b)), None)
        above = next(b for b in range(gbs + 1, 4 * gbs + 2) if self.verifiable(b))
        return (above,) if below is None else (below, above)


@dataclass(frozen=True, kw_only=True)
class FreeLearningRate:
    """A learning rate that the submitter chooses (llama31_8b); the steps do not depend on the batch size."""

    end_fraction: float
    """End learning rate divided by peak learning rate."""
    total_steps: int
    """Steps of warm-up and decay together."""


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """The hyperparameters of the optimizer, with the values of the closed division."""

    beta_1: float = 0.9
    beta_2: float = 0.95
    epsilon: float = 1e-5
    weight_decay: float = 0.1
    gradient_clip_norm: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rate and evaluations at one global batch size, in optimizer steps."""

    global_batch_size: int
    base_learning_rate: float
    end_learning_rate: float
    warmup_steps: int
    decay_steps: int
    """Steps from the end of the warm-up to the end learning rate."""
    max_steps: int
    """Steps of the whole schedule. A run must not stop between two evaluations because of it."""
    eval_interval_steps: int
    skipped_evals: int
    """Evaluations that are skipped at the start of a run."""

    @property
    def first_eval_step(self) -> int:
        """The step after which the first evaluation comes."""
        return (self.skipped_evals + 1) * self.eval_interval_steps

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 1: linear warm-up, then a cosine down to the end rate.

        The first step has peak / (warm-up + 1), as in the reference (NeMo's CosineAnnealing).
        """
        peak, end, decayed = self.base_learning_rate, self.end_learning_rate, step - 1 - self.warmup_steps
        if decayed <= 0:
            return peak * step / (self.warmup_steps + 1)
        return end + (peak - end) * (1 + cos(pi * min(1.0, decayed / self.decay_steps))) / 2

    def evaluation_from(self, samples: float) -> int:
        """Return the position of the first evaluation after at least `samples` samples, in samples."""
        first, interval = (steps * self.global_batch_size for steps in (self.first_eval_step, self.eval_interval_steps))
        return first + interval * max(0, _ceil_div(ceil(samples) - first, interval))

    def evaluation_steps(self, max_steps: int | None = None) -> Iterator[int]:
        """Yield each step after which an evaluation is due, up to `max_steps` (the rules' own limit if None)."""
        limit = self.max_steps if max_steps is None else min(max_steps, self.max_steps)
        yield from range(self.first_eval_step, limit + 1, self.eval_interval_steps)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """One benchmark under one ruleset."""

    benchmark: str
    ruleset: str
    target_log_perplexity: float
    """A run succeeds at its first evaluation with this value or a smaller one."""
    sequence_length: int = 8192
    """Tokens."""
    eval_sequences: int
    """Samples of every evaluation, exactly, whatever the batch size."""
    eval_every_sequences: int
    """Samples between evaluations: one comes every CEIL(this / GBS) steps."""
    accepted_cadences: range = range(0)
    """Other intervals, in samples, which accepted results kept from start to end."""
    skip_slope: Fraction = Fraction(0)
    """Skipped evaluations for each sample of the batch; see skipped_evals."""
    skip_intercept: int = 0
    """Skipped evaluations that do not depend on the batch; see skipped_evals."""
    learning_rate: ScaledLearningRate | FreeLearningRate
    optimizer: AdamW = AdamW()
    max_global_batch_size: int | None = None
    """Samples; None where the rules set no limit."""
    runs: int
    """Runs that make a result."""
    init_limit_minutes_closed: int = 30
    """Limit from init_start to init_stop in the closed division."""
    init_limit_minutes_open: int = 240
    """The same limit in the open division."""
    init_checkpoint_step: int | None = None
    """The logged step of the initial checkpoint; None where weights are drawn at random."""
    fixed_max_steps: int | None = None
    """The logged max_steps; None where the ruleset leaves it free."""
    reference_points: tuple[ReferencePoint, ...]
    convergence_allowance: int = 0
    """Samples by which a result may converge faster than the t-test allows. By the policy, in v5.0 only."""
    convergence_allowance_official: int = 0
    """Samples that the official rcp_checker allows instead: it still has the exception of v5.0."""
    official_open_fault: str = ""
    """What the official checker asks of every log of the open division although no log of the benchmark can have it.

    Empty where its rules of that division fit the benchmark. Source: open_<benchmark>.yaml (compared in a test).
    """

    @property
    def largest_batch(self) -> int:
        """The largest global batch size that the rules allow or, if they set no limit, that has a reference point."""
        points = [point.global_batch_size for point in self.reference_points]
        return self.max_global_batch_size or max(points, default=0)

    def skipped_evals(self, gbs: int) -> int:
        """Return the number of evaluations skipped at the start: FLOOR(slope * GBS + intercept)."""
        return floor(self.skip_slope * gbs + self.skip_intercept)

    def eval_interval_steps(self, gbs: int) -> int:
        """Return the steps from one evaluation to the next."""
        return _ceil_div(self.eval_every_sequences, gbs)

    def evaluated_as(self, other: Rules) -> Rules:
        """Return these rules with the evaluations of other ones."""
        return replace(
            self,
            eval_every_sequences=other.eval_every_sequences,
            skip_slope=other.skip_slope,
            skip_intercept=other.skip_intercept,
        )

    def reference_point(self, gbs: int) -> ReferencePoint | None:
        """Return the reference convergence point at exactly this batch size, if there is one."""
        return next((point for point in self.reference_points if point.global_batch_size == gbs), None)

    def schedule(self, gbs: int, *, learning_rate: float | None = None, warmup_steps: int | None = None) -> Schedule:
        """Return the schedule at a global batch size.

        Args:
            gbs: the global batch size, in samples.
            learning_rate: the peak, if the ruleset leaves it free; that of the reference point at this size if None.
            warmup_steps: likewise.

        Raises:
            RuleViolationError: a value is given that the ruleset fixes, or is missing where it is free.
        """
        rate = self.learning_rate
        if isinstance(rate, ScaledLearningRate):
            _refuse_fixed(self, gbs, learning_rate, warmup_steps)
            peak, end = rate.peak(gbs), rate.end
            total = _ceil_div(rate.total_steps * rate.batch, gbs)
            warmup = _ceil_div(rate.warmup_steps * rate.batch, gbs)
        else:
            peak, warmup = _free_choice(self, gbs, learning_rate, warmup_steps)
            end, total = rate.end_fraction * peak, rate.total_steps
        return Schedule(
            global_batch_size=gbs,
            base_learning_rate=peak,
            end_learning_rate=end,
            warmup_steps=warmup,
            decay_steps=total - warmup,
            max_steps=total,
            eval_interval_steps=self.eval_interval_steps(gbs),
            skipped_evals=self.skipped_evals(gbs),
        )

    def open_schedule(
        self,
        gbs: int,
        *,
        learning_rate: float | None = None,
        warmup_steps: int | None = None,
        end_learning_rate: float | None = None,
        decay_steps: int | None = None,
    ) -> Schedule:
        """Return the schedule in the open division: that of the closed division, except for the values that are given.

        Warm-up and decay together take as many steps as there, unless `decay_steps` is given.

        Raises:
            RuleViolationError: the closed division has no default for a value that is not given.
        """
        if isinstance(self.learning_rate, ScaledLearningRate):
            closed = self.schedule(gbs)
        else:
            closed = self.schedule(gbs, learning_rate=learning_rate, warmup_steps=warmup_steps)
        warmup = _or(warmup_steps, closed.warmup_steps)
        decay = _or(decay_steps, closed.max_steps - warmup)
        return replace(
            closed,
            base_learning_rate=_or(learning_rate, closed.base_learning_rate),
            end_learning_rate=_or(end_learning_rate, closed.end_learning_rate),
            warmup_steps=warmup,
            decay_steps=decay,
            max_steps=warmup + decay,
        )


def _or(given: _Number | None, otherwise: _Number) -> _Number:
    return otherwise if given is None else given


class RuleViolationError(HarnessError):
    """A value is given that the ruleset fixes, or is missing where the submitter has to choose it."""


def _refuse_fixed(rules: Rules, gbs: int, learning_rate: float | None, warmup_steps: int | None) -> None:
    values = {"LEARNING_RATE": learning_rate, "WARMUP_STEPS": warmup_steps}
    chosen = [f"{name}={value}" for name, value in values.items() if value is not None]
    if chosen:
        raise RuleViolationError(
            f"{', '.join(chosen)}: {rules.benchmark} {rules.ruleset} derives learning rate and warm-up from global "
            f"batch size {gbs}; unset them, or set MLPERF_SUBMISSION_DIVISION=open"
        )


def _free_choice(rules: Rules, gbs: int, learning_rate: float | None, warmup_steps: int | None) -> tuple[float, int]:
    point = rules.reference_point(gbs)
    if learning_rate is None and point is not None:
        learning_rate = point.base_learning_rate
    if warmup_steps is None and point is not None and point.warmup_samples is not None:
        warmup_steps = _ceil_div(point.warmup_samples, gbs)
    if learning_rate is None or warmup_steps is None:
        known = ", ".join(str(p.global_batch_size) for p in rules.reference_points)
        raise RuleViolationError(
            f"LEARNING_RATE and WARMUP_STEPS: {rules.benchmark} {rules.ruleset} leaves them to the submitter and has "
            f"no reference point at global batch size {gbs} (it has points at {known}); set both"
        )
    return learning_rate, warmup_steps


_EPOCHS = "an epoch_num with each eval_accuracy, but the benchmark counts samples"
_BELOW_ONE = "an eval_accuracy below 1.0 (a placeholder in its file), but the target is a log perplexity of 3.3"


def _points(*rows: tuple[int, tuple[int, ...]]) -> tuple[ReferencePoint, ...]:
    return tuple(ReferencePoint(global_batch_size=gbs, samples=samples) for gbs, samples in rows)


_LLAMA31_405B_500 = Rules(
    benchmark="llama31_405b",
    ruleset="5.0.0",
    target_log_perplexity=5.6,
    eval_sequences=5760,
    eval_every_sequences=46080,
    learning_rate=ScaledLearningRate(base=8e-5, batch=1152, end=8e-7, warmup_steps=8000, total_steps=1_200_000),
    max_global_batch_size=9216,
    runs=3,
    init_checkpoint_step=0,
    reference_points=_points(
        (1008, (324576,) * 6),
        (1152, (322560,) * 6),
        (2304, (368640, 368640, 368640, 368640, 414720, 414720)),
        (4608, (460800, 460800, 506880, 506880, 506880, 506880)),
        (6912, (580608, 580608, 580608, 628992, 628992, 628992)),
        (9216, (645120, 645120, 691200, 691200, 737280, 737280)),
    ),
    convergence_allowance=46080,
    convergence_allowance_official=46080,
    official_open_fault=_EPOCHS,
)

_LLAMA31_405B_510 = replace(
    _LLAMA31_405B_500,
    ruleset="5.1.0",
    eval_every_sequences=18432,
    skip_slope=Fraction(26, 10_000),
    skip_intercept=12,
    reference_points=_points(
        (1152, (313344, 313344, 313344, 331776, 313344, 294912)),
        (2304, (368640, 350208, 387072, 368640, 368640, 368640)),
        (4608, (497664, 497664, 460800, 497664, 479232, 497664)),
    ),
    convergence_allowance=0,
)

# The samples of a reference point are in the order of the RCP file.
_LLAMA31_8B_510 = Rules(
    benchmark="llama31_8b",
    ruleset="5.1.0",
    target_log_perplexity=3.3,
    eval_sequences=1024,
    eval_every_sequences=12288,
    # Results of v5.1 have 6144 (University of Florida), 8192 (HPE), 21888 (Cisco), 24576 and 49152; no official tool
    # looks at the interval.
    accepted_cadences=range(6144, 49152 + 1),
    # The end rate is that of the table of hyperparameters (base * 0.1); the official file only checks the decay.
    learning_rate=FreeLearningRate(end_fraction=0.1, total_steps=1_200_000),
    runs=10,
    fixed_max_steps=1_200_000,
    official_open_fault=_BELOW_ONE,
    reference_points=(
        ReferencePoint(
            global_batch_size=16,
            samples=(159744,) * 6 + (172032, 159744, 172032, 159744, 172032) + (159744,) * 9,
            base_learning_rate=4e-4,
            warmup_samples=256,
        ),
        ReferencePoint(
            global_batch_size=32,
            samples=(
                *(196608, 172032, 184320, 184320, 172032, 172032, 184320, 184320, 184320, 172032),
                *(172032, 172032, 184320, 184320, 184320, 172032, 172032, 172032, 184320, 184320),
            ),
            base_learning_rate=8e-4,
            warmup_samples=4096,
        ),
        ReferencePoint(
            global_batch_size=64,
            samples=(
                *(233472, 208896, 208896, 233472, 233472, 233472, 233472, 233472, 208896, 233472),
                *(233472, 233472, 245760, 221184, 208896, 233472, 233472, 221184, 221184, 221184),
            ),
            base_learning_rate=8e-4,
            warmup_samples=6144,
        ),
        ReferencePoint(
            global_batch_size=96,
            samples=(
                *(297216, 284832, 272448, 272448, 272448, 272448, 297216, 272448, 297216, 272448),
                *(297216, 260064, 272448, 272448, 272448, 284832, 260064, 284832, 284832, 272448),
            ),
            base_learning_rate=1e-3,
            warmup_samples=16348,
        ),
        ReferencePoint(
            global_batch_size=128,
            samples=(
                *(368640, 344064, 356352, 344064, 368640, 368640, 405504, 344064, 331776, 307200),
                *(331776, 380928, 307200, 344064, 319488, 356352, 331776, 319488, 356352, 331776),
            ),
            base_learning_rate=2e-3,
            warmup_samples=32768,
        ),
    ),
)

# Our own rules, in the shape of llama31_405b's. 90 samples of an evaluation are not a multiple of the default batch, so
# that a partial last batch is exercised.
_LLAMA31_TINY = Rules(
    benchmark="llama31_tiny",
    ruleset="6.0.0",
    target_log_perplexity=5.9,
    sequence_length=128,
    eval_sequences=90,
    eval_every_sequences=256,
    skip_slope=Fraction(1, 16),
    skip_intercept=3,
    learning_rate=ScaledLearningRate(base=4e-3, batch=16, end=4e-5, warmup_steps=20, total_steps=1000),
    max_global_batch_size=128,
    runs=3,
    # Measured with seeds 1 to 6, two processes, fp32, on 2026-11-23.
    reference_points=_points((16, (1792, 1792, 2048, 1792, 1792, 2048))),
)

LLAMA31_405B_RULES = (
    _LLAMA31_405B_500,
    _LLAMA31_405B_510,
    replace(_LLAMA31_405B_510, ruleset="6.0.0", official_open_fault=""),
)
LLAMA31_8B_RULES = (
    _LLAMA31_8B_510,
    replace(_LLAMA31_8B_510, ruleset="6.0.0"),
    replace(_LLAMA31_8B_510, ruleset="6.1.0"),
)
LLAMA31_TINY_RULES = (_LLAMA31_TINY,)
