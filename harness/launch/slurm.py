"""Runs on the nodes of a Slurm job, in any container: every srun that a job makes.

`run.sub` hands the job over; each node starts `run_and_time.sh`, which knows nothing of Slurm.
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

# Runs its arguments with the environment's interpreter, inside a container or not.
_PYTHON = ("bash", "-euc", 'python=$(bash setup.sh); exec "$python" "$@"', "bash")

# Runs on the node itself; sudo is used only if it needs no password.
_DROP_CACHES = f"""
sync
if [ -w /proc/sys/vm/drop_caches ]; then how=root; echo 3 >/proc/sys/vm/drop_caches
elif sudo -n true 2>/dev/null; then how=sudo; sudo -n sysctl -q vm.drop_caches=3
else how='no privilege: only the pages of the dataset, by the ranks'
fi
echo "{MARK}caches    $(hostname): $how"
"""

_RANKS = "ranks"
"""Name of the step that receives signals."""

_STACKS_WAIT_S = 5.0
"""Seconds for ranks to print where they are."""

_REQUEUE_WAIT_S = 120.0
"""Seconds in which Slurm ends this process after it has accepted the requeue."""

_GONE_S, _POLL_S = 60.0, 0.5
"""Seconds until Slurm must report the ranks as gone after SIGKILL, and seconds between two questions."""

_FIRST_PORT, _PORTS = 20_000, 12_768
"""Ports below those that Linux gives to outgoing connections."""


@dataclass(frozen=True, kw_only=True)
class SlurmJob:
    """The job whose batch script is this process."""

    number: str
    nodes: tuple[str, ...]
    """Host names, in the order of the ranks."""
    restarts: int = 0
    """How often it was requeued."""

    @classmethod
    def find(cls, number: str, node_list: str, restarts: int) -> SlurmJob:
        """Describe the job by its batch variables; a node list is in Slurm's short form (n[1-4,7])."""
        names = _output(["scontrol", "show", "hostnames", node_list]).split()
        return cls(number=number, nodes=tuple(names), restarts=restarts)


def srun(nodes: Sequence[str], ranks_per_node: int, *options: str, as_listed: bool = False) -> list[str]:
    """Return the start of an srun command: one step over these nodes.

    Ranks are placed in blocks, so rank r runs on node r / ranks_per_node. Binding is left to `launch.bind`, which knows
    where the GPUs are; `--mpi=none`, since ranks find each other through torch.

    Args:
        as_listed: whether the nodes are in another order than Slurm's own, and the ranks follow theirs.
    """
    size = (f"--nodes={len(nodes)}", f"--ntasks={len(nodes) * ranks_per_node}", f"--ntasks-per-node={ranks_per_node}")
    # Slurm sorts a list of nodes, except with a distribution that names the node of each task.
    places = [node for node in nodes for _ in range(ranks_per_node)] if as_listed else nodes
    manner = (f"--distribution={'arbitrary' if as_listed else 'block'}", "--cpu-bind=none", "--mpi=none")
    # srun would inherit sbatch's own --export, which sets its variables again: SEED_BASE in addition to a run's SEED.
    variables = "--export=ALL"
    return ["srun", *size, f"--nodelist={','.join(places)}", *manner, variables, *options]


class Slurm:
    """Starts the ranks of a job.

    Raises:
        ConfigError: the job's nodes do not match the configuration, or the container cannot mount what it needs.
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
        # Inside LOGDIR, which every rank sees.
        self._index = config.data.index_dir or config.job.log_dir.absolute() / f".index_{job.number}"
        # Refuses now whatever the back end cannot express.
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
                # A file system may still show files that ended ranks had open; that must not cost a run its verdict.
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
        """Return the folders that all nodes must share, by the variables that name them."""
        job, index = self._config.job, self._config.data.index_dir
        named = {"LOGDIR": job.log_dir, "SAVE_CHECKPOINT": job.save_checkpoint, "NPY_INDEX_DIR": index}
        return {variable: folder for variable, folder in named.items() if folder is not None}

    def clear_caches(self) -> None:
        """Drop every node's page cache if the user may; the ranks drop the dataset's pages in any case."""
        if self._config.job.clear_caches:
            drop = Wrapped(srun=(), command=("bash", "-euc", _DROP_CACHES))
            print("\n".join(answers(self._require("dropping page caches", drop, self._job.nodes))), flush=True)

    def command(self) -> list[str]:
        ranks = self._as_ranks("bash", "run_and_time.sh")
        options = ("--label", "--kill-on-bad-exit=1", f"--job-name={_RANKS}")
        start = srun(self._job.nodes, self._ranks_per_node, *options, *ranks.srun, as_listed=self._as_listed)
        return [*start, *ranks.command]

    def variables(self) -> dict[str, str]:
        """Return where the ranks meet, at another port each time: killed processes may still hold the last one."""
        process = self._config.process
        place = {
            "MASTER_ADDR": process.master_addr or self._job.nodes[0],
            "MASTER_PORT": str(process.master_port or _free_port()),
        }
        return {**place, "NPY_INDEX_DIR": str(self._index)}

    def send(self, process: Process, number: int) -> None:
        del process  # srun would handle SIGTERM and SIGINT itself
        self._signal_ranks(number)

    def kill(self, process: Process) -> None:
        del process
        if command := self._back_end.kill(self._container):
            # The step may have ended by itself in the meantime; srun's own exit, which is awaited, shows whether it
            # did.
            subprocess.run(command, check=False)
        self._signal_ranks(signal.SIGKILL)

    def gone(self, process: Process) -> bool:
        if process.returncode < 0:
            # A killed srun leaves its ranks running, and Docker's command line leaves its container.
            self.kill(process)
        deadline = time.monotonic() + _GONE_S
        while self._steps() != []:
            if time.monotonic() > deadline:
                return False
            self._signal_ranks(signal.SIGKILL)
            time.sleep(_POLL_S)
        return True

    def on_each_node(self, command: Sequence[str]) -> list[str]:
        # Shares the node with the ranks, which have all of it; a failing node does not end the others.
        options = ("--overlap", "--kill-on-bad-exit=0", "--wait=0", "--job-name=telemetry")
        return [*srun(self._job.nodes, 1, *options), *command]

    def stacks(self, console: Path) -> list[str]:
        before = console.stat().st_size
        self._signal_ranks(signal.SIGUSR2)
        time.sleep(_STACKS_WAIT_S)
        with console.open("rb") as file:
            file.seek(before)
            printed = file.read().decode("utf-8", errors="replace")
        return explain(stacks_in(printed), self._job.nodes, self._config.layout.gpus_per_node)

    def is_requeued(self) -> bool:
        # While a job is being ended its state is COMPLETING, whatever comes next; a higher restart count tells.
        shown = _output(["scontrol", "--oneliner", "show", "job", self._job.number])
        match = re.search(r"\bRestarts=(\d+)", shown)
        return match is not None and int(match[1]) > self._job.restarts

    def requeue(self) -> bool:
        if self._job.restarts + 1 >= self._config.job.allocations or self._config.job.save_checkpoint is None:
            return False
        print(f"requeueing job {self._job.number}, to continue from the last checkpoint", flush=True)
        if subprocess.run(["scontrol", "requeue", self._job.number], check=False).returncode:
            print("Slurm does not requeue the job, see above", flush=True)
            return False
        # Slurm now ends this process; if it continued, its end would be taken for the end of the job.
        time.sleep(_REQUEUE_WAIT_S)
        return True

    def _meet(self) -> None:
        """Make rank 0, where all ranks meet, run on the node that MASTER_ADDR names.

        Raises:
            CannotStartError: MASTER_ADDR names no node of the job, or MASTER_PORT is in use.
        """
        process, nodes = self._config.process, self._job.nodes
        address = process.master_addr or nodes[0]
        node = address if address in nodes else self._owner_of(address)
        if node is None:
            raise CannotStartError(
                f"MASTER_ADDR={address} belongs to no node of job {self._job.number}: {_some(nodes)}; valid: a name or "
                f"an address by which the other nodes reach one of them, or unset it for {nodes[0]}"
            )
        if node != nodes[0]:
            first = (node, *(other for other in nodes if other != node))
            self._job, self._as_listed = replace(self._job, nodes=first), True
        elif process.master_port is not None and not _is_free(process.master_port, again=True):
            raise CannotStartError(
                f"MASTER_PORT={process.master_port} is in use by a program on {node}; unset it, and each run takes a "
                "free one"
            )

    def _owner_of(self, address: str) -> str | None:
        """Return the first node that claims the address as its own; None if none does."""
        nodes = self._job.nodes
        ask = self._inside(*_PYTHON, "-m", "harness.launch.address", "--nodes", str(len(nodes)), "--", address)
        answers = self._require("looking for MASTER_ADDR", replace(ask, srun=("--label", *ask.srun)), nodes)
        own = sorted(task for task, answer in labelled_answers(answers) if answer == "yes")
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
        """Run a step on these nodes, or like the ranks on all nodes, and return its output.

        Raises:
            CannotStartError: one of its tasks failed.
        """
        as_listed = nodes is None and self._as_listed
        start = srun(nodes or self._job.nodes, ranks_per_node, *step.srun, as_listed=as_listed)
        command = [*start, *step.command]
        environment = child_environment(self._config) | self.variables()
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            printed = done.stdout.replace(MARK, "")
            raise CannotStartError(
                f"{what} failed, see above (srun ended with status {done.returncode})\n{printed}".strip()
            )
        return done.stdout

    def _signal_ranks(self, number: int) -> None:
        name = signal.Signals(number).name.removeprefix("SIG")
        for step in self._steps() or ():
            # The step may have ended by itself in the meantime.
            subprocess.run(["scancel", "--quiet", f"--signal={name}", step], check=False)

    def _steps(self) -> list[str] | None:
        """Return the ranks' step if it is running; None, with a line printed, if Slurm does not answer."""
        command = ["squeue", "--noheader", "--steps", f"--jobs={self._job.number}", "--format=%i %j"]
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if answer.returncode:
            return None
        return [line.split()[0] for line in answer.stdout.splitlines() if line.split()[1:] == [_RANKS]]


def _free_port() -> int:
    """Return a free port of this node: a batch script runs on the first node of its job, where rank 0 will be."""
    while True:
        port = _FIRST_PORT + secrets.randbelow(_PORTS)
        if _is_free(port):
            return port


def _is_free(port: int, *, again: bool = False) -> bool:
    """Return whether nothing on this node holds the port; with `again`, remains of its last holder do not count."""
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
    """Return our variables and the libraries' own; the rest of the environment may hold secrets and is left out."""
    theirs = (name for name in child_environment(config) if name.startswith(LIBRARY_PREFIXES))
    return (*NAMES, *sorted(theirs))


def node_check(mounts: Sequence[Mount], made: Mapping[str, Path], ranks: int) -> list[str]:
    """Return the arguments of `harness.launch.node` for what a container, or a node without one, must see."""
    kinds = (("--writable" if mount.writable else "--readable", str(mount.path)) for mount in mounts)
    told = (("--token", variable, str(token)) for variable, token in made.items())
    options = [part for option in (*kinds, *told) for part in option]
    return ["-m", "harness.launch.node", "--ranks", str(ranks), *options]


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
