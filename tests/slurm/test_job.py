"""`sbatch run.sub` on a real Slurm of two emulated nodes with two ranks each: good ends, bad ends and interrupted ones.

What trains is the stand-in of `stub_trainer`: the real loop, log and checkpoints, rehearsed. One test trains.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from socket import AF_INET

import psutil
import pytest

from benchmark.checkout import ROOT
from benchmark.config import RunConfig
from benchmark.telemetry import files_of
from harness.simulate import MARK, SimulatedPace, VirtualClock, simulate
from tests.fakes import read_events
from tests.reference_impl.checkpoints import TINY as TINY_SIZE
from tests.reference_impl.checkpoints import random_weights, write_huggingface
from tests.slurm.cluster import PATIENCE_S, wait_for
from tests.slurm.conftest import IMAGE, TINY, Jobs
from tests.slurm.stub_trainer import LINGER

pytestmark = pytest.mark.slow

SAVING = {"SAVE_INTERVAL": 8, "SEED": 3}


@pytest.mark.parametrize("runtime", ["none", "pyxis"])
def test_a_job_of_two_runs_completes(jobs: Jobs, runtime: str, request: pytest.FixtureRequest) -> None:
    """Two runs on two nodes, in a container or not: both logs pass the checks and Slurm calls the job COMPLETED.

    Variables on sbatch's command line count for the set, and are not set a second time for its ranks.
    """
    container = {"CONT": request.getfixturevalue("pyxis") and IMAGE} if runtime == "pyxis" else {}

    variables = {"NEXP": 2, "TELEMETRY_INTERVAL": 1, "PLANTED_SECRET": "hunter2-hunter2"}
    state = jobs.run({**variables, **container}, "--export=ALL,SEED_BASE=5")
    assert state == "COMPLETED", jobs.output()
    record = json.loads((jobs.results() / "run.json").read_text())
    assert [(one["seed"], one["status"]) for one in record["experiments"]] == [(5, "success"), (6, "success")]
    assert jobs.last_lines(1) == "verdict   PASS, SIMULATED"
    assert "PASS  2 logs, 0 errors" in jobs.output()
    # The environment holds secrets: none of it in what a job leaves behind.
    left = [path for path in (*jobs.logs.rglob("*"), *jobs.folder.glob("job-*")) if path.is_file()]
    assert not [path for path in left if b"hunter2" in path.read_bytes()]
    assert {path.name for path in jobs.logs.iterdir()} == {"latest", "python", "tiny"}
    # Each node was sampled during each run, by what ended with it.
    for number in range(2):
        assert set(files_of(jobs.results() / f"result_{number}.txt")) == {"n1", "n2"}
    assert "telemetry ended" not in jobs.output()


def test_the_rehearsal_works_as_it_is_printed(jobs: Jobs) -> None:
    """The line of docs/slurm.md works with only its paths set; run.json has the origin of each value."""
    page = (ROOT / "docs" / "slurm.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^    (source config_tiny\.sh; sbatch .*)$", page, re.MULTILINE)
    places = {"LOGDIR": jobs.logs, "HARNESS_PYTHON": jobs.python(), "SBATCH_OUTPUT": jobs.folder / "job-%j.log"}
    number = jobs.type(line, {"CLEAR_CACHES": "0", **{name: str(path) for name, path in places.items()}})
    assert jobs.cluster.wait(number) == "COMPLETED", jobs.output()
    record = json.loads((jobs.results() / "run.json").read_text())
    origins = {name: setting["origin"] for name, setting in record["configuration"].items()}
    assert {name: origins[name] for name in ("MINIBS", "LOGDIR", "NEXP", "DGXNNODES")} == {
        "MINIBS": "config_tiny.sh",
        "LOGDIR": "environment",
        "NEXP": "default",
        "DGXNNODES": "the job",
    }


def test_a_job_in_apptainer_completes(jobs: Jobs) -> None:
    """Every step and every rank goes through the program, here one that only takes its own options away."""
    program = jobs.folder / "bin" / "apptainer"
    program.parent.mkdir()
    program.write_text('#!/usr/bin/env bash\nshift; while [[ $1 == --* ]]; do shift; done; shift; exec "$@"\n')
    program.chmod(0o755)

    variables = {"CONT": "/images/llama31.sif", "CONTAINER_RUNTIME": "apptainer", "SEED": 1}
    path = f"{program.parent}:{os.environ['PATH']}"
    assert jobs.run({**variables, "PATH": path}) == "COMPLETED", jobs.output()


def test_the_host_of_a_job_needs_no_torch(jobs: Jobs, pyxis: Path) -> None:
    """Its own environment launches, checks and reports; the container, which brings its interpreter, has the rest."""
    done = subprocess.run(["bash", "setup.sh", "--host"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    host = done.stdout.strip()
    assert subprocess.run([host, "-c", "import torch"], capture_output=True, check=False).returncode == 1
    environment = pyxis / "environment"
    environment.write_text(f"HARNESS_PYTHON={jobs.python()}\n")
    try:
        state = jobs.run({"CONT": IMAGE, "SEED": 1, "TELEMETRY_INTERVAL": 1, "HARNESS_PYTHON": None})
    finally:
        environment.unlink()
    assert state == "COMPLETED", jobs.output()
    # What is recorded is what the ranks found, in the container.
    assert "megatron-core" in json.loads((jobs.results() / "run.json").read_text())["versions"]
    assert (jobs.results() / "report.html").exists()


def test_nothing_is_installed_in_an_allocation(jobs: Jobs, tmp_path: Path) -> None:
    """A host that was not set up refuses in one line that says how."""
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    names = ["run.sub", "run_and_time.sh", "setup.sh", "pyproject.toml", *(path.name for path in ROOT.glob("*.lock"))]
    for name in names:
        shutil.copy(ROOT / name, fresh)
    assert jobs.run({"CONT": IMAGE, "HARNESS_PYTHON": None}, checkout=fresh) == "FAILED"
    assert jobs.output().splitlines()[-1] == (
        f"setup: {fresh}/.venv-host is missing or out of date: bash setup.sh --host makes it, "
        "on a machine that reaches a package index"
    )
    assert not list(fresh.glob(".venv*"))


def test_the_tiny_model_trains(jobs: Jobs, pyxis: Path) -> None:
    """The log of four real ranks on two nodes, in a container, passes the checks and is not a rehearsal."""
    jobs.stub = False
    # The interpreter is in the checkout, which the container sees.
    assert jobs.run({"CONT": IMAGE, "SEED": 1}) == "COMPLETED", jobs.output()
    assert jobs.last_lines(1) == "verdict   PASS"
    assert not [event for event in jobs.events() if event.value == MARK]


# A job that fails says so to Slurm, and why in its last lines.


def test_a_missed_target_fails_the_job(jobs: Jobs) -> None:
    """A run that gives up is not a result."""
    assert jobs.run({"MAX_STEPS": 80}) == "FAILED"
    assert "after 80 steps, target 5.9 not reached" in jobs.last_lines()


def test_a_failing_check_fails_the_job(jobs: Jobs) -> None:
    """A run that reaches its target but leaves a log that breaks a rule is not a result."""
    with jobs.held_after(5) as number:
        (log,) = jobs.logs.glob("tiny/*/result_0.txt")
        with log.open("a") as file:
            file.write(":::MLLOG no event\n")

    assert jobs.cluster.wait(number) == "FAILED"
    assert '"status": "success"' in log.read_text()
    assert "cause     compliance check" in jobs.last_lines()


def test_a_missing_mount_fails_the_job(jobs: Jobs, pyxis: Path) -> None:
    """Everything that a container should see must exist."""
    assert jobs.run({"CONT": IMAGE, "TOKENIZER": jobs.folder / "absent.model"}) == "FAILED"
    assert f"{jobs.folder}/absent.model" in jobs.last_lines(12)


def test_links_lead_somewhere_in_a_container(jobs: Jobs, pyxis: Path) -> None:
    """The data are links to a store, and the weights are in Hugging Face's cache, whose files are links."""
    assert pyxis
    store = shutil.copytree(ROOT / "data" / "tiny", jobs.folder / "store")
    exported = write_huggingface(jobs.folder / "exported", TINY_SIZE, random_weights(TINY_SIZE, 32_000))
    cache = jobs.folder / "hub"
    for folder in (jobs.folder / "data", cache / "blobs", cache / "snapshots" / "0123"):
        folder.mkdir(parents=True)
    for path in store.iterdir():
        (jobs.folder / "data" / path.name).symlink_to(path)
    for number, path in enumerate(sorted(exported.iterdir())):
        path.rename(cache / "blobs" / str(number))
        (cache / "snapshots" / "0123" / path.name).symlink_to(f"../../blobs/{number}")

    variables = {"DATADIR": jobs.folder / "data", "LOAD_CHECKPOINT": cache / "snapshots" / "0123", "SEED": 1}
    assert jobs.run({"CONT": IMAGE, **variables}) == "COMPLETED", jobs.output()


def test_what_a_node_does_not_see_fails_the_job(jobs: Jobs) -> None:
    """The node is named, also without a container."""
    assert jobs.run({"TOKENIZER": jobs.folder / "absent.model"}) == "FAILED"
    assert f"error: n2: {jobs.folder}/absent.model is not there" in jobs.last_lines(12)


@pytest.mark.parametrize("variable", ["LOGDIR", "SAVE_CHECKPOINT", "NPY_INDEX_DIR"])
def test_a_folder_of_each_node_fails_the_job(jobs: Jobs, variable: str) -> None:
    """A shared folder that one node has on its own disk is refused before there is a folder of runs."""
    folder = jobs.folder / "local"
    folder.mkdir()
    with jobs.cluster.disk_of("n2", folder):
        assert jobs.run({variable: folder}) == "FAILED"
    assert (
        f"error: n2: {variable}={folder} is not the folder of the first node: all nodes must share it"
        in jobs.last_lines(12)
    )
    assert not [path for path in jobs.folder.rglob("*") if path.name in ("tiny", "run.json")]
    assert list(folder.iterdir()) == []


def test_other_data_than_the_manifest_says_fails_the_job(jobs: Jobs) -> None:
    """Data with a byte less are not trained on."""
    data = shutil.copytree(ROOT / "data" / "tiny", jobs.folder / "data")
    with next(data.glob("*train*.bin")).open("r+b") as file:
        file.truncate(1000)

    assert jobs.run({"DATADIR": data}) == "FAILED"
    assert "bytes" in jobs.last_lines()


def test_a_job_of_another_size_is_refused(jobs: Jobs) -> None:
    """The allocation must match the configuration."""
    assert jobs.run({}, "--nodes=1") == "FAILED"
    assert jobs.last_lines(1) == "error: DGXNNODES=2, but the job has 1 nodes: sbatch -N $DGXNNODES run.sub"


def test_memory_may_be_counted_by_processor(jobs: Jobs) -> None:
    """No line of run.sub requests the whole node's memory instead, since some sites need it so."""
    assert jobs.run({"SEED": 1}, "--mem-per-cpu=100") == "COMPLETED", jobs.output()


@pytest.mark.parametrize("address", ["n2", "interface"])
def test_the_ranks_meet_where_the_user_says(jobs: Jobs, address: str) -> None:
    """That may be a node of the job by name, on which rank 0 then runs, or an address of any interface."""
    if address == "interface":
        own = [one.address for all_of in psutil.net_if_addrs().values() for one in all_of if one.family == AF_INET]
        others = [one for one in own if not one.startswith("127.")]
        if not others:
            pytest.skip("this machine has no interface but the loopback one")
        address = others[0]
    port = free_port()
    variables = {"MASTER_ADDR": address, "MASTER_PORT": port, "CUDA_DEVICE_MAX_CONNECTIONS": 1, "SEED": 1}
    with jobs.held_after(5, variables) as number:
        environments = {int(one.environ()["RANK"]): one.environ() for one in (rank(jobs, index) for index in range(4))}
        assert {(one["MASTER_ADDR"], one["MASTER_PORT"]) for one in environments.values()} == {(address, str(port))}
        assert {one["CUDA_DEVICE_MAX_CONNECTIONS"] for one in environments.values()} == {"1"}
        assert environments[0]["SLURMD_NODENAME"] == ("n2" if address == "n2" else "n1")
        assert [environments[index]["LOCAL_RANK"] for index in range(4)] == ["0", "1", "0", "1"]

    assert jobs.cluster.wait(number) == "COMPLETED", jobs.output()


@pytest.mark.parametrize("address", ["203.0.113.7", "localhost"])
def test_a_meeting_place_outside_the_job_is_refused(jobs: Jobs, address: str) -> None:
    """One line refuses it before there is a folder of runs; with two nodes, localhost is on neither."""
    assert jobs.run({"MASTER_ADDR": address}) == "FAILED"
    assert jobs.last_lines(1).startswith(f"error: MASTER_ADDR={address} belongs to no node of job ")
    assert ": n1, n2; valid: a name or an address by which the other nodes" in jobs.last_lines(1)
    assert not (jobs.logs / "tiny").exists()


def test_a_killed_rank_fails_the_job(jobs: Jobs) -> None:
    """If nothing was saved, the rank and its node are named, and the log says aborted."""
    with jobs.held_after(20) as number:
        rank(jobs, 3).kill()

    assert jobs.cluster.wait(number) == "FAILED"
    assert "n2: task 3: Killed" in jobs.last_lines()
    assert [event.metadata["status"] for event in jobs.events() if event.key == "run_stop"] == ["aborted"]


def test_a_stopped_rank_is_found_and_ends_the_job(jobs: Jobs) -> None:
    """When the log is silent for too long, the ranks are asked, and the one that cannot answer is named."""
    with jobs.held_after(20, {"HANG_MONITOR_TIMEOUT": 0.5}) as number:
        rank(jobs, 2).send_signal(signal.SIGSTOP)

    assert jobs.cluster.wait(number) == "FAILED"
    assert (
        "cause     run 0: no line in the log for 30 s; rank 2 on n2 does not answer: stopped or gone" in jobs.output()
    )
    assert "ranks 1 on n1, 3 on n2 in follow (slurm/stub_trainer.py:" in jobs.output()


def test_a_run_that_hangs_after_its_success_is_kept(jobs: Jobs) -> None:
    """A rank that does not end then is ended within a minute, the next run starts, and the job is COMPLETED."""
    jobs.logs.mkdir()
    (jobs.logs / LINGER).touch()
    assert jobs.run({"NEXP": 2, "SEED_BASE": 5, "NPAR": 3, "SAVE_CHECKPOINT": jobs.folder / "saved"}) == "COMPLETED"
    assert "processes are left: killing them" in jobs.output()
    (record,) = [json.loads(path.read_text()) for path in jobs.logs.glob("tiny/*/run.json")]
    assert [(one["status"], one["lost"]) for one in record["experiments"]] == [("success", 0), ("success", 0)]
    for index in range(2):
        assert [event.key for event in jobs.events(index)][-2:] == ["run_stop", "train_samples"]


def test_a_killed_srun_leaves_no_rank(jobs: Jobs) -> None:
    """Its ranks are ended before the log is closed: nothing comes after run_stop."""
    with jobs.held_after(20) as number:
        ranks = [rank(jobs, one) for one in range(4)]
        here = jobs.cluster.processes_on("n1")
        started = [one for one in here if one.name() == "srun" and "--job-name=ranks" in one.cmdline()]
        # The other one of them is its helper.
        srun = min(started, key=psutil.Process.create_time)
        srun.kill()

    assert jobs.cluster.wait(number) == "FAILED"
    assert [one for one in ranks if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
    assert [event.key for event in jobs.events()][-2:] == ["run_stop", "train_samples"]
    assert "the process that started its ranks was ended by SIGKILL" in jobs.output()


def test_a_cancelled_job_aborts_its_run(jobs: Jobs) -> None:
    """After scancel the log is closed."""
    with jobs.held_after(20) as number:
        end_ranks(jobs, "scancel", str(number))

    assert jobs.cluster.wait(number) == "CANCELLED"
    wait_for(lambda: jobs.events()[-1].key == "train_samples", "the log is not closed", jobs.output)


def test_a_slow_network_fails_the_job(jobs: Jobs) -> None:
    """PyTorch measures an all-reduce over all ranks, and the threshold refuses the job."""
    assert jobs.run({"NCCL_TEST_MIN_GBPS": 1_000_000}) == "FAILED"
    assert "less than NCCL_TEST_MIN_GBPS=1e+06" in jobs.last_lines(12)


# A job that is interrupted goes on.


@pytest.mark.parametrize("how", ["rank", "node", "requeue", "before a checkpoint"])
def test_an_interrupted_run_ends_as_if_nothing_had_happened(jobs: Jobs, how: str) -> None:
    """After a killed rank, a dead node and a requeue there is one log, one clock, and the same evaluations to the
    last bit.
    """
    unsaved = how == "before a checkpoint"
    saving = SAVING | ({"SAVE_INTERVAL": 100} if unsaved else {})
    variables = {**saving, "SAVE_CHECKPOINT": jobs.folder / "saved", "NPAR": 2}
    with jobs.held_after(3 if unsaved else 60, variables) as number:
        if how == "requeue":
            end_ranks(jobs, "scontrol", "requeue", str(number))
        elif how == "node":
            jobs.cluster.kill_node("n2")
            jobs.cluster.start_node("n2")
        else:
            rank(jobs, 1).kill()

    assert jobs.cluster.wait(number) == "COMPLETED", jobs.output()
    assert evaluations(jobs) == undisturbed(jobs.folder)
    keys = [event.key for event in jobs.events()]
    assert [keys.count(key) for key in ("run_start", "run_stop")] == [1, 1]
    resumed = [event.value for event in jobs.events() if event.key == "tracked_stats" and "resumed" in event.value]
    # Nothing counts of a run that had saved nothing.
    assert len(resumed) == (0 if unsaved else 1)
    assert all(value["outage"] > 1 for value in resumed)
    (run,) = json.loads((jobs.results() / "run.json").read_text())["experiments"]
    assert run["lost"] == int(unsaved)


def test_a_job_out_of_time_is_finished_by_its_next_allocation(jobs: Jobs) -> None:
    """SIGUSR1, which Slurm sends before the time is over: saved, requeued and finished."""
    with jobs.held_after(30, {"SEED": 3, "SAVE_CHECKPOINT": jobs.folder / "saved", "NPAR": 2}) as number:
        jobs.cluster.command("scancel", "--batch", "--signal=USR1", str(number))

        assert jobs.cluster.wait(number) == "COMPLETED", jobs.output()
    assert evaluations(jobs) == undisturbed(jobs.folder)


def test_a_job_out_of_time_is_finished_by_another_job(jobs: Jobs) -> None:
    """If the job may not requeue itself, it says how to continue."""
    variables = {"SEED": 3, "SAVE_CHECKPOINT": jobs.folder / "saved"}
    with jobs.held_after(30, variables) as number:
        jobs.cluster.command("scancel", "--batch", "--signal=USR1", str(number))

        assert jobs.cluster.wait(number) == "FAILED"
    assert jobs.cluster.job(number)["ExitCode"] == "75:0"
    folder = jobs.results()
    assert jobs.last_lines(1) == f"to be continued: set RESUME={folder}"
    assert jobs.run({**variables, "RESUME": folder}) == "COMPLETED", jobs.output()
    assert evaluations(jobs) == undisturbed(jobs.folder)


def rank(jobs: Jobs, number: int) -> psutil.Process:
    """The process of a rank; those that it has started itself, such as a checkpoint's writer, are younger."""
    found = (
        process
        for node in jobs.cluster.nodes
        for process in jobs.cluster.processes_on(node)
        if process.environ().get("RANK") == str(number)
    )
    return min(found, key=psutil.Process.create_time)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def end_ranks(jobs: Jobs, *command: str) -> None:
    """Return when the first rank has ended by a command of Slurm's, which does not wait for that itself."""
    rank_0 = rank(jobs, 0)
    jobs.cluster.command(*command)
    rank_0.wait(PATIENCE_S)


def evaluations(jobs: Jobs) -> list[tuple[int, float]]:
    return [(event.metadata["samples_count"], event.value) for event in jobs.events() if event.key == "eval_accuracy"]


def undisturbed(folder: Path) -> list[tuple[int, float]]:
    """The evaluations of the run of seed 3, rehearsed without a job and without interruption."""
    log = folder / "undisturbed.txt"
    simulate(
        RunConfig.from_environment({**TINY, "SEED": "3", "RESULT_FILE": str(log)}), VirtualClock(0.0), SimulatedPace()
    )
    events = read_events(log)
    return [(event.metadata["samples_count"], event.value) for event in events if event.key == "eval_accuracy"]
