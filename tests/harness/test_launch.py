"""The parts of a launch that need no job: where ranks hang, which processors they get, what a set of runs remembers."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmark import driver
from benchmark.answers import MARK, answers, labelled_answers
from benchmark.checkout import ROOT
from benchmark.clock import SystemClock
from benchmark.config import ConfigError, resolve
from benchmark.console import PROGRESS
from benchmark.eventlog import EventLog
from benchmark.run_record import RUNNING, Seen
from benchmark.shared import tokens
from compliance.check import find_logs
from harness.launch.address import is_own
from harness.launch.bind import Topology, choose, read_topology
from harness.launch.containers import Wrapped
from harness.launch.ending import Ending, close_log, last_words, was_cut_off
from harness.launch.experiments import run_all, set_aside, view_of
from harness.launch.hang import Awaited, HangTimer, RankPlace, explain, stacks_in
from harness.launch.launcher import CannotStartError
from harness.launch.local import Local
from harness.launch.node import faults
from harness.launch.one_run import run_once
from harness.launch.runs import RunSet, make_folder
from harness.launch.signals import Received
from harness.launch.slurm import Slurm, SlurmJob, node_check
from harness.launch.standing import Standing
from harness.verdict import conclude
from report.watch import WatchView
from tests.fakes import configured, environment, read_events

CONSOLE = """\
0: Current thread 0x00007f1 (most recent call first):
0:   File "/opt/torch/distributed/distributed_c10d.py", line 2501 in all_reduce
0:   File "/checkout/reference_impl/step.py", line 88 in train_once
0: what it printed before it answered
2: Thread 0x00007f9 (most recent call first):
2:   File "/opt/python/threading.py", line 320 in wait
2: Current thread 0x00007f2 (most recent call first):
2:   File "/checkout/reference_impl/data/read/datasets.py", line 40 in training
srun: error: a line of srun's own
"""


def test_ranks_are_found_where_they_hang() -> None:
    """Silent ranks come first, then the rarest place; only the thread that trains counts."""
    places = stacks_in(CONSOLE) | {3: stacks_in(CONSOLE)[0]}
    assert explain(places, ["n1", "n2"], 2) == [
        "rank 1 on n1 does not answer: stopped or gone",
        "rank 2 on n2 in training (read/datasets.py:40)",
        "ranks 0 on n1, 3 on n2 in all_reduce (distributed/distributed_c10d.py:2501), "
        "called from train_once (reference_impl/step.py:88)",
    ]


def test_ten_thousand_ranks_are_one_line() -> None:
    """Ranks that wait in the same place are counted, not listed."""
    lines = explain({rank: RankPlace(innermost="wait") for rank in range(8192)}, [f"n{i}" for i in range(1024)], 8)
    assert len(lines) == 1
    assert lines[0].endswith("and 8184 more in wait")


@pytest.mark.parametrize(("limit", "now", "expected"), [(60, 61, True), (60, 59, False), (0, 1e9, False)])
def test_silence_has_a_limit(limit: float, now: float, expected: bool) -> None:
    """A run without a new line in the log is overdue after the limit; zero means no limit."""
    assert HangTimer(limit, 0).is_over(now) is expected


def test_what_follows_run_stop_is_given_less_than_a_minute() -> None:
    """That holds even without a limit on silence, and further lines gain it no time."""
    patience = HangTimer(0, 0)
    patience.heard(1e6, run_stop=True)
    patience.heard(1e6 + 40, run_stop=True)
    assert patience.awaited is Awaited.END
    assert (patience.is_over(1e6 + 44), patience.is_over(1e6 + 60)) == (False, True)


def test_a_run_that_is_told_to_stop_is_given_seconds() -> None:
    """It gets no more time, whatever it logs meanwhile."""
    patience = HangTimer(0, 0)
    patience.told_to_stop(100)
    patience.heard(103, run_stop=True)
    assert (patience.is_over(103), patience.is_over(105)) == (False, True)


# Binding.

TWO_SOCKETS = {0: tuple(range(8)), 1: tuple(range(8, 16))}


@pytest.mark.parametrize(
    ("topology", "allowed", "rank", "ranks", "processors", "reason"),
    [
        (
            Topology(nodes=TWO_SOCKETS, gpus=(0, 0, 1, 1)),
            range(16),
            3,
            4,
            (12, 13, 14, 15),
            "NUMA node 1, that of GPU 3",
        ),
        (Topology(nodes=TWO_SOCKETS, gpus=(1, 0)), range(16), 0, 2, tuple(range(8, 16)), "NUMA node 1, that of GPU 0"),
        (Topology(nodes=TWO_SOCKETS, gpus=(-1, -1)), range(16), 1, 2, tuple(range(8, 16)), "an even share"),
        (Topology(nodes=TWO_SOCKETS, gpus=()), range(16), 1, 3, (5, 6, 7, 8, 9), "an even share"),
        (Topology(nodes=TWO_SOCKETS, gpus=(0, 1)), range(4), 0, 2, (0, 1, 2, 3), "already bound"),
        (Topology(nodes={}, gpus=()), range(2), 3, 4, (0, 1), "2 processors for 4 ranks: not bound"),
        (Topology(nodes=TWO_SOCKETS, gpus=()), range(16), 4, 4, tuple(range(16)), "LOCAL_RANK=4 with 4 ranks: not b"),
    ],
)
def test_ranks_are_bound_near_their_gpus(
    topology: Topology, allowed: range, rank: int, ranks: int, processors: tuple[int, ...], reason: str
) -> None:
    """Without a known topology they get an even share, or stay unbound; the reason is always given."""
    binding = choose(topology, allowed, rank, ranks)
    assert binding.processors == processors
    assert binding.reason.startswith(reason)


def test_the_topology_is_read_from_sys(tmp_path: Path) -> None:
    """It has two NUMA nodes, and GPUs in the order of their addresses."""
    for node, processors in ((0, "0-3,8\n"), (1, "4-7\n")):
        folder = tmp_path / f"devices/system/node/node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(processors)
    for address, node in (("0000:41:00.0", 1), ("0000:01:00.0", 0)):
        folder = tmp_path / "bus/pci/drivers/nvidia" / address
        folder.mkdir(parents=True)
        (folder / "numa_node").write_text(f"{node}\n")
    assert read_topology(tmp_path) == Topology(nodes={0: (0, 1, 2, 3, 8), 1: (4, 5, 6, 7)}, gpus=(0, 1))


def test_this_machine_has_a_topology() -> None:
    """Whatever it is, the ranks of a node get processors that this process may use."""
    allowed = sorted(os.sched_getaffinity(0))
    assert set(choose(read_topology(), allowed, 0, 1).processors) <= set(allowed)


# What a node must see.


def test_a_node_that_sees_everything_has_no_fault(tmp_path: Path) -> None:
    """It sees readable and writable folders, and the tokens that the job has just made."""
    with tokens({"LOGDIR": tmp_path}) as made:
        assert list(faults([tmp_path], [tmp_path], made)) == []


def test_a_node_names_what_it_does_not_see(tmp_path: Path) -> None:
    """It names a missing folder once, and folders that differ from the first node's."""
    missing = tmp_path / "data"
    assert list(faults([], [missing], {})) == [f"{missing} is not there"]
    elsewhere = {"LOGDIR": tmp_path / ".token", "NPY_INDEX_DIR": missing / ".token"}
    assert list(faults([], [], elsewhere)) == [
        f"LOGDIR={tmp_path} is not the folder of the first node: all nodes must share it",
        f"NPY_INDEX_DIR={missing} is not the folder of the first node: all nodes must share it",
    ]


@pytest.mark.skipif(
    os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False).returncode != 0,
    reason="a node with a disk of its own is a mount namespace, which needs root",
)
def test_a_node_with_a_disk_of_its_own_is_refused(tmp_path: Path) -> None:
    """The check that a job makes on each node names the folder and the node."""
    config = configured(DGXNNODES=2, MINIBS=72, LOGDIR=str(tmp_path / "logs"), SAVE_CHECKPOINT=str(tmp_path / "saved"))
    slurm = Slurm(config, SlurmJob(number="42", nodes=("n1", "n2")))
    with slurm, tokens(slurm.shared) as made:
        check = [sys.executable, *node_check([], made, 0)]
        script = 'mount -t tmpfs tmpfs "$1"; shift; exec "$@"'
        node = ["unshare", "-m", "bash", "-euc", script, "bash", str(tmp_path / "saved"), *check]
        done = subprocess.run(node, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {socket.gethostname()}: SAVE_CHECKPOINT={tmp_path / 'saved'} is not the folder of the first node: "
        "all nodes must share it\n"
    )


@pytest.mark.parametrize(("handed", "said"), [("", 1), ("0,1", 1), ("1", 0)])
def test_a_node_with_fewer_gpus_than_ranks_says_so(handed: str, said: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """If Slurm gives each task its own GPU, a task cannot count the others', and no fault is reported."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", handed)
    monkeypatch.setattr(driver, "gpu_names", lambda: ("NVIDIA H200",) * 2)
    assert list(faults([], [], {}, 2)) == []
    found = list(faults([], [], {}, 4))
    assert found == ["DGXNGPU=4 ranks need a GPU each; this machine has 2 (NVIDIA H200, NVIDIA H200)"] * said


# How a run ended.


@pytest.mark.parametrize(
    ("status", "standing", "said", "expected"),
    [
        (0, Standing(started_ms=1, status="success"), "", False),
        (75, Standing(started_ms=1), "", True),
        (143, Standing(started_ms=1, status="aborted", reason="target 5.9 not reached"), "", False),
        (143, Standing(started_ms=1, status="aborted", reason="RuntimeError: x", error="RuntimeError"), "", True),
        (137, Standing(started_ms=1), "srun: error: n2: task 3: Killed", True),
        (137, Standing(), "srun: error: n2: task 3: Killed", True),
        (143, Standing(), "srun: error: n1: task 0: Exited with exit code 2", False),
        (137, Standing(started_ms=1, status="success"), "srun: error: n2: task 3: Killed", False),
    ],
)
def test_a_run_that_came_to_no_end_of_its_own_was_cut_off(
    status: int, standing: Standing, said: str, expected: bool
) -> None:
    """A missed target and a refusal are ends; a killed rank, and what fails because of it, is not."""
    assert was_cut_off(status, standing, said) is expected


def test_the_cause_is_the_rank_that_ended_first(tmp_path: Path) -> None:
    """Others fail because of it, and srun may report them before; lines of progress are not causes."""
    console = tmp_path / "console.log"
    ended = ["srun: error: n1: tasks 0-1: Terminated", "srun: error: n2: task 2: Exited with exit code 1"]
    console.write_text("\n".join([*ended, "srun: error: n2: task 3: Killed", "srun: Force Terminated"]))
    assert last_words(console) == "srun: error: n2: task 3: Killed"
    console.write_text("\n".join(ended))
    assert last_words(console) == "srun: error: n2: task 2: Exited with exit code 1"
    console.write_text(f"RuntimeError: of a rank\n0: {PROGRESS}step 7, 112 samples: loss 5.9, 0.7 s\n")
    assert last_words(console) == "RuntimeError: of a rank"


def test_a_run_that_fails_before_it_goes_on_has_a_cause_of_its_own(tmp_path: Path) -> None:
    """Earlier processes' log and console are not taken as its cause, and stay unchanged."""
    console, log = tmp_path / "console_0.log", tmp_path / "result_0.txt"
    console.write_text("srun: error: n1: task 1: Killed\n")
    events = EventLog(log, SystemClock())
    events.start("run_start")
    events.end("run_stop", status="aborted", reason="RuntimeError: a rank is gone", error="RuntimeError")

    class Refused(Local):
        def command(self) -> list[str]:
            return ["bash", "-c", "echo OSError: the address is in use; exit 1"]

    config = configured().for_experiment(seed=1, result_file=log)
    with console.open("ab") as output:
        ending = run_once(config, output, Refused(config), Received())

    assert (ending.status, ending.cause, ending.cut_off) == (1, "OSError: the address is in use", True)
    before = log.read_text()
    close_log(log, ending)
    assert log.read_text() == before


KILLED_RUN = Ending(status=137, standing=Standing(started_ms=1, samples=32), cause="killed")


def test_a_killed_run_has_its_log_closed(tmp_path: Path) -> None:
    """run_stop says aborted and why, on a line of its own; the half-written line before it is kept apart."""
    log = tmp_path / "result_0.txt"
    EventLog(log, SystemClock()).start("run_start")
    with log.open("a") as file:
        file.write(":::MLLOG {")
    close_log(log, KILLED_RUN)
    _, stop, samples = read_events(log)
    assert (stop.key, stop.metadata["status"], stop.metadata["reason"]) == ("run_stop", "aborted", "killed")
    assert samples.value == 32
    assert log.with_name("result_0.txt.cut-1").read_text() == ":::MLLOG {"


@pytest.mark.parametrize(
    "ending",
    [
        dataclasses.replace(KILLED_RUN, standing=Standing(started_ms=1, stopped_ms=2)),
        dataclasses.replace(KILLED_RUN, standing=Standing()),
        dataclasses.replace(KILLED_RUN, gone=False),
    ],
    ids=["stopped", "not started", "still written to"],
)
def test_nothing_is_added_to_another_log(ending: Ending, tmp_path: Path) -> None:
    """A log with run_stop, one without a clock, and one that a process may still write to stay as they are."""
    close_log(tmp_path / "result_0.txt", ending)
    assert list(tmp_path.iterdir()) == []


def test_a_log_without_a_checkpoint_is_kept_beside_the_new_one(tmp_path: Path) -> None:
    """Nothing that a run has logged is deleted."""
    log = tmp_path / "result_0.txt"
    assert set_aside(log) == 0
    for number, text in enumerate(("first", "second"), start=1):
        log.write_text(text)
        assert set_aside(log) == number
    assert set_aside(log) == 2
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "result_0.txt.lost-1": "first",
        "result_0.txt.lost-2": "second",
    }


def test_ranks_meet_at_a_port_that_nothing_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A port that another program of the node listens at is passed over."""
    config = configured(LOGDIR=str(tmp_path))
    slurm = Slurm(config, SlurmJob(number="42", nodes=("n1",)))
    with socket.socket() as held:
        with socket.socket() as free:
            held.bind(("", 0))
            free.bind(("", 0))
            drawn = [free.getsockname()[1], held.getsockname()[1]]
        expected = str(drawn[0])
        monkeypatch.setattr("harness.launch.slurm._FIRST_PORT", 0)
        monkeypatch.setattr("harness.launch.slurm.secrets.randbelow", lambda _: drawn.pop())
        assert slurm.variables()["MASTER_PORT"] == expected


@pytest.mark.parametrize(
    ("address", "nodes", "own"),
    [
        (socket.gethostname(), 2, True),
        ("127.0.0.1", 1, True),
        ("127.0.0.1", 2, False),
        ("localhost", 2, False),
        ("203.0.113.7", 1, False),
        ("no-such-host.invalid", 1, False),
    ],
)
def test_a_node_knows_its_own_addresses(address: str, nodes: int, own: bool) -> None:
    """They are its name and its interfaces' addresses; loopback, which every node has, tells several nothing."""
    assert is_own(address, nodes) is own


class Answering(Slurm):
    """A job whose nodes answer, without Slurm, which of them has the address."""

    answers = "0: no\n1: no\n2: no\n"

    def _require(self, *_: object, **__: object) -> str:
        return self.answers.replace(": ", f": {MARK}")


def answering(tmp_path: Path, **variables: str | int) -> Answering:
    config = configured(DGXNNODES=3, MINIBS=48, LOGDIR=str(tmp_path), **variables)
    return Answering(config, SlurmJob(number="42", nodes=("n1", "n2", "n3")))


@pytest.mark.parametrize(("address", "answers"), [("n2", ""), ("10.0.0.2", "1: yes\n2: no\n0: no\n")])
def test_rank_0_runs_on_the_node_of_master_addr(address: str, answers: str, tmp_path: Path) -> None:
    """MASTER_ADDR may be Slurm's name or any address of the node; the ranks of a node stay together."""
    slurm = answering(tmp_path, MASTER_ADDR=address, MASTER_PORT=29500, DGXNGPU=8)
    slurm.answers = answers
    slurm._meet()
    assert slurm.variables()["MASTER_ADDR"] == address
    assert slurm.variables()["MASTER_PORT"] == "29500"
    words = slurm.command()
    assert f"--nodelist={','.join(['n2'] * 8 + ['n1'] * 8 + ['n3'] * 8)}" in words
    assert "--distribution=arbitrary" in words


SRUN = """\
#!/usr/bin/env bash
# One node, one task, as a site runs it whose TaskProlog prints; the image's entry point ends no line.
while [[ ${1:-} == -* ]]; do shift; done
echo "Loading module cuda/13.0"
printf '== PyTorch 25.09 =='
exec "$@"
"""


@pytest.fixture
def talkative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """A job of one node, where each step prints what it was not asked for."""
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(SRUN)
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}:{os.environ['PATH']}")
    return Slurm(configured(LOGDIR=str(tmp_path)), SlurmJob(number="42", nodes=("n1",)))


def test_text_before_an_answer_changes_nothing(talkative: Slurm) -> None:
    """Output of a TaskProlog or an image's entry point before an answer is ignored."""
    seen = Seen(data={"compared": "bytes"})
    answering = f"from benchmark.answers import answer; answer({seen.model_dump_json()!r})"
    printed = talkative._require("asking", Wrapped(srun=(), command=(sys.executable, "-c", answering)))
    assert printed.startswith("Loading module")
    assert Seen.model_validate_json(*answers(printed)) == seen


def test_a_task_is_known_by_its_label() -> None:
    """Text between label and answer is ignored, and so is a line without the mark."""
    printed = f"0: yes\n 1: banner{MARK}yes\n10: {MARK}no\n"
    assert labelled_answers(printed) == [(1, "yes"), (10, "no")]


def test_variables_of_sbatch_are_not_set_again(talkative: Slurm) -> None:
    """`sbatch --export=ALL,SEED_BASE=5` would set it for every srun of the job; a run's ranks must not get it."""
    assert "--export=ALL" in talkative.command()


def test_without_master_addr_ranks_meet_on_the_first_node(tmp_path: Path) -> None:
    """The first node is the first in Slurm's order."""
    slurm = answering(tmp_path)
    slurm._meet()
    assert slurm.variables()["MASTER_ADDR"] == "n1"
    assert "--nodelist=n1,n2,n3" in slurm.command()


def test_an_address_of_no_node_is_refused(tmp_path: Path) -> None:
    """The error has what was read, the nodes, and the valid choices."""
    with pytest.raises(CannotStartError) as refusal:
        answering(tmp_path, MASTER_ADDR="login1")._meet()
    assert str(refusal.value) == (
        "MASTER_ADDR=login1 belongs to no node of job 42: n1, n2, n3; valid: a name or an address by which "
        "the other nodes reach one of them, or unset it for n1"
    )


def test_a_held_port_is_refused(tmp_path: Path) -> None:
    """The user's own port is not replaced in silence."""
    with socket.create_server(("", 0)) as held:
        port = held.getsockname()[1]
        with pytest.raises(CannotStartError, match=f"MASTER_PORT={port} is in use by a program on n1; unset it"):
            answering(tmp_path, MASTER_PORT=port)._meet()


# Sets of runs.

NOTHING = Seen(data={})
JOB = {"id": "42", "nodes": "n1,n2", "restarts": "0"}


def test_a_requeued_job_finds_its_runs(tmp_path: Path) -> None:
    """It finds the same folder and seeds, and its run that was under way is not over."""
    resolved = resolve(None, environment(LOGDIR=str(tmp_path), NEXP=3))
    first = RunSet.open(resolved, NOTHING, JOB)
    first.update(0, status="success", minutes=1.0)
    first.update(1, status=RUNNING)

    again = RunSet.open(resolved, NOTHING, JOB | {"restarts": "1"})
    assert again.folder == first.folder
    assert again.experiments == first.experiments
    assert again.unfinished() == [1, 2]
    assert [job["restarts"] for job in json.loads((again.folder / "run.json").read_text())["jobs"]] == ["0", "1"]


@pytest.mark.parametrize("other", ["", "[]", '{"jobs": 1}', '{"jobs": [{}]}'])
def test_a_requeued_job_passes_over_other_records(tmp_path: Path, other: str) -> None:
    """A broken run.json next to its own, or one of no job, does not stop it."""
    resolved = resolve(None, environment(LOGDIR=str(tmp_path)))
    first = RunSet.open(resolved, NOTHING, JOB)
    later = first.folder.with_name("later") / "run.json"
    later.parent.mkdir()
    later.write_text(other)
    assert RunSet.open(resolved, NOTHING, JOB | {"restarts": "1"}).folder == first.folder


def test_a_job_that_is_told_to_stop_starts_no_further_run(tmp_path: Path) -> None:
    """That holds however the stopped run ends, even if srun's complaint looks like a refusal."""
    resolved = resolve(None, environment(LOGDIR=str(tmp_path), NEXP=3))
    runs, received = RunSet.open(resolved, NOTHING, {}), Received()

    class Obeying(Local):
        def command(self) -> list[str]:
            received.stop = signal.SIGTERM
            return ["bash", "-c", "echo 'srun: error: n1: task 0: Exited with exit code 143'; exit 143"]

    assert list(run_all(resolved.config, runs, Obeying(resolved.config), received)) == [0]
    assert [one.status for one in runs.experiments[1:]] == ["waiting", "waiting"]


def test_a_run_is_shown_by_the_planner_before_it_can_tell(tmp_path: Path) -> None:
    """A job has an ETA from its first second, later from the set's finished runs."""
    config = ROOT / "configs" / "config_DGXH100_1024x8x24xtp8pp8cp2.sh"
    resolved = resolve(config, os.environ | {"LOGDIR": str(tmp_path), "NEXP": "3"})
    runs = RunSet.open(resolved, NOTHING, {})
    planned = view_of(resolved.config, runs, 0)
    assert (planned.number, planned.runs) == (1, 3)
    assert 15 < (planned.usual or 0) / 60 < 25
    runs.update(0, status="success", minutes=21.0)
    assert view_of(resolved.config, runs, 1) == WatchView(number=2, runs=3, usual=21.0 * 60)


def test_a_run_without_a_log_is_no_valid_result(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """There is nothing to check, and no refusal is claimed."""
    assert conclude(configured(), tmp_path, {"result_0.txt": 1}, ["run 0: it printed nothing"]) == 1
    said = capfd.readouterr()
    assert said.err == ""
    assert said.out.splitlines() == [
        "cause     run 0: it printed nothing",
        "cause     no run has left a log",
        f"results   {tmp_path}",
        "verdict   FAIL",
    ]


def test_an_index_that_cannot_be_removed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line names it, and the job ends as it would have."""
    with Slurm(configured(LOGDIR=str(tmp_path)), SlurmJob(number="42", nodes=("n1",))):
        (tmp_path / ".index_42").rmdir()
    assert capsys.readouterr().out == f"left behind {tmp_path}/.index_42: No such file or directory\n"


def test_a_logdir_that_leads_nowhere_is_one_clear_error(tmp_path: Path) -> None:
    """The error is the same on this machine and in a job."""
    link = tmp_path / "logs"
    link.symlink_to("/scratch/gone")
    with pytest.raises(ConfigError) as refusal:
        RunSet.open(resolve(None, environment(LOGDIR=str(link))), NOTHING, {})
    assert str(refusal.value) == f"LOGDIR={link}: {link} is a link to /scratch/gone, which is not there"
    with (
        pytest.raises(ConfigError, match="is a link to /scratch/gone"),
        Slurm(configured(LOGDIR=str(link)), SlurmJob(number="42", nodes=("n1",))),
    ):
        pass


def test_sets_that_begin_together_have_folders_of_their_own(tmp_path: Path) -> None:
    """Sets of the same second, and tasks of an array, keep their checkpoints under different names."""
    config, now = configured(LOGDIR=str(tmp_path)), datetime(2026, 11, 29, tzinfo=UTC)
    made = [make_folder(config, now, job).name for job in ("", "", "", "42", "43")]
    times = ["20261129T000000Z" + end for end in ("", "-2", "-3", "-42", "-43")]
    assert made == times


def test_each_task_of_an_array_goes_on_with_its_own_runs(tmp_path: Path) -> None:
    """A requeued task does not take what another one began in the same second."""
    resolved = resolve(None, environment(LOGDIR=str(tmp_path)))
    tasks = [JOB | {"id": number} for number in ("42", "43")]
    begun = [RunSet.open(resolved, NOTHING, task).folder for task in tasks]
    again = [RunSet.open(resolved, NOTHING, task | {"restarts": "1"}).folder for task in tasks]
    assert again == begun
    assert len(set(begun)) == 2


def test_latest_is_the_newest_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each new set replaces a relative link, through which no log is found twice; RESUME accepts it."""
    resolved = resolve(None, environment(LOGDIR=str(tmp_path)))
    first, second = (RunSet.open(resolved, NOTHING, {}).folder for _ in range(2))
    latest = tmp_path / "latest"
    assert latest.readlink() == second.relative_to(tmp_path)
    for folder in (first, second):
        (folder / "result_0.txt").touch()
    assert [group.path for group in find_logs([tmp_path])] == [first, second]
    again = resolve(None, environment(LOGDIR=str(tmp_path), RESUME=str(latest)))
    assert RunSet.open(again, NOTHING, {}).folder == second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["TEST", "latest"]
    latest.unlink()
    latest.mkdir()
    RunSet.open(resolved, NOTHING, {})
    assert capsys.readouterr().out == f"latest    no link {latest}: is not a link\n"
    with pytest.raises(ConfigError, match="use another name"):
        make_folder(configured(LOGDIR=str(tmp_path), DGXSYSTEM="latest"), datetime.now(UTC))


def test_another_job_begins_a_new_set(tmp_path: Path) -> None:
    """Only a requeued job, or RESUME, continues an existing set."""
    resolved = resolve(None, environment(LOGDIR=str(tmp_path), SEED=1))
    first = RunSet.open(resolved, NOTHING, JOB)
    first.folder.rename(first.folder.with_name("earlier"))
    assert RunSet.open(resolved, NOTHING, JOB | {"id": "43"}).folder != first.folder.with_name("earlier")


def test_runs_of_another_benchmark_are_not_resumed(tmp_path: Path) -> None:
    """RESUME with a folder of other runs is refused, with the values that differ."""
    runs = RunSet.open(resolve(None, environment(LOGDIR=str(tmp_path), NEXP=2)), NOTHING, {})
    resolved = resolve(None, environment(LOGDIR=str(tmp_path), NEXP=3, RESUME=str(runs.folder)))
    with pytest.raises(ConfigError, match=r"NEXP is 3, but 2 in .*run\.json"):
        RunSet.open(resolved, NOTHING, {})


def test_a_folder_without_runs_is_not_resumed(tmp_path: Path) -> None:
    """There is one clear error."""
    resolved = resolve(None, environment(LOGDIR=str(tmp_path), RESUME=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"run\.json is not a record of runs that can be continued"):
        RunSet.open(resolved, NOTHING, {})
