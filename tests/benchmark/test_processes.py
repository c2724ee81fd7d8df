"""Processes and folders that end with their maker, even if it is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmark.checkout import ROOT
from benchmark.processes import scratch

STARTS = """
import subprocess, sys
from benchmark.processes import ending_with_this

subprocess.Popen([sys.executable, "-c", "import time; print('on', flush=True); time.sleep(1000)"],
                 start_new_session=True, preexec_fn=ending_with_this())
sys.stdin.read()
"""

FORKS = """
import os, sys, time
from benchmark.processes import bind_forks

bind_forks()
if os.fork() == 0:
    if os.fork() == 0:
        print("on", flush=True)
    time.sleep(1000)
sys.stdin.read()
"""


@contextmanager
def running(program: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A program that has reported that it is running; it is killed at the end."""
    command, own, pipe = [sys.executable, "-c", program], {**os.environ, **environment}, subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=own, text=True, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "on\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("program", [STARTS, FORKS], ids=["started", "forked, and forked by that"])
def test_children_end_when_their_parent_is_killed(program: str) -> None:
    """Their output ends, which shows that no writer is left."""
    with running(program) as process:
        process.kill()
        assert process.stdout is not None
        assert process.stdout.read() == ""


HOLDS = """
import sys
from benchmark.processes import scratch

with scratch() as folder:
    print("on", flush=True)
    sys.stdin.read()
"""


def test_a_folder_lives_as_long_as_who_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others leave it alone; after its maker is killed the next process removes it, and touches nothing else."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "theirs").mkdir()
    with running(HOLDS, TMPDIR=str(tmp_path)) as holder:
        (made,) = tmp_path.glob("llama31_*")
        with scratch():
            assert made.is_dir()
        holder.kill()
        holder.wait()
        with scratch():
            assert not made.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]
