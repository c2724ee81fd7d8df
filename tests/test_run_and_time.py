"""The main job as a user runs it: from the command to the verdict, its refusals, and its end by a signal."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest

from benchmark.benchmarks import find
from benchmark.checkout import ROOT
from tests.fakes import read_events
from tests.waiting import wait_until

RULES = find("llama31_tiny")


def command_environment(**variables: object) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    return {**kept, "HARNESS_PYTHON": sys.executable, **{name: str(value) for name, value in variables.items()}}


def run_and_time(**variables: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / "run_and_time.sh")],
        env=command_environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )


@dataclass(frozen=True)
class GoodRun:
    """A whole run, as a user starts it."""

    folder: Path
    printed: str
    listening: list[str]
    """Addresses at which its processes accepted connections while it trained."""


@pytest.fixture(scope="module")
def good_run(tmp_path_factory: pytest.TempPathFactory) -> GoodRun:
    """One whole run."""
    logs = tmp_path_factory.mktemp("logs")
    # Two ranks on any machine, as config_tiny.sh has them where there are two cores.
    with started(LOGDIR=logs, SEED=1, DGXNGPU=2, MINIBS=8, PLANTED_SECRET="hunter2-hunter2") as process:
        log = training_log(logs, process)
        listening = [address for one in processes_with(str(log)) for address in listening_at(one)]
        printed, _ = process.communicate()
    assert process.returncode == 0, printed
    return GoodRun(log.parent, printed, listening)


@contextmanager
def started(**variables: object) -> Iterator[subprocess.Popen[str]]:
    """`bash run_and_time.sh`, which does not outlive the test."""
    process = subprocess.Popen(
        ["bash", str(ROOT / "run_and_time.sh")],
        env=command_environment(**variables),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def training_log(logs: Path, process: subprocess.Popen[str]) -> Path:
    """The log of a run, once its first training step is in it."""

    def found() -> Path | None:
        files = logs.glob("tiny/*/result_0.txt")
        return next((log for log in files if "train_step_time" in log.read_text()), None)

    wait_until(lambda: found() is not None or process.poll() is not None, [process.pid], "a training step")
    log = found()
    assert log is not None, f"it ended with status {process.returncode}"
    return log


def test_the_main_job_reaches_its_target_and_passes(good_run: GoodRun) -> None:
    """The log's last evaluation is at or below the target; the last lines say where it and its page are, and PASS."""
    events = read_events(good_run.folder / "result_0.txt")
    first, *_, last = [event for event in events if event.key == "eval_accuracy"]

    assert last.value <= RULES.target_log_perplexity
    where = [f"report    {good_run.folder}/report.html", f"results   {good_run.folder}"]
    assert good_run.printed.splitlines()[-3:] == [*where, "verdict   PASS"]
    console = (good_run.folder / "console_0.log").read_text().splitlines()
    assert f"progress  evaluation after 1280 samples: log perplexity {first.value:.4f}" in console


def test_a_run_listens_to_nobody_else(good_run: GoodRun) -> None:
    """Whatever its processes accept connections at is an address of the loopback device: two ranks have one each."""
    assert len(good_run.listening) >= 2
    assert [address for address in good_run.listening if not ip_address(address).is_loopback] == []


def test_a_run_leaves_its_log_console_and_provenance(good_run: GoodRun) -> None:
    """run.json says what ran, with the seed and outcome of each run; the environment is not in it."""
    folder = good_run.folder
    recorded = json.loads((folder / "run.json").read_text())

    assert sorted(path.name for path in folder.iterdir()) == [
        "console_0.log",
        "report.html",
        "result_0.txt",
        "run.json",
    ]
    assert [(one["seed"], one["status"]) for one in recorded["experiments"]] == [(1, "success")]
    assert recorded["configuration"]["SEED"] == {"value": 1, "origin": "environment"}
    assert "hunter2" not in "".join(path.read_text() for path in folder.iterdir())


def checked(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "compliance", "check", str(path)],
        cwd=ROOT,
        env=command_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("key", ["seed", "run_start", "global_batch_size", "train_samples"])
def test_a_removed_event_is_one_finding_that_names_it(key: str, good_run: GoodRun, tmp_path: Path) -> None:
    """The real log without one event fails the check, with status 1 and a single error."""
    copy = Path(shutil.copytree(good_run.folder, tmp_path / "copy"))
    log = copy / "result_0.txt"
    log.write_text("".join(line for line in log.read_text().splitlines(True) if f'"key": "{key}"' not in line))

    done = checked(copy)
    errors = [line for line in done.stdout.splitlines() if line.strip().startswith("ERROR")]
    assert (done.returncode, len(errors)) == (1, 1)
    assert key in done.stdout


REFUSALS: dict[str, tuple[dict[str, str | int], str]] = {
    "a malformed number": ({"MINIBS": "many"}, "MINIBS=many"),
    "a misspelt variable": ({"MINBS": 4}, "did you mean MINIBS"),
    "an indivisible batch": (
        {"MINIBS": 6, "MICRO_BATCH_SIZE": 4},
        "MINIBS(6) is not a multiple of MICRO_BATCH_SIZE(4)",
    ),
    "ranks that the layout does not divide": (
        {"DGXNGPU": 3, "TENSOR_MODEL_PARALLEL": 2},
        "= 3 ranks is not a multiple",
    ),
    "no evaluation before the end": ({"MAX_STEPS": 3}, "MAX_STEPS(3) ends after 3 steps, before the first evaluation"),
    "one seed for three runs": ({"SEED": 1, "NEXP": 3}, "runs need distinct seeds"),
    "several nodes without their ranks": (
        {"DGXNNODES": 2, "MINIBS": 4, "MICRO_BATCH_SIZE": 4},
        "this command starts the ranks of one node",
    ),
    "a benchmark that starts from a checkpoint": (
        {
            "DGXSYSTEM": "X",
            "BENCHMARK": "llama31_405b",
            "RULESET": "6.0.0",
            "DGXNNODES": 1,
            "DGXNGPU": 8,
            "MINIBS": 144,
            "DATADIR": "/tmp",
        },
        "starts from a checkpoint: set LOAD_CHECKPOINT",
    ),
    "a folder without a dataset": ({"DATADIR": "/"}, "/manifest.json does not exist"),
    "a dataset that is not there": ({"DATADIR": "/nonexistent"}, "DATADIR=/nonexistent is not a folder"),
    "a tokenizer that is none": ({"TOKENIZER": __file__}, "is not a SentencePiece model"),
    "a results folder that cannot be made": ({"LOGDIR": "/dev/null/logs"}, "LOGDIR=/dev/null/logs cannot be written"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_bad_input_is_refused_before_anything_is_written(what: str, tmp_path: Path) -> None:
    """One clear error, status 2, no results folder."""
    variables, message = REFUSALS[what]
    done = run_and_time(**{"LOGDIR": tmp_path / "logs", **variables})

    assert done.returncode == 2
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("delay", [0.05, 0.1, 0.2])
def test_ctrl_c_is_taken_from_the_first_moment(delay: float, tmp_path: Path) -> None:
    """Whether it reaches the shell, Python while it starts, or its imports, the command ends at once."""
    with started(LOGDIR=tmp_path / "logs") as process:
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate()
    # The signal's own status in the instant before the shell can say anything.
    assert (process.returncode, printed.splitlines()[-1:]) in [(130, ["stopping"]), (-signal.SIGINT, [])]
    assert not (tmp_path / "logs").exists()


def test_a_shell_that_ends_takes_what_it_waits_for_along(tmp_path: Path) -> None:
    """An installation, which may run for minutes, ends with it."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    shutil.copy(ROOT / "run_and_time.sh", checkout)
    (checkout / "setup.sh").write_text('sleep 1000 & echo "$!" >pid; wait\n')
    with subprocess.Popen(["bash", "run_and_time.sh"], cwd=checkout, stdout=subprocess.PIPE, text=True) as process:
        pid = checkout / "pid"
        wait_until(lambda: pid.exists() and bool(pid.read_text()), [process.pid], "an installation")
        installing = psutil.Process(int(pid.read_text()))
        process.send_signal(signal.SIGINT)
        assert process.communicate()[0] == "stopping\n"
        assert process.returncode == 130
    # Whoever started it is gone, so somebody else's to reap.
    wait_until(
        lambda: not installing.is_running() or installing.status() == psutil.STATUS_ZOMBIE, [os.getpid()], "its end"
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_everything_and_the_log_says_so(number: signal.Signals, tmp_path: Path) -> None:
    """run_stop is aborted with the signal's name, the status is 128 + the signal's, and no process is left."""
    with started(LOGDIR=tmp_path) as process:
        log = training_log(tmp_path, process)
        process.send_signal(number)
        process.communicate()
    assert process.returncode == 128 + number
    stop = next(event for event in read_events(log) if event.key == "run_stop")
    assert stop.metadata["status"] == "aborted"
    assert "Interrupted" in stop.metadata["reason"]
    assert processes_with(str(log)) == []


def processes_with(text: str) -> list[Path]:
    """Folders in /proc of the live processes whose environment mentions `text`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (folder / "environ").read_bytes():
                found.append(folder)
        except OSError:
            continue
    return found


LISTENING = "0A"
"""State of a socket in /proc/net/tcp."""


def listening_at(process: Path) -> list[str]:
    """Addresses at which a process accepts connections; IPv4 addresses in IPv6's form are given as IPv4."""
    sockets = set()
    for file in (process / "fd").iterdir():
        with suppress(FileNotFoundError):  # closed in the meantime
            sockets.add(os.readlink(file))
    addresses = []
    for table in ("tcp", "tcp6"):
        for line in (process / "net" / table).read_text().splitlines()[1:]:
            _, local, _, state, _, _, _, _, _, inode, *_ = line.split()
            if state == LISTENING and f"socket:[{inode}]" in sockets:
                addresses.append(address_of(local.partition(":")[0]))
    return addresses


def address_of(text: str) -> str:
    """From the kernel's notation, which is words in the machine's order of bytes."""
    words = bytes.fromhex(text)
    packed = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
    address = ip_address(packed)
    return str(getattr(address, "ipv4_mapped", None) or address)


# What it takes.


def called(*arguments: str | Path) -> tuple[int, str, str]:
    """Status, stdout and stderr of run_and_time.sh with these arguments."""
    command = ["bash", str(ROOT / "run_and_time.sh"), *map(str, arguments)]
    environment = os.environ | {"HARNESS_PYTHON": sys.executable}
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_it_helps(flag: str) -> None:
    """The help has every way to call it."""
    status, out, _ = called(flag)
    assert status == 0
    assert "bash run_and_time.sh FILE" in out


def test_a_file_is_the_configuration_that_runs(tmp_path: Path) -> None:
    """Its values are read, here to be refused; tiny does not train instead."""
    path = tmp_path / "config_MINE.sh"
    path.write_text(f"source {ROOT}/config_tiny.sh\nexport DGXSYSTEM=MINE TENSOR_MODEL_PARALLEL=3\n", encoding="utf-8")
    status, out, err = called(path)
    assert (status, out) == (2, "")
    assert "TENSOR_MODEL_PARALLEL(3) does not divide" in err


@pytest.mark.parametrize("arguments", [["no_such.sh"], ["--fast"], ["config_tiny.sh", "again"]])
def test_anything_else_is_refused(arguments: list[str]) -> None:
    """One line refuses it before anything is set up."""
    status, out, err = called(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("run_and_time.sh: ")
