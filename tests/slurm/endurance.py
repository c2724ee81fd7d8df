"""python -m tests.slurm.endurance: thirty faults in three jobs of two runs, on a real Slurm of two emulated nodes.

The real trainer, fixed seeds. What each kind of fault must end in is said before anything is broken (`ENDS`). A run
that can finish must have the evaluations of the undisturbed one, bit for bit, and a log that is valid. Prints the table
of docs/faults.md as it comes. `--slow` runs one of the jobs. Exit status: 0 all of it held, 1 something did not.

Needs root, Debian's Slurm (`tests.slurm.cluster.PACKAGES`) and two gigabytes of memory for the disks that run full.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmark.checkpoints import complete_in
from benchmark.mllog import Event
from benchmark.run_record import KILLED, read
from compliance.check import check_paths
from tests.fakes import read_events
from tests.slurm.cluster import ENDED, Cluster, wait_for, why_not
from tests.slurm.conftest import Jobs
from tests.slurm.test_job import rank

ENDS = {
    "rank": "SIGKILL of a rank: the job requeues itself, and the run resumes from its last checkpoint",
    "node": "a node loses power: Slurm requeues the job, and the run resumes",
    "requeue": "scontrol requeue: the run resumes",
    "launcher": "SIGKILL of the job's own process: the job fails, and run.json reads killed; a job with RESUME "
    "continues",
    "damaged": "a bit of the newest checkpoint flips, then a rank is killed: the damage is reported, and the run "
    "resumes from the checkpoint before",
    "writer": "SIGKILL of a process that writes a checkpoint: it is reported at the next step; training continues "
    "without that checkpoint",
    "stop": "the same with SAVE_FAILURE=stop: the run is aborted with the reason, and the job fails with status 1",
    "saves full": "no space in SAVE_CHECKPOINT: it is reported with the folder and both numbers, and training "
    "continues",
    "logs full": "no space in LOGDIR: status 2, one line with the folder, no half line; once there is space, RESUME "
    "continues",
    "hang": "a rank hangs after run_stop success: the run counts, its processes are ended, and the next run starts",
    "cancel": "scancel: run_stop aborted, and the job is CANCELLED",
}
"""Kind of fault -> what is broken, and the expected end."""

PLAN: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("rank", "saves full", "writer", "node", "hang"), ("launcher", "writer", "damaged", "requeue", "hang")),
    (("node", "logs full", "rank", "writer", "requeue"), ("rank", "saves full", "damaged", "writer", "cancel")),
    (("launcher", "rank", "node", "requeue", "logs full"), ("damaged", "node", "rank", "launcher", "stop")),
)
"""The faults of each job: of its first run, and of its second."""

SEED_BASE, INTERVAL, FIRST, LAST = 3, 8, 20, 100
"""Steps between saves; faults come after steps from FIRST to LAST, when there are two checkpoints to go on from."""

TRAINING = {"DGXNGPU": 1, "MINIBS": 8, "MICRO_BATCH_SIZE": 8, "NEXP": 2, "SEED": None, "SEED_BASE": SEED_BASE}

DISK_BYTES = {"saved": 1_500_000_000, "logs": 16_000_000}

_HOOK = """
import atexit, os, pathlib, sys, time

def hang():
    here = pathlib.Path(__file__).with_name("hang")
    if os.environ.get("RANK") == "1" and "reference_impl.pretrain" in sys.orig_argv and here.exists():
        here.unlink()
        time.sleep(3600)

atexit.register(hang)
"""
"""A rank's sitecustomize: with a file `hang` beside it, rank 1 does not end after a success."""


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@dataclass
class Bench(Jobs):
    """The job of some runs, with disks of its own that can be filled."""

    disks: Path = Path()
    variables: dict[str, object] = field(default_factory=dict)

    @property
    def logs(self) -> Path:
        return self.disks / "logs" / self.folder.name

    @property
    def saved(self) -> Path:
        return self.disks / "saved" / self.folder.name

    @property
    def hook(self) -> Path:
        return self.folder / "hook"

    def begin(self, **variables: object) -> int:
        self.hook.mkdir(parents=True, exist_ok=True)
        (self.hook / "sitecustomize.py").write_text(_HOOK)
        self.logs.mkdir(parents=True, exist_ok=True)
        saving = {"SAVE_CHECKPOINT": self.saved, "SAVE_INTERVAL": INTERVAL, "NPAR": 100, "PYTHONPATH": self.hook}
        return self.submit({**TRAINING, **saving, **self.variables, **variables})

    @property
    def state(self) -> str:
        return self.cluster.state(self.numbers[-1])

    def log(self, run: int) -> Path:
        return next(self.logs.glob(f"tiny/*/result_{run}.txt"), self.logs / "none")

    def said(self, run: int, name: str, since: float = 0.0) -> list[Event]:
        """The run's tracked_stats with such a value, after a time in seconds since the epoch."""
        log = self.log(run)
        events = read_events(log) if log.exists() else []
        new = (event for event in events if event.time_ms > since * 1000)
        return [event for event in new if isinstance(event.value, dict) and name in event.value]

    def wait_for_step(self, run: int, step: int, since: float) -> None:
        """Return when the run has taken the step since then."""

        def taken() -> bool:
            return any(event.metadata["step"] >= step for event in self.said(run, "train_step_time", since))

        self._wait(taken, f"no step {step} of run {run}")

    def wait_to_say(self, run: int, name: str, since: float) -> Any:
        self._wait(lambda: bool(self.said(run, name, since)), f"run {run} does not say {name}")
        return self.said(run, name, since)[0].value

    def _wait(self, condition: Callable[[], bool], fault: str) -> None:
        def over() -> bool:
            return self.state in ENDED

        wait_for(lambda: condition() or over(), fault, self.output)
        if not condition():
            raise AssertionError(f"{fault}: the job ended, {self.state}")

    def go_on(self) -> None:
        """Another job takes the folder over."""
        self.begin(RESUME=self.results())


def fail(jobs: Bench, run: int, kind: str, dice: random.Random) -> str:
    """Bring the fault about and see it through to where training goes on, or to the end; what was seen.

    Raises:
        AssertionError: it did not end as it must.
    """
    since = time.time()
    return FAULTS[kind](jobs, run, since, dice)


def resumed(jobs: Bench, run: int, since: float) -> str:
    value = jobs.wait_to_say(run, "resumed", since)
    damaged = f", {value['damaged'][0].partition(':')[0]}" if "damaged" in value else ""
    return f"resumed after {value['outage']:.0f} s, {value['recomputed_steps']} steps repeated{damaged}"


def kill_rank(jobs: Bench, run: int, since: float, dice: random.Random) -> str:
    number = dice.randrange(2)
    rank(jobs, number).kill()
    return f"rank {number}: {resumed(jobs, run, since)}"


def kill_node(jobs: Bench, run: int, since: float, dice: random.Random) -> str:
    del dice
    jobs.cluster.kill_node("n2")
    jobs.cluster.start_node("n2")
    return resumed(jobs, run, since)


def requeue(jobs: Bench, run: int, since: float, dice: random.Random) -> str:
    del dice
    jobs.cluster.command("scontrol", "requeue", str(jobs.numbers[-1]))
    return resumed(jobs, run, since)


def kill_launcher(jobs: Bench, run: int, since: float, dice: random.Random) -> str:
    del dice
    (launcher,) = (one for one in jobs.cluster.processes_on("n1") if one.cmdline()[1:4] == ["-m", "harness", "job"])
    launcher.kill()
    state = jobs.cluster.wait(jobs.numbers[-1])
    # Slurm ends the ranks after the job's own process.
    wait_for(lambda: status_of(jobs, run) == KILLED, "run.json does not say that the run was killed", jobs.output)
    jobs.go_on()
    return f"job {state}, run.json {KILLED}; {resumed(jobs, run, since)}"


def status_of(jobs: Bench, run: int) -> str:
    return read(jobs.results() / "run.json").experiments[run].status


def damage(jobs: Bench, run: int, since: float, dice: random.Random) -> str:
    newest = complete_in(jobs.saved / jobs.results().name / f"result_{run}")[0]
    victim = dice.choice(sorted(path for path in newest.iterdir() if path.name != "resume.json"))
    with victim.open("r+b") as file:
        file.seek(dice.randrange(victim.stat().st_size))
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1 << dice.randrange(8)]))
    rank(jobs, dice.randrange(2)).kill()
    seen = resumed(jobs, run, since)
    assert f"{newest.name} is damaged" in seen, seen
    return f"{victim.name}: {seen}"


def kill_writer(jobs: Bench, run: int, since: float, dice: random.Random) -> str:
    number = dice.randrange(2)
    victim = rank(jobs, number)
    command = victim.cmdline()

    def caught() -> bool:
        writers = [child for child in victim.children() if child.cmdline() == command]
        for writer in writers:
            writer.kill()
        return bool(writers)

    while not caught():
        time.sleep(0.005)
    killed = time.time()
    value = jobs.wait_to_say(run, "save_failed", since)
    assert "was killed (SIGKILL)" in value["save_failed"], value
    return f"{value['save_failed']}; reported after {time.time() - killed:.1f} s"


def stop_by_writer(jobs: Bench, run: int, since: float, dice: random.Random) -> str:
    seen = kill_writer(jobs, run, since, dice)
    assert jobs.cluster.wait(jobs.numbers[-1]) == "FAILED", jobs.output()
    (stop,) = (event for event in jobs.events(run) if event.key == "run_stop")
    assert str(stop.metadata["reason"]).startswith("SaveFailedError: step "), stop
    code = jobs.cluster.job(jobs.numbers[-1])["ExitCode"]
    assert (stop.metadata["status"], code) == ("aborted", "1:0"), (stop, code)
    return f"{seen}; run_stop aborted, status {code}"


def fill_saves(jobs: Bench, run: int, since: float, dice: random.Random) -> str:
    del dice
    with filled(jobs.disks / "saved"):
        value = jobs.wait_to_say(run, "save_failed", since)
    assert "bytes free, and a checkpoint takes" in value["save_failed"], value
    return str(value["save_failed"].replace(str(jobs.disks), "."))


def fill_logs(jobs: Bench, run: int, since: float, dice: random.Random) -> str:
    del dice
    with filled(jobs.disks / "logs"):
        jobs.cluster.wait(jobs.numbers[-1])
        code = jobs.cluster.job(jobs.numbers[-1])["ExitCode"]
        (cause,) = (line for line in jobs.output().splitlines() if line.startswith(f"cause     run {run}: LOGDIR="))
        status = status_of(jobs, run)
    assert code == "2:0", code
    assert jobs.log(run).read_bytes().endswith(b"\n")
    jobs.go_on()
    cause = cause.removeprefix("cause     ").replace(str(jobs.disks), ".")
    return f"status {code}, run.json {status!r}, {cause}; {resumed(jobs, run, since)}"


def hang(jobs: Bench, run: int, since: float, dice: random.Random) -> str:
    del since, dice
    (jobs.hook / "hang").touch()
    jobs._wait(lambda: not (jobs.hook / "hang").exists(), "no rank has hung")
    began = time.time()
    jobs._wait(lambda: status_of(jobs, run) == "success" or jobs.state in ENDED, f"run {run} is not over")
    assert status_of(jobs, run) == "success"
    return f"success, {time.time() - began:.0f} s later"


def cancel(jobs: Bench, run: int, since: float, dice: random.Random) -> str:
    del since, dice
    jobs.cluster.command("scancel", str(jobs.numbers[-1]))
    assert jobs.cluster.wait(jobs.numbers[-1]) == "CANCELLED"
    wait_for(lambda: jobs.events(run)[-1].key == "train_samples", "the log is not closed", jobs.output)
    (stop,) = (event for event in jobs.events(run) if event.key == "run_stop")
    assert stop.metadata["status"] == "aborted"
    return f"CANCELLED, run_stop aborted: {stop.metadata['reason']}"


FAULTS: Mapping[str, Callable[[Bench, int, float, random.Random], str]] = {
    "rank": kill_rank,
    "node": kill_node,
    "requeue": requeue,
    "launcher": kill_launcher,
    "damaged": damage,
    "writer": kill_writer,
    "stop": stop_by_writer,
    "saves full": fill_saves,
    "logs full": fill_logs,
    "hang": hang,
    "cancel": cancel,
}

LAST_OF_JOB = {"stop", "cancel"}
"""After these there is nothing to finish."""


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Until the block ends, the disk is full to the last byte."""
    ballast = disk / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        yield
    finally:
        ballast.unlink()


@contextmanager
def mounted(folder: Path) -> Iterator[Path]:
    """Small disks, which nodes that are started in the block see, too."""
    for name, size in DISK_BYTES.items():
        (folder / name).mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder / name)], check=True)
    try:
        yield folder
    finally:
        for name in DISK_BYTES:
            subprocess.run(["umount", "--lazy", str(folder / name)], check=True)


def evaluations(jobs: Bench, run: int) -> list[tuple[int, float]]:
    events = (event for event in jobs.events(run) if event.key == "eval_accuracy")
    return [(event.metadata["samples_count"], event.value) for event in events]


def whole(jobs: Bench, run: int, expected: Sequence[tuple[int, float]]) -> str:
    """How a run that could finish has; empty where it is as if nothing had happened."""
    events = jobs.events(run)
    keys, times = [event.key for event in events], [event.time_ms for event in events]
    found = evaluations(jobs, run)
    faults = {
        f"evaluations {found}": found != expected,
        "the log is not valid": not check_paths([jobs.log(run)]).passed,
        "times run back": times != sorted(times),
        "the clock was started or stopped twice": [keys.count("run_start"), keys.count("run_stop")] != [1, 1],
    }
    return "; ".join(fault for fault, there in faults.items() if there)


def one_job(jobs: Bench, plan: Sequence[Sequence[str]], expected: Sequence[Any], dice: random.Random) -> int:
    """Submit a job, break it as planned, and compare its runs with the undisturbed ones; how much did not hold."""
    failed, broken = 0, False
    jobs.begin()
    for run, kinds in enumerate(plan):
        steps = sorted(dice.sample(range(FIRST, LAST, INTERVAL), len(kinds)))
        since = 0.0
        for kind, step in zip(kinds, steps, strict=True):
            try:
                if broken:
                    raise AssertionError("not tried: the job is as the fault before has left it")
                jobs.wait_for_step(run, step, since)
                seen, held = fail(jobs, run, kind, dice), "held"
            except (AssertionError, TimeoutError, ValueError, OSError, psutil.Error) as error:
                seen, held, broken = str(error).partition("\n")[0][:300], "**did not hold**", True
            failed += held != "held"
            say(f"| {jobs.folder.name} | {run} | {step} | {kind} | {seen} | {held} |")
            since = time.time()
        if kinds[-1] not in LAST_OF_JOB and not broken:
            jobs._wait(lambda run=run: status_of(jobs, run) == "success", f"run {run} does not end")  # type: ignore[misc]
            fault = whole(jobs, run, expected[run])
            failed += bool(fault)
            last = "its last evaluation equals the undisturbed run's, bit for bit; its log is valid"
            say(f"| {jobs.folder.name} | {run} | | end | {fault or last} | {'**did not hold**' if fault else 'held'} |")
    if plan[-1][-1] not in LAST_OF_JOB and not broken and (state := jobs.cluster.wait(jobs.numbers[-1])) != "COMPLETED":
        say(f"| {jobs.folder.name} | | | end | {state} | **did not hold** |")
        failed += 1
    if failed:
        say(jobs.output()[-3000:])
    for number in jobs.numbers:
        jobs.cluster.command("scancel", str(number), check=False)
    shutil.rmtree(jobs.saved, ignore_errors=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.slurm.endurance", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the steps, and of who is hit")
    parser.add_argument("--slow", action="store_true", help="the first job only")
    given = parser.parse_args()
    if why_not():
        sys.exit(why_not())
    # Slurm's daemons outlive a process that nobody lets clean up.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    say("| fault | what is broken, and the expected end |\n|---|---|")
    say("".join(f"| {kind} | {end} |\n" for kind, end in ENDS.items()))
    plans = PLAN[:1] if given.slow else PLAN
    with (
        tempfile.TemporaryDirectory(prefix="endurance_") as name,
        mounted(Path(name) / "disks") as disks,
        Cluster(Path(name) / "cluster", 2) as cluster,
    ):
        undisturbed = Bench(cluster, Path(name) / "0", stub=False, disks=disks)
        undisturbed.begin(SAVE_CHECKPOINT=None, SAVE_INTERVAL=None)
        if cluster.wait(undisturbed.numbers[-1]) != "COMPLETED":
            sys.exit(undisturbed.output())
        expected = [evaluations(undisturbed, run) for run in range(2)]
        say(f"undisturbed: last evaluations {[found[-1] for found in expected]}\n")
        say("| job | run | after step | fault | observed | |\n|---|---|---|---|---|---|")
        failed = 0
        for number, plan in enumerate(plans, 1):
            jobs = Bench(cluster, Path(name) / str(number), stub=False, disks=disks)
            if any("stop" in kinds for kinds in plan):
                jobs.variables["SAVE_FAILURE"] = "stop"
            failed += one_job(jobs, plan, expected, random.Random(f"{given.seed} {number}"))
        say(f"\n{sum(map(len, sum(plans, ())))} faults in {len(plans)} jobs, {failed} lines did not hold")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
