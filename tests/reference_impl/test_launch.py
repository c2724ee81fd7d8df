"""The processes of a run on this machine: how they end, and that none is left. Small programs stand in for ranks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from benchmark.checkout import ROOT

LAUNCHER = """
import os, sys
from reference_impl import launch

launch.NOTICE_S, launch.GRACE_S, *ranks = sys.argv[1:]
launch.NOTICE_S, launch.GRACE_S = float(launch.NOTICE_S), float(launch.GRACE_S)
sys.exit(launch.supervise([sys.executable, "-c", "import os; exec(os.environ['RANK_DOES'])"], [
    {**os.environ, "RANK_DOES": rank} for rank in ranks
]))
"""

WAIT = """
import os
from signal import *

def say(word):
    os.write(1, f"{word}\\n".encode())

def end(number, _):
    say(Signals(number).name)
    os._exit(75 if number == SIGUSR1 else 3)

for number in (SIGTERM, SIGINT, SIGUSR1):
    signal(number, end)
say(os.getpid())
while True:
    pause()
"""
"""Say the process's number, and wait for a signal."""

DEAF = WAIT.replace("signal(number, end)", "signal(number, SIG_IGN)")

LONG = 60.0


@contextmanager
def launched(
    *ranks: str, waiting: int, notice: float = LONG, grace: float = LONG, stderr: int | None = None
) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A launcher of these ranks, and the processes of those that wait."""
    command = [sys.executable, "-c", LAUNCHER, str(notice), str(grace), *ranks]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True) as launcher:
        assert launcher.stdout is not None
        try:
            yield launcher, [int(launcher.stdout.readline()) for _ in range(waiting)]
        finally:
            launcher.kill()


def said(launcher: subprocess.Popen[str]) -> list[str]:
    """What the ranks print from now on, when all of them have ended."""
    assert launcher.stdout is not None
    return launcher.stdout.read().split()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_every_rank(number: signal.Signals) -> None:
    """Each rank is sent SIGTERM and may end as it wants; the status is the signal's that came."""
    with launched(WAIT, WAIT, waiting=2) as (launcher, _):
        launcher.send_signal(number)
        assert said(launcher) == ["SIGTERM"] * 2
        assert launcher.wait() == 128 + number


def test_a_second_signal_kills_every_rank() -> None:
    """It does not wait for what a rank is still doing."""
    with launched(DEAF, waiting=1) as (launcher, _):
        launcher.send_signal(signal.SIGTERM)
        launcher.send_signal(signal.SIGINT)
        # Whichever it took first.
        assert launcher.wait() in {128 + signal.SIGTERM, 128 + signal.SIGINT}


def test_ranks_are_told_to_save_and_stop() -> None:
    """SIGUSR1 reaches each rank, and the exit status is theirs."""
    with launched(WAIT, WAIT, waiting=2) as (launcher, _):
        launcher.send_signal(signal.SIGUSR1)
        assert said(launcher) == ["SIGUSR1"] * 2
        assert launcher.wait() == os.EX_TEMPFAIL


FAIL = """
import os, time

while not os.path.exists({told!r}):
    time.sleep(0.01)
raise SystemExit(7)
"""


def test_the_status_is_that_of_the_first_rank_that_failed(tmp_path: Path) -> None:
    """The others, which do not notice, are asked to end, and their statuses do not count."""
    told = tmp_path / "told"
    with launched(WAIT, FAIL.format(told=str(told)), waiting=1, notice=0.0) as (launcher, _):
        told.touch()
        assert said(launcher) == ["SIGTERM"]
        assert launcher.wait() == 7


NOTICE = """
import os, time

while not os.path.exists({killed!r}):
    time.sleep(0.01)
time.sleep(0.5)
print('closed by peer')
"""


def test_a_rank_may_notice_that_another_was_killed(tmp_path: Path) -> None:
    """It gets time to fail for its own reason, without a signal."""
    killed = tmp_path / "killed"
    with launched(NOTICE.format(killed=str(killed)), WAIT, waiting=1) as (launcher, (other,)):
        os.kill(other, signal.SIGKILL)
        killed.touch()
        assert said(launcher) == ["closed", "by", "peer"]
        assert launcher.wait() == 1


def test_a_rank_that_does_not_end_is_killed() -> None:
    """It is killed after the time that it was given."""
    with launched(DEAF, waiting=1, grace=0.1) as (launcher, _):
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait() == 128 + signal.SIGTERM


def test_ranks_do_not_outlive_their_launcher() -> None:
    """A killed launcher can tell them nothing, so the kernel kills them."""
    with launched(DEAF, DEAF, waiting=2) as (launcher, _):
        launcher.kill()
        # The end of the output: nobody is left to write.
        assert said(launcher) == []


LEAVE = """
import subprocess, sys

left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
print(left.pid, flush=True)
"""


def test_nothing_outlives_the_ranks() -> None:
    """Processes that a rank started, even in a session of their own, are ended."""
    with launched(LEAVE, waiting=1) as (launcher, (left,)):
        assert launcher.wait() == 0
        assert not psutil.pid_exists(left)


def test_a_rank_that_was_killed_is_named() -> None:
    """The launcher names it, since it cannot say itself why it ended."""
    with launched("import os; os.kill(os.getpid(), 9)", waiting=0, stderr=subprocess.PIPE) as (launcher, _):
        assert launcher.stderr is not None
        assert launcher.stderr.read() == "error: rank 0 was ended by SIGKILL\n"


def test_success_is_that_of_all() -> None:
    """If every rank ends by itself, none is signalled."""
    # Whole at once: where output is not buffered, print writes the end of its line by itself.
    done = "import os; os.write(1, b'done\\n')"
    with launched(done, done, waiting=0) as (launcher, _):
        assert said(launcher) == ["done"] * 2
        assert launcher.wait() == 0
