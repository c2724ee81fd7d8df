"""Expected times of a run, as the planner estimates them for this trainer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmark.config import ConfigError, RunConfig
from benchmark.convergence import expected_samples
from harness.plan import memory
from harness.plan.calibration import load
from harness.plan.planner import job_of, pace_of
from harness.plan.time_to_target import Pace, outcomes, walltime


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The planner's estimates for a configuration."""

    pace: Pace
    shortest: float
    """Minutes of a job whose runs all end at the first likely evaluation, with steps as fast as the model's error
    allows.
    """
    usual: float
    """Minutes from run_start to the end of a run that needs the mean number of samples of the reference's seeds."""
    walltime: int
    """Minutes to request, as `llama31 plan` prints them."""
    worst: memory.Stage
    """The pipeline stage that needs the most memory."""
    fits: bool


def expected(config: RunConfig) -> Expected | None:
    """Return the estimates for a configuration; None if the planner does not know the GPU or its precision."""
    calibration = load()
    try:
        job = job_of(config, calibration)
    except ConfigError:
        return None
    pace = pace_of(config, job, calibration)
    # The fitted steps ran in a CUDA graph that this run does not use.
    if gain := calibration.graph_gain(job):
        pace = replace(pace, step=gain * pace.step, evaluation=gain * pace.evaluation)
    likely = outcomes(config.rules, config.schedule, pace, limit=config.step_limit)
    runs, worst = config.job.experiments, memory.worst(job)
    mean = expected_samples(config.rules, config.schedule)
    return Expected(
        pace=pace,
        shortest=runs * likely[0].minutes * (1 - pace.spread),
        usual=next((one for one in likely if one.samples >= mean), likely[-1]).minutes,
        walltime=walltime(likely[-1], pace, runs),
        worst=worst,
        fits=memory.fits(worst, job),
    )
