"""python -m tests.slurm.endurance: interrupt jobs at random steps, again and again, and compare how their runs end.

Each time another way: a rank is killed, a node loses its power, the job is requeued. With --train the real trainer
runs, which takes minutes a job; without, its stand-in. Exit status: 0 every run ended as the undisturbed one, 1 one did
not.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from benchmark.mllog import read
from tests.slurm.cluster import ENDED, Cluster, wait_for, why_not
from tests.slurm.conftest import Jobs
from tests.slurm.test_job import evaluations, rank

WAYS = ("rank", "node", "requeue")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def interrupt(jobs: Jobs, way: str, dice: random.Random) -> str:
    """Interrupt the job that runs; what was done."""
    cluster = jobs.cluster
    if way == "requeue":
        cluster.command("scontrol", "requeue", str(jobs.numbers[-1]))
        return way
    if way == "node":
        cluster.kill_node("n2")
        cluster.start_node("n2")
        return "power of n2"
    victim = dice.randrange(4)
    try:
        rank(jobs, victim).kill()
    except ValueError:
        return f"rank {victim} was not there"
    return f"SIGKILL of rank {victim}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.slurm.endurance", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--points", type=int, default=1, help="interruptions of each job")
    parser.add_argument("--seed", type=int, default=1, help="of the random steps")
    parser.add_argument("--train", action="store_true", help="with the real trainer")
    given = parser.parse_args()
    if why_not():
        sys.exit(why_not())
    # Slurm's daemons outlive a process that nobody lets clean up.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    dice, ways, worst = random.Random(given.seed), cycle(WAYS), 0
    with tempfile.TemporaryDirectory(prefix="endurance_") as name, Cluster(Path(name) / "cluster", 2) as cluster:
        (Path(name) / "undisturbed").mkdir()
        undisturbed = Jobs(cluster, Path(name) / "undisturbed", stub=not given.train)
        if undisturbed.run({"SEED": 3}) != "COMPLETED":
            sys.exit(undisturbed.output())
        expected = evaluations(undisturbed)
        last = max(int(event.metadata.get("step", 0)) for event in undisturbed.events())
        say(f"undisturbed: {last} steps, evaluations {expected}")
        for number in range(given.jobs):
            folder = Path(name) / f"job_{number}"
            folder.mkdir()
            points = [(step, next(ways)) for step in sorted(dice.sample(range(1, last), given.points))]
            say(f"job {number + 1}")
            worst = max(worst, one_job(Jobs(cluster, folder, stub=not given.train), points, expected, dice))
    return worst


def one_job(
    jobs: Jobs, points: Sequence[tuple[int, str]], expected: list[tuple[int, float]], dice: random.Random
) -> int:
    """Interrupt one job at each of these steps in that way; 0 if it ends as the undisturbed one did, else 1."""
    number = jobs.submit({"SEED": 3, "SAVE_CHECKPOINT": jobs.folder / "saved", "SAVE_INTERVAL": 8, "NPAR": 100})
    since = time.time()
    for step, way in points:
        if not wait_for_new_step(jobs, step, since):
            say(f"     after step {step:3}  the run was over")
            break
        say(f"     after step {step:3}  {interrupt(jobs, way, dice)}")
        since = time.time()
    state = jobs.cluster.wait(number)
    events = jobs.events()
    keys, times = [event.key for event in events], [event.time_ms for event in events]
    resumed = [event.value for event in events if event.key == "tracked_stats" and "resumed" in event.value]
    faults = {
        f"job {state}": state != "COMPLETED",
        f"evaluations {evaluations(jobs)}": evaluations(jobs) != expected,
        "check": "PASS  1 log, 0 errors" not in jobs.output(),
        "time runs back": times != sorted(times),
        "clock started or stopped twice": [keys.count("run_start"), keys.count("run_stop")] != [1, 1],
    }
    found = [fault for fault, is_there in faults.items() if is_there]
    minutes = (times[keys.index("run_stop")] - times[keys.index("run_start")]) / 60_000
    say(f"     {state} after {minutes:.2f} min on the clock, in the log: {resumed}  {'; '.join(found) or 'PASS'}")
    if found:
        say(jobs.output()[-3000:])
    return int(bool(found))


def wait_for_new_step(jobs: Jobs, step: int, since: float) -> bool:
    """Return when the run is at this step or beyond, by an event since it was interrupted; False if it ended before."""

    def taken() -> bool:
        logs = jobs.logs.glob("tiny/*/result_0.txt")
        return any(
            event.metadata.get("step", 0) >= step and event.time_ms > since * 1000
            for log in logs
            for event in read(log)
        )

    def ended() -> bool:
        return jobs.cluster.state(jobs.numbers[-1]) in ENDED

    wait_for(lambda: taken() or ended(), f"no step {step}", jobs.output)
    return not ended()


if __name__ == "__main__":
    sys.exit(main())
