"""Endings of runs whose processes hang, are killed or leave others behind. Small programs stand in for ranks."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from benchmark.config import RunConfig, resolve
from benchmark.files import hold
from benchmark.run_record import KILLED, RUNNING, Seen, read
from harness.launch import experiments, hang
from harness.launch.ending import Ending
from harness.launch.experiments import finish, run_all
from harness.launch.launcher import CannotStartError
from harness.launch.local import Local
from harness.launch.one_run import run_once
from harness.launch.runs import WAITING, RunSet
from harness.launch.signals import Received, listening
from tests.fakes import environment
from tests.logs import LogFile, tiny


class Program(Local):
    """Runs a line of shell in place of the ranks; $log is their log."""

    def __init__(self, line: str, log: Path) -> None:
        super().__init__(tiny())
        self.line, self.log, self.started = line, log, 0

    def command(self) -> list[str]:
        self.started += 1
        return ["bash", "-c", f"log='{self.log}'; {self.line}"]


def ended(line: str, log: Path, received: Received | None = None) -> Ending:
    config = tiny(HANG_MONITOR_TIMEOUT=0).for_experiment(seed=20, result_file=log)
    with log.with_name("console_0.log").open("ab") as output:
        return run_once(config, output, Program(line, log), received or Received())


@pytest.fixture
def whole(valid: Callable[[str], LogFile], tmp_path: Path) -> Path:
    """A valid log under another name."""
    return valid("tiny").path.rename(tmp_path / "whole.txt")


@pytest.mark.parametrize("end", ["exit 1", "kill -9 $$"], ids=["failed", "killed"])
def test_a_run_that_fails_after_its_success_is_one(end: str, whole: Path, tmp_path: Path) -> None:
    """A run whose log is whole and valid is a success: nothing is added to it, and no cause is named."""
    log = tmp_path / "result_0.txt"
    ending = ended(f"cp {whole} $log; {end}", log)
    assert (ending.status, ending.cause, ending.cut_off, ending.standing.status) == (0, "", False, "success")
    assert log.read_bytes() == whole.read_bytes()


def test_a_run_that_hangs_after_its_success_is_one(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its processes are ended, whatever HANG_MONITOR_TIMEOUT is."""
    monkeypatch.setattr(hang, "END_S", 0.0)
    assert ended(f"cp {whole} $log; sleep 1000", tmp_path / "result_0.txt").status == 0
    assert "processes are left: killing them" in capsys.readouterr().out


def test_a_success_whose_log_is_not_whole_is_none(whole: Path, tmp_path: Path) -> None:
    """If it is killed before train_samples, the check refuses the log, and nothing is added to it."""
    assert ended(f"grep -v train_samples {whole} >$log; kill -9 $$", tmp_path / "result_0.txt").status == 137


def test_nothing_that_a_run_has_started_outlives_it(tmp_path: Path) -> None:
    """Even processes that its killed launcher leaves behind, in a session of their own, are ended."""
    ended(f"setsid sleep 1000 & echo $! >{tmp_path}/pid; kill -9 $$", tmp_path / "result_0.txt")
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_what_is_temporary_goes_with_a_killed_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its temporary folder is removed, though the launcher could not do so itself."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended(f"mkdir {tmp_path}/llama31_of_ranks; kill -9 $$", tmp_path / "result_0.txt")
    assert not (tmp_path / "llama31_of_ranks").exists()


def test_a_run_that_cannot_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that is told to stop gets seconds to do so; the status is the signal's."""
    monkeypatch.setattr(hang, "STOP_S", 0.0)
    received = Received(stop=signal.SIGINT, pending=[signal.SIGINT])
    ending = ended("trap '' TERM; while :; do sleep 0.1; done", tmp_path / "result_0.txt", received)
    assert (ending.status, ending.cause) == (130, "Interrupted: SIGINT")
    assert "stopping\n" in capsys.readouterr().out


def test_the_cause_is_what_a_rank_calls_an_error(tmp_path: Path) -> None:
    """The cause is a rank's error line, not what it or a library prints last."""
    ending = ended("echo 'error: no such data'; echo warning: a library; exit 1", tmp_path / "result_0.txt")
    assert ending.cause == "no such data"


def test_the_cause_in_a_job_is_the_error_of_the_rank_that_ended_first(tmp_path: Path) -> None:
    """srun reports which rank that was and its status; the rank's own line gives the cause."""
    lines = (
        "0: error: RuntimeError: Connection closed by peer",
        "3: error: OutOfMemoryError: CUDA out of memory",
        "srun: error: n1: tasks 0-1: Terminated",
        "srun: error: n2: task 3: Exited with exit code 1",
    )
    said = "; ".join(f"echo '{line}'" for line in lines)
    assert ended(f"{said}; exit 1", tmp_path / "result_0.txt").cause == (
        "srun: error: n2: task 3: Exited with exit code 1: OutOfMemoryError: CUDA out of memory"
    )


def test_a_full_disk_is_no_invalid_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It gives status 2, one line that names the folder, a verdict, and no run recorded as running."""
    monkeypatch.setattr(experiments, "why_unwritable", lambda folder: f"{folder}: No space left on device")
    config, runs = found(tmp_path, WAITING)
    endings = run_all(config, runs, Program("exit 1", runs.result(0)), Received())
    assert finish(config, runs, endings, Received()) == 2
    said = capsys.readouterr().out.splitlines()
    assert f"cause     run 0: LOGDIR={tmp_path}/logs: {runs.folder}: No space left on device" in said
    assert said[-1] == "verdict   FAIL"
    assert read(runs.folder / "run.json").experiments[0].status == "ended with status 1 and no run_stop"


# A run that is found in its folder.


def found(tmp_path: Path, status: str, log: Path | None = None) -> tuple[RunConfig, RunSet]:
    """A set of one run of which run.json says so, and its log."""
    logs = str(tmp_path / "logs")
    made = environment(BENCHMARK="llama31_tiny", DGXNGPU=1, MINIBS=16, SEED=20, LOGDIR=logs)
    resolved = resolve(None, made)
    runs = RunSet.open(resolved, Seen(data={}), {})
    if log is not None:
        runs.result(0).write_bytes(log.read_bytes())
    runs.console(0).touch()
    runs.update(0, status=status)
    return resolved.config, RunSet(runs.folder, read(runs.folder / "run.json"))


def test_a_run_whose_processes_are_gone_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It reads KILLED for whoever reads run.json or continues the set."""
    config, runs = found(tmp_path, RUNNING)
    assert runs.experiments[0].status == KILLED
    run_all(config, runs, Program("exit 1", runs.result(0)), Received())
    assert "run 0 was killed: none of its processes is left" in capsys.readouterr().out


def test_a_run_that_is_on_is_not_started_twice(tmp_path: Path) -> None:
    """As long as one of its processes is left, that process holds the console's lock."""
    config, runs = found(tmp_path, RUNNING)
    with runs.console(0).open("ab") as held:
        assert hold(held)
        assert read(runs.folder / "run.json").experiments[0].status == RUNNING
        with pytest.raises(CannotStartError, match=r"run 0 .* is still running: a process has .*console_0\.log open"):
            run_all(config, runs, Program("exit 1", runs.result(0)), Received())


def test_a_run_that_had_reached_its_target_is_kept(whole: Path, tmp_path: Path) -> None:
    """Whatever was killed after that, and whatever run.json says, nothing is started again."""
    config, runs = found(tmp_path, RUNNING, whole)
    program = Program("exit 1", runs.result(0))
    endings = run_all(config, runs, program, Received())
    assert (program.started, runs.experiments[0].status) == (0, "success")
    assert finish(config, runs, endings, Received()) == 0


# Signals.


def test_a_signal_before_a_run_ends_the_command(capfd: pytest.CaptureFixture[str]) -> None:
    """It ends at once, with a line; there is nothing to wait for."""
    with pytest.raises(SystemExit) as ending, listening():
        os.kill(os.getpid(), signal.SIGHUP)
    assert (ending.value.code, capfd.readouterr().out) == (129, "stopping\n")


def test_a_closed_terminal_is_no_second_ctrl_c() -> None:
    """It may send several SIGHUP; only a person's second signal means not to wait."""
    with listening() as received, received.for_a_run():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
        assert (received.stop, received.again, received.pending) == (signal.SIGHUP, False, [signal.SIGHUP])
        os.kill(os.getpid(), signal.SIGINT)
        assert received.again


def test_nohup_is_honoured() -> None:
    """A command that ignores SIGHUP continues when the terminal is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with listening() as received, received.for_a_run():
            os.kill(os.getpid(), signal.SIGHUP)
        assert received.stop == 0
    finally:
        signal.signal(signal.SIGHUP, before)
