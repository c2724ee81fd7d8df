"""Runs on the nodes of a Slurm job, in any container: every srun that a job makes.

`run.sub` hands the job over; what starts inside a node is `run_and_time.sh`, which knows nothing of Slurm.
"""

from __future__ import annotations

import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmark.answers import MARK, answers, labelled_answers
from benchmark.checkout import ROOT
from benchmark.config import LIBRARY_PREFIXES, NAMES, ConfigError, RunConfig
from benchmark.run_record import Seen
from benchmark.shared import make_folder, tokens
from harness.launch.containers import Container, Mount, Wrapped, back_end_of, image_of, mounts_of, mounts_of_links
from harness.launch.hang import explain, stacks_in
from harness.launch.launcher import CannotStartError, Process, child_environment

# Runs its arguments with the environment's interpreter, in a container or not.
_PYTHON = ("bash", "-euc", 'python=$(bash setup.sh); exec "$python" "$@"', "bash")

# On a node itself; sudo asks for no password or is not used.
_DROP_CACHES = f"""
sync
if [ -w /proc/sys/vm/drop_caches ]; then how=root; echo 3 >/proc/sys/vm/drop_caches
elif sudo -n true 2>/dev/null; then how=sudo; sudo -n sysctl -q vm.drop_caches=3
else how='no privilege: only the pages of the dataset, by the ranks'
fi
echo "{MARK}caches    $(hostname): $how"
"""

_RANKS = "ranks"
"""Name of the step that signals are for."""

_STACKS_WAIT_S = 5.0
"""For ranks that are asked where they are."""

_REQUEUE_WAIT_S = 120.0

_GONE_S, _POLL_S = 60.0, 0.5
"""Seconds until Slurm must report the ranks as gone after SIGKILL, and seconds between two questions."""

_FIRST_PORT, _PORTS = 20_000, 12_768
"""Below those that Linux gives to outgoing connections."""


@dataclass(frozen=True, kw_only=True)
class SlurmJob:
    """The job that this process is the batch script of."""

    number: str
    nodes: tuple[str, ...]
    """Host names, in the order of the ranks."""
    restarts: int = 0
    """How often it was requeued."""

    @classmethod
    def find(cls, number: str, node_list: str, restarts: int) -> SlurmJob:
        """From batch's variables; a node list is Slurm's short form (n[1-4,7])."""
        names = _output(["scontrol", "show", "hostnames", node_list]).split()
        return cls(number=number, nodes=tuple(names), restarts=restarts)


def srun(nodes: Sequence[str], ranks_per_node: int, *options: str, as_listed: bool = False) -> list[str]:
    """Return the beginning of an srun: one step over these nodes.

    Ranks are placed in blocks, so that rank r runs on node r / ranks_per_node. Binding is left to `launch.bind`, which
    knows the GPUs' places; `--mpi=none`, since ranks find each other through torch.

    Args:
        as_listed: whether the nodes stand in another order than Slurm's own, and the ranks follow theirs.
    """
    size = (f"--nodes={len(nodes)}", f"--ntasks={len(nodes) * ranks_per_node}", f"--ntasks-per-node={ranks_per_node}")
    # Slurm sorts a list of nodes, but for a distribution that names the node of each task.
    places = [node for node in nodes for _ in range(ranks_per_node)] if as_listed else nodes
    manner = (f"--distribution={'arbitrary' if as_listed else 'block'}", "--cpu-bind=none", "--mpi=none")
    # sbatch's own --export is handed on to srun, which would set its variables again: SEED_BASE beside a run's SEED.
    variables = "--export=ALL"
    return ["srun", *size, f"--nodelist={','.join(places)}", *manner, variables, *options]


class Slurm:
    """Starts the ranks of a job.

    Raises:
        ConfigError: the job's nodes are not those of the configuration, or the container cannot have what it needs.
    """

    def __init__(self, config: RunConfig, job: SlurmJob) -> None:
        nodes = config.layout.nodes
        if len(job.nodes) != nodes:
            raise ConfigError(
                [f"DGXNNODES={nodes}, but the job has {len(job.nodes)} nodes: sbatch -N $DGXNNODES run.sub"]
            )
        self._config, self._job = config, job
        self._as_listed = False
        self._back_end = back_end_of(config.job, config.layout)
        mounts = mounts_of(config)
        self._container = Container(
            image=image_of(config.job),
            name=f"llama31_{job.number}",
            mounts=mounts_of_links(config, mounts) if self._back_end.needs_image else mounts,
            variables=variables_to_pass(config),
            gpus=Path("/dev/nvidiactl").exists(),
        )
        # In LOGDIR, which every rank sees.
        self._index = config.data.index_dir or config.job.log_dir.absolute() / f".index_{job.number}"
        # Refuses now what the back end cannot express.
        self._inside("true")

    def __enter__(self) -> Slurm:
        for variable, folder in {**self.shared, "NPY_INDEX_DIR": self._index}.items():
            make_folder(variable, folder)
        return self

    def __exit__(self, *error: object) -> None:
        if self._config.data.index_dir is None:
            try:
                shutil.rmtree(self._index)
            except OSError as fault:
                # A file system that still shows what ended ranks had open costs no run its verdict.
                print(f"left behind {self._index}: {fault.strerror}", flush=True)
        if step := self._back_end.stop(self._container):
            ended = subprocess.run([*srun(self._job.nodes, 1, *step.srun), *step.command], check=False)
            if ended.returncode:
                print(f"left behind {self._container.name} on a node, see above", flush=True)

    @property
    def job(self) -> dict[str, str]:
        job = self._job
        return {"id": job.number, "nodes": ",".join(job.nodes), "restarts": str(job.restarts)}

    def missing(self) -> list[str]:
        return []

    def prepare(self) -> Seen:
        config, nodes = self._config, self._job.nodes
        if start := self._back_end.start(self._container):
            self._require("starting the container", start, nodes)
        self._meet()
        with tokens(self.shared) as made:
            check = node_check(self._container.mounts, made, config.layout.gpus_per_node)
            self._require("checking every node", self._inside(*_PYTHON, *check), nodes)
        if config.job.nccl_test_min_gbps is not None:
            test = self._as_ranks(*_PYTHON, "-m", "reference_impl.all_reduce", str(config.job.nccl_test_min_gbps))
            measured = self._require("the all-reduce test", test, ranks_per_node=self._ranks_per_node)
            print("\n".join(answers(measured)), flush=True)
        ready = self._require("checking the data", self._inside(*_PYTHON, "-m", "reference_impl.ready"), nodes[:1])
        seen = answers(ready)
        if len(seen) != 1:
            raise CannotStartError(f"checking the data: expected one answer, got {len(seen)} in {ready[:1000]!r}")
        return Seen.model_validate_json(seen[0])

    @property
    def shared(self) -> dict[str, Path]:
        """The folders that all nodes must share, by the variables that name them."""
        job, index = self._config.job, self._config.data.index_dir
        named = {"LOGDIR": job.log_dir, "SAVE_CHECKPOINT": job.save_checkpoint, "NPY_INDEX_DIR": index}
        return {variable: folder for variable, folder in named.items() if folder is not None}

    def clear_caches(self) -> None:
        """Drop every node's page cache where the user may; the ranks drop the dataset's pages in any case."""
        if self._config.job.clear_caches:
            drop = Wrapped(srun=(), command=("bash", "-euc", _DROP_CACHES))
            print("\n".join(answers(self._require("dropping page caches", drop, self._job.nodes))), flush=True)

    def command(self) -> list[str]:
        ranks = self._as_ranks("bash", "run_and_time.sh")
        options = ("--label", "--kill-on-bad-exit=1", f"--job-name={_RANKS}")
        start = srun(self._job.nodes, self._ranks_per_node, *options, *ranks.srun, as_listed=self._as_listed)
        return [*start, *ranks.command]

    def variables(self) -> dict[str, str]:
        """Return where the ranks meet; another port each time, since the last one may still be held by what was killed."""
        process = self._config.process
        place = {
            "MASTER_ADDR": process.master_addr or self._job.nodes[0],
            "MASTER_PORT": str(process.master_port or _free_port()),
        }
        return {**place, "NPY_INDEX_DIR": str(self._index)}

    def send(self, process: Process, number: int) -> None:
        del process  # srun would take SIGTERM and SIGINT for itself
        self._signal_ranks(number)

    def kill(self, process: Process) -> None:
        del process
        if command := self._back_end.kill(self._container):
            # It may have ended by itself in the meantime; srun's own end, which is waited for, tells.
            subprocess.run(command, check=False)
        self._signal_ranks(signal.SIGKILL)

    def gone(self, process: Process) -> bool:
        if process.returncode < 0:
            # A killed srun leaves its ranks, and Docker's command line its container.
            self.kill(process)
        deadline = time.monotonic() + _GONE_S
        while self._steps() != []:
            if time.monotonic() > deadline:
                return False
            self._signal_ranks(signal.SIGKILL)
            time.sleep(_POLL_S)
        return True

    def on_each_node(self, command: Sequence[str]) -> list[str]:
        # Beside the ranks, which take all there is of a node; one node's failure is not the others'.
        options = ("--overlap", "--kill-on-bad-exit=0", "--wait=0", "--job-name=telemetry")
        return [*srun(self._job.nodes, 1, *options), *command]

    def stacks(self, console: Path) -> list[str]:
        before = console.stat().st_size
        self._signal_ranks(signal.SIGUSR2)
        time.sleep(_STACKS_WAIT_S)
        with console.open("rb") as file:
            file.seek(before)
            said = file.read().decode("utf-8", errors="replace")
        return explain(stacks_in(said), self._job.nodes, self._config.layout.gpus_per_node)

    def is_requeued(self) -> bool:
        # While it is being ended, the state of a job is COMPLETING whatever comes next; the count is ahead of ours.
        shown = _output(["scontrol", "--oneliner", "show", "job", self._job.number])
        match = re.search(r"\bRestarts=(\d+)", shown)
        return match is not None and int(match[1]) > self._job.restarts

    def requeue(self) -> bool:
        if self._job.restarts + 1 >= self._config.job.allocations or self._config.job.save_checkpoint is None:
            return False
        print(f"requeueing job {self._job.number}, to go on from the last checkpoint", flush=True)
        if subprocess.run(["scontrol", "requeue", self._job.number], check=False).returncode:
            print("Slurm does not requeue it, see above", flush=True)
            return False
        # Slurm now ends this process; what came after would be taken for the end of the job.
        time.sleep(_REQUEUE_WAIT_S)
        return True

    def _meet(self) -> None:
        """Have rank 0, which serves the meeting of all, run on the node that MASTER_ADDR names.

        Raises:
            CannotStartError: it names none of the job, or MASTER_PORT is held.
        """
        process, nodes = self._config.process, self._job.nodes
        address = process.master_addr or nodes[0]
        node = address if address in nodes else self._owner_of(address)
        if node is None:
            raise CannotStartError(
                f"MASTER_ADDR={address} belongs to no node of job {self._job.number}: {_some(nodes)}; valid: a name or "
                f"an address of one of them by which the others reach it, or unset for {nodes[0]}"
            )
        if node != nodes[0]:
            first = (node, *(other for other in nodes if other != node))
            self._job, self._as_listed = replace(self._job, nodes=first), True
        elif process.master_port is not None and not _is_free(process.master_port, again=True):
            raise CannotStartError(
                f"MASTER_PORT={process.master_port} is held by a program on {node}; unset it, and each run takes a "
                "free one"
            )

    def _owner_of(self, address: str) -> str | None:
        """Return the first node that says the address is its own."""
        nodes = self._job.nodes
        ask = self._inside(*_PYTHON, "-m", "harness.launch.address", "--nodes", str(len(nodes)), "--", address)
        said = self._require("looking for MASTER_ADDR", replace(ask, srun=("--label", *ask.srun)), nodes)
        own = sorted(task for task, answer in labelled_answers(said) if answer == "yes")
        return nodes[own[0]] if own else None

    @property
    def _ranks_per_node(self) -> int:
        return 1 if self._back_end.whole_node else self._config.layout.gpus_per_node

    def _inside(self, *command: str) -> Wrapped:
        return self._back_end.wrap(self._container, command)

    def _as_ranks(self, *command: str) -> Wrapped:
        if self._back_end.whole_node:
            return self._inside(*command)
        return self._inside("bash", "harness/launch/srun_rank.sh", *command)

    def _require(self, what: str, step: Wrapped, nodes: Sequence[str] | None = None, ranks_per_node: int = 1) -> str:
        """What a step prints, on these nodes or, as the ranks are, on all of them.

        Raises:
            CannotStartError: a rank of it failed.
        """
        as_listed = nodes is None and self._as_listed
        start = srun(nodes or self._job.nodes, ranks_per_node, *step.srun, as_listed=as_listed)
        command = [*start, *step.command]
        environment = child_environment(self._config) | self.variables()
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            said = done.stdout.replace(MARK, "")
            raise CannotStartError(
                f"{what} failed, see above (srun ended with status {done.returncode})\n{said}".strip()
            )
        return done.stdout

    def _signal_ranks(self, number: int) -> None:
        name = signal.Signals(number).name.removeprefix("SIG")
        for step in self._steps() or ():
            # It may have ended by itself in the meantime.
            subprocess.run(["scancel", "--quiet", f"--signal={name}", step], check=False)

    def _steps(self) -> list[str] | None:
        """Return the step of the ranks, if it is on; None where Slurm does not answer, which is said."""
        command = ["squeue", "--noheader", "--steps", f"--jobs={self._job.number}", "--format=%i %j"]
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if answer.returncode:
            return None
        return [line.split()[0] for line in answer.stdout.splitlines() if line.split()[1:] == [_RANKS]]


def _free_port() -> int:
    """Return one that nothing holds on this node: a batch script runs on the first one of its job, where rank 0 will
    be.
    """
    while True:
        port = _FIRST_PORT + secrets.randbelow(_PORTS)
        if _is_free(port):
            return port


def _is_free(port: int, *, again: bool = False) -> bool:
    """Return whether nothing on this node holds the port; `again`: what its last holder has left does not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, again)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _some(nodes: Sequence[str], most: int = 8) -> str:
    rest = f" and {len(nodes) - most} more" if len(nodes) > most else ""
    return ", ".join(nodes[:most]) + rest


def variables_to_pass(config: RunConfig) -> tuple[str, ...]:
    """Ours and the libraries' own; nothing else of the environment, which holds secrets."""
    theirs = (name for name in child_environment(config) if name.startswith(LIBRARY_PREFIXES))
    return (*NAMES, *sorted(theirs))


def node_check(mounts: Sequence[Mount], made: Mapping[str, Path], ranks: int) -> list[str]:
    """Return the arguments of `harness.launch.node`, for what a container or a node without one must see."""
    kinds = (("--writable" if mount.writable else "--readable", str(mount.path)) for mount in mounts)
    told = (("--token", variable, str(token)) for variable, token in made.items())
    options = [part for option in (*kinds, *told) for part in option]
    return ["-m", "harness.launch.node", "--ranks", str(ranks), *options]


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
