"""python -m tests.killing --seeds 1-60: kill one process of a run of the real trainer, and see what is left.

Each seed goes on with the last four steps of the same run on two ranks, which saves after every second one, reaches its
target and ends. It sends a signal to one of its processes at a random moment, waits until nothing is left, and starts
the run again. Exit status: 0 all that must hold held, 1 not; what did not is in the table, which is Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from benchmark.checkout import ROOT
from benchmark.mllog import Event, read
from compliance.check import check_paths

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
VICTIMS = ("parent", "launcher", "rank 0", "rank 1", "writer")
MOMENTS = ("start-up", "training", "saving", "ending")
DEFAULT_SEEDS = range(1, 61)
FEW = (2, 4, 9, 37, 60)
"""Seeds for a test: each moment, each victim, each signal."""

RESUMED_AT, SAVE_INTERVAL = 108, 2
STOP_S = 5.0
"""For everything to be gone when the parent is asked to stop."""
PATIENCE_S = 600.0
POLL_S = 0.05
AFTER_RUN_STOP = {"run_stop", "train_samples", "tracked_stats"}


@dataclass(frozen=True)
class Blow:
    """The victim, signal and moment of one seed."""

    seed: int
    number: signal.Signals
    victim: str
    moment: str
    delay: float
    """Seconds from the beginning of the moment."""

    @classmethod
    def of(cls, seed: int) -> Blow:
        """Twenty seeds in a row have every signal for every victim; moments and delays are drawn."""
        dice = random.Random(seed)
        victim = VICTIMS[seed // len(SIGNALS) % len(VICTIMS)]
        moment = "saving" if victim == "writer" else dice.choice(MOMENTS)
        longest = {"start-up": 8.0, "training": 1.5, "saving": 0.3, "ending": 0.8}[moment]
        return cls(seed, SIGNALS[seed % len(SIGNALS)], victim, moment, dice.uniform(0.0, longest))


@dataclass
class Outcome:
    """The result of one seed."""

    blow: Blow
    at: str = ""
    """Where the run was by its log when it was hit."""
    status: int = 0
    gone_s: float = 0.0
    """From the signal to the end of the last process."""
    ended: str = ""
    """As its log says."""
    faults: list[str] = field(default_factory=list)
    slow: bool = False
    """It took longer to stop than it may; a fault of the machine, perhaps."""


def prepare(folder: Path) -> Path:
    """A run to go on with, in `folder`, unless it is there: made whole, and cut back to a checkpoint."""
    if (folder / "base").is_dir():
        return folder / "base"
    made = folder / "made"
    subprocess.run(
        ["bash", str(ROOT / "run_and_time.sh")],
        env=environment(made, SEED="1", SAVE_INTERVAL="4"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    (log,) = made.glob("logs/tiny/*/result_0.txt")
    (kept,) = made.glob(f"saved/*/result_0/step_{RESUMED_AT}")
    with log.open("r+b") as file:
        file.truncate(json.loads((kept / "resume.json").read_text())["log_bytes"])
    for other in kept.parent.iterdir():
        if other != kept:
            shutil.rmtree(other)
    record = json.loads((log.parent / "run.json").read_text())
    record["experiments"][0] |= {"status": "to be continued", "minutes": None}
    (log.parent / "run.json").write_text(json.dumps(record))
    return made.rename(folder / "base")


def environment(place: Path, **more: str) -> dict[str, str]:
    """Of a run in a place of its own; nothing of the harness's is taken over."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    for name in ("tmp", "home"):
        (place / name).mkdir(parents=True, exist_ok=True)
    here = {
        "HARNESS_PYTHON": sys.executable,
        "HOME": str(place / "home"),
        "TMPDIR": str(place / "tmp"),
        "LOGDIR": str(place / "logs"),
        "SAVE_CHECKPOINT": str(place / "saved"),
        "DGXNGPU": "2",
        "MINIBS": "8",
        # Of a machine that has much else to do nobody would say that it hangs.
        "HANG_MONITOR_TIMEOUT": "10",
    }
    return {**kept, **here, **more}


class Scene:
    """A copy of the run, and its processes."""

    def __init__(self, base: Path, place: Path) -> None:
        # Links: what a run has once saved it only ever removes.
        shutil.copytree(base / "saved", place / "saved", copy_function=os.link)
        shutil.copytree(base / "logs", place / "logs", symlinks=True)
        self.place = place
        (self.folder,) = (path.parent for path in place.glob("logs/tiny/*/run.json"))
        self.log = self.folder / "result_0.txt"
        self._begun = self.log.stat().st_size

    def start(self) -> subprocess.Popen[str]:
        resumed = {"RESUME": str(self.folder), "SEED": "1", "SAVE_INTERVAL": str(SAVE_INTERVAL)}
        return subprocess.Popen(
            ["bash", str(ROOT / "run_and_time.sh")],
            env=environment(self.place, **resumed),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # nohup, under which this may run for hours, hands on that SIGHUP is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )

    def events(self) -> list[Event]:
        """What has been logged since the checkpoint."""
        return [event for event in read(self.log) if event.metadata.get("step", RESUMED_AT) >= RESUMED_AT]

    def has_come(self, moment: str) -> bool:
        if moment == "start-up":
            return True
        if moment == "saving":
            return any(self.place.glob("saved/*/*/*.partial"))
        new = self.log.read_bytes()[self._begun :]
        return (b'"train_step_time"' if moment == "training" else b'"run_stop"') in new

    def processes(self) -> list[psutil.Process]:
        """Whatever runs that has this place in its environment."""
        return [one for one in psutil.process_iter() if str(self.place) in _environ(one).get("LOGDIR", "")]

    def find(self, victim: str, parent: subprocess.Popen[str]) -> psutil.Process | None:
        """A process of the run by its part in it, the oldest one; None where there is none."""
        if victim == "parent":
            return psutil.Process(parent.pid) if parent.poll() is None else None
        ranks = {one.pid: one for one in self.processes() if "RANK" in _environ(one)}
        if victim == "launcher":
            found = [one for one in self.processes() if one.pid not in ranks and _ppid(one) == parent.pid]
        elif victim == "writer":
            found = [one for one in ranks.values() if _ppid(one) in ranks and "reference_impl" in _command(one)]
        else:
            number = victim.removeprefix("rank ")
            found = [one for one in ranks.values() if _environ(one)["RANK"] == number and _ppid(one) not in ranks]
        return min(found, key=psutil.Process.create_time, default=None)


def shared_memory() -> set[str]:
    """What is there under the names that Python, torch, NCCL and this project give; others use it, too."""
    ours = ("llama31_", "nccl-", "psm_", "pymp-", "sem.", "torch_")
    return {name for name in os.listdir("/dev/shm") if name.startswith(ours)}


def _asked(ask: Callable[[], object], default: object) -> object:
    try:
        return ask()
    except psutil.Error:
        return default


def _environ(one: psutil.Process) -> dict[str, str]:
    found = _asked(one.environ, {})
    assert isinstance(found, dict)
    return found


def _ppid(one: psutil.Process) -> int:
    return int(str(_asked(one.ppid, 0)))


def _command(one: psutil.Process) -> str:
    return str(_asked(one.cmdline, ""))


def strike(blow: Blow, base: Path, place: Path) -> Outcome:
    """Carry out what a seed says, and look at what is left."""
    outcome, shared_before = Outcome(blow), shared_memory()
    scene = Scene(base, place)
    parent = scene.start()
    hit = _hit(scene, parent, blow)
    since = time.monotonic()
    outcome.at = scene.events()[-1].key
    printed, _ = parent.communicate()
    outcome.status = parent.returncode
    _wait(lambda: not scene.processes(), since + 10.0)
    outcome.gone_s = time.monotonic() - since
    left = scene.processes()
    outcome.faults += [f"{len(left)} processes left"] if left else []
    for one in left:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    outcome.faults += judge(outcome, scene, printed, hit=hit)
    outcome.slow = blow.victim == "parent" and blow.number != signal.SIGKILL and outcome.gone_s > STOP_S
    again = scene.start()
    printed, _ = again.communicate()
    if again.returncode or "verdict   PASS" not in printed or not check_paths([scene.folder]).passed:
        outcome.faults.append(f"the next start ended with {again.returncode}: {printed.splitlines()[-3:]}")
    for name in ("tmp", "home"):
        outcome.faults += [f"left in {name}: {path.name}" for path in (place / name).iterdir()]
    outcome.faults += [f"left in shared memory: {name}" for name in shared_memory() - shared_before]
    return outcome


def _hit(scene: Scene, parent: subprocess.Popen[str], blow: Blow) -> bool:
    """Send the signal; whether there was a process to send it to."""
    _wait(lambda: parent.poll() is not None or scene.has_come(blow.moment), time.monotonic() + PATIENCE_S)
    time.sleep(blow.delay)
    found: list[psutil.Process] = []

    def there() -> bool:
        found[:] = filter(None, [scene.find(blow.victim, parent)])
        return bool(found) or parent.poll() is not None

    _wait(there, time.monotonic() + PATIENCE_S)
    for one in found:
        with suppress(psutil.NoSuchProcess):
            one.send_signal(blow.number)
            return True
    return False


def _wait(condition: Callable[[], bool], deadline: float) -> None:
    while not condition() and time.monotonic() < deadline:
        time.sleep(POLL_S)


def judge(outcome: Outcome, scene: Scene, printed: str, *, hit: bool) -> Iterator[str]:
    """What is wrong with how a run ended."""
    blow, events, size = outcome.blow, scene.events(), scene.log.stat().st_size
    stops = [place for place, event in enumerate(events) if event.key == "run_stop"]
    outcome.ended = str(events[stops[-1]].metadata["status"]) if stops else "no run_stop"
    if stops and {event.key for event in events[stops[0] :]} - AFTER_RUN_STOP:
        yield "lines after run_stop"
    if len(stops) > 1:
        yield f"{len(stops)} run_stop"
    valid = outcome.ended == "success" and check_paths([scene.log]).passed
    if (outcome.status == 0) != ("verdict   PASS" in printed) or (outcome.status == 0 and not valid):
        yield f"status {outcome.status} of a run that is {'' if valid else 'not '}valid"
    if outcome.status not in allowed(blow, hit=hit, valid=valid):
        yield f"status {outcome.status}, expected {' or '.join(map(str, sorted(allowed(blow, hit=hit, valid=valid))))}"
    if blow.victim == "parent" and "Traceback" in printed:
        yield f"a traceback in the terminal: {printed.splitlines()[-1]}"
    time.sleep(0.2)
    if scene.log.stat().st_size != size:
        yield "the log has grown after the end"


def allowed(blow: Blow, *, hit: bool, valid: bool) -> set[int]:
    """The exit statuses that are honest; -n, as Popen has it, is that of a process that signal n has ended."""
    if not hit or blow.victim == "writer":
        return {0}
    told = 128 + blow.number
    if blow.victim == "parent":
        # Of a valid run it may have been on its last lines; in the first instants it had nothing to end but itself.
        early = {-blow.number} if blow.number == signal.SIGKILL or blow.moment == "start-up" else set[int]()
        return early if blow.number == signal.SIGKILL else {told, *early, *({0} if valid else set())}
    if valid:
        return {0}
    return {told} if blow.victim == "launcher" else {1, told, 128 + signal.SIGTERM}


def row(outcome: Outcome) -> str:
    blow = outcome.blow
    what = [f"{outcome.gone_s:.1f} s is too long"] if outcome.slow else []
    cells = (
        *(blow.seed, blow.number.name, blow.victim, f"{blow.moment} + {blow.delay:.2f} s", outcome.at),
        *(outcome.status, f"{outcome.gone_s:.1f}", outcome.ended, "; ".join([*outcome.faults, *what]) or "ok"),
    )
    return f"| {' | '.join(map(str, cells))} |"


HEAD = (
    "| seed | signal | to | when | last event | status | gone after s | log | |\n|---|---|---|---|---|---|---|---|---|"
)


def strikes(seeds: Iterator[int] | range | tuple[int, ...], work: Path) -> Iterator[Outcome]:
    """Each seed in turn, in a folder that is removed."""
    work.mkdir(parents=True, exist_ok=True)
    base = prepare(work)
    for seed in seeds:
        with tempfile.TemporaryDirectory(dir=work, prefix=f"seed_{seed}_") as place:
            yield strike(Blow.of(seed), base, Path(place))


def seeds_of(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.killing", description=__doc__)
    parser.add_argument("--seeds", type=seeds_of, default=DEFAULT_SEEDS, metavar="FIRST-LAST")
    parser.add_argument("--work", type=Path, help="folder for the runs; the one that they all go on with stays in it")
    given = parser.parse_args()
    say = partial(print, flush=True)
    with tempfile.TemporaryDirectory(prefix="killing_") as name:
        work = given.work or Path(name)
        say(HEAD)
        faults = 0
        for outcome in strikes(given.seeds, work.absolute()):
            say(row(outcome))
            faults += bool(outcome.faults or outcome.slow)
    say(f"\n{len(given.seeds)} seeds, {faults} with faults")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
