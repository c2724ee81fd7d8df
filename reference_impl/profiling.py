"""Traces some steps of some ranks for PROFILE=torch, into the folder of the log. Submitted runs never do this."""

from __future__ import annotations

from pathlib import Path

from torch.profiler import ProfilerActivity, profile, schedule

from benchmark.config import RunConfig


class StepProfiler:
    """Records the steps of a window and writes them when it ends; a rank that is not selected records nothing."""

    def __init__(self, config: RunConfig, rank: int) -> None:
        self._profile: profile | None = None
        log = config.process.result_file
        if rank not in config.job.profiled_ranks or log is None:
            return
        self._path = trace_of(log, rank)
        # The profiler's own start is kept out of the recording if there is a step before the window.
        first = config.job.profile_from - 1
        warmup = min(1, first)
        window = schedule(skip_first=first - warmup, wait=0, warmup=warmup, active=config.job.profile_steps, repeat=1)
        # Also record GPUs; without any, the profiler ignores the second kind.
        self._profile = profile(
            activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], schedule=window, on_trace_ready=self._write
        )
        self._profile.start()

    def step(self) -> None:
        """Note the end of a step."""
        if self._profile is not None:
            self._profile.step()

    def _write(self, recorded: profile) -> None:
        recorded.export_chrome_trace(str(self._path))


def trace_of(log: Path, rank: int) -> Path:
    """Return the name of a rank's trace: profile_0_rank3.json.gz for result_0.txt."""
    return log.with_name(f"profile_{log.stem.removeprefix('result_')}_rank{rank}.json.gz")
