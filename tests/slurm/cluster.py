"""A real Slurm of emulated nodes on this one machine, for tests: its own configuration, keys and ports in one folder.

Debian's packages are enough (`PACKAGES`). Each slurmd lives in a UTS and a mount namespace of its own, so that a node
has its own host name, its own /etc/hosts, and processes that can be told from another node's. No database, no systemd,
nothing outside the folder. Needs root.
"""

from __future__ import annotations

import os
import random
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
ENDED = {"COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "CANCELLED", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}
PATIENCE_S = 1500.0
"""Seconds after which nothing is waited for any more, however slow the machine is."""


def why_not() -> str:
    """Why no cluster can be started here; empty if one can."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian's {' '.join(PACKAGES)})"
    if (
        os.geteuid() != 0
        or subprocess.run(["unshare", "-u", "-m", "true"], capture_output=True, check=False).returncode
    ):
        return "emulated nodes need root and namespaces of their own"
    return ""


def install(*packages: str) -> None:
    """Install Debian packages without starting the daemons that they bring."""
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
            subprocess.run(["apt-get", "--quiet", *command], env=environment, check=True, stdout=subprocess.DEVNULL)
    finally:
        if ours:
            policy.unlink()


class Cluster:
    """Nodes n1 to n<nodes>, each with eight processors as far as Slurm knows."""

    def __init__(self, folder: Path, nodes: int, *, plugin: str = "") -> None:
        self.folder = folder
        self.nodes = [f"n{index}" for index in range(1, nodes + 1)]
        self.port = _free_ports(nodes + 1)
        self.conf = folder / "slurm.conf"
        self.plugin = plugin
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Cluster:
        for name in ("state", "log", "run", "munge"):
            (self.folder / name).mkdir(parents=True)
        # munged wants nobody else near its key and everybody near its socket.
        for name in (".", "log", "run"):
            (self.folder / name).chmod(0o755)
        (self.folder / "munge").chmod(0o700)
        key = self.folder / "munge" / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        self._configure()
        try:
            self._start_munged()
            self._start("slurmctld", ["slurmctld", "-D", "-c", "-f", str(self.conf)])
            for node in self.nodes:
                self.start_node(node)
            wait_for(lambda: self._idle_nodes() == len(self.nodes), "the nodes are not idle", self._logs)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        subprocess.run(
            ["scancel", "--quiet", "--user", str(os.getuid())], env=self.environment(), check=False, timeout=60
        )
        # A step that cannot report its end to slurmctld stays for a minute.
        deadline = time.monotonic() + 10
        while self.command("squeue", "--noheader", check=False) and time.monotonic() < deadline:
            time.sleep(0.1)
        for name in [*self.nodes, "slurmctld", "munged"]:
            process = self._daemons.pop(name, None)
            if process is not None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        for left in self._processes():
            left.kill()

    def environment(self, variables: Mapping[str, str] | None = None) -> dict[str, str]:
        """What a user of this cluster has in the environment, and `variables`."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
        return {**kept, "SLURM_CONF": str(self.conf), **(variables or {})}

    def command(self, *command: str, check: bool = True) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def submit(self, *command: str, cwd: Path, variables: Mapping[str, str]) -> int:
        """`sbatch` with these arguments; the number of the job."""
        done = subprocess.run(
            ["sbatch", "--parsable", *command],
            cwd=cwd,
            env=self.environment(variables),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        return int(done.stdout)

    def job(self, number: int) -> dict[str, str]:
        """What `scontrol show job` says of it."""
        text = self.command("scontrol", "--oneliner", "show", "job", str(number))
        return dict(re.findall(r"(\w+)=(\S*)", text))

    def state(self, number: int) -> str:
        return self.job(number)["JobState"]

    def wait(self, number: int) -> str:
        """The state in which a job ends."""
        wait_for(lambda: self.state(number) in ENDED, f"job {number} does not end", self._logs)
        return self.state(number)

    def start_node(self, node: str) -> None:
        for folder in ("spool", "tmp"):
            (self.folder / f"{folder}.{node}").mkdir(exist_ok=True)
        script = 'hostname "$1"; mount --bind "$2" /etc/hosts; exec slurmd -D -N "$1" -f "$3"'
        arguments = [node, str(self.folder / "hosts"), str(self.conf)]
        self._start(node, ["unshare", "-u", "-m", "bash", "-euc", script, "bash", *arguments])

    def kill_node(self, node: str) -> None:
        """A power failure: SIGKILL for everything on the node; Slurm is told at once, instead of after a time-out."""
        namespace = os.readlink(f"/proc/{self._daemons[node].pid}/ns/uts")
        if namespace == os.readlink("/proc/self/ns/uts"):
            raise RuntimeError(f"{node} has no namespace of its own")
        for process in self.processes_in(namespace):
            process.kill()
        self._daemons.pop(node).wait()
        self.command("scontrol", "update", f"nodename={node}", "state=down", "reason=power")

    @contextmanager
    def disk_of(self, node: str, folder: Path) -> Iterator[None]:
        """Until the block ends, the folder is a disk of this node's own there."""
        enter = ["nsenter", f"--target={self._daemons[node].pid}", "--mount"]
        subprocess.run([*enter, "mount", "-t", "tmpfs", "tmpfs", str(folder)], check=True)
        try:
            yield
        finally:
            subprocess.run([*enter, "umount", "--lazy", str(folder)], check=True)

    def processes_on(self, node: str) -> list[psutil.Process]:
        """Everything that runs on a node."""
        return list(self.processes_in(os.readlink(f"/proc/{self._daemons[node].pid}/ns/uts")))

    @staticmethod
    def processes_in(namespace: str) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            try:
                if os.readlink(f"/proc/{process.pid}/ns/uts") == namespace:
                    yield process
            except OSError:
                continue

    def _processes(self) -> Iterator[psutil.Process]:
        """Of this cluster's daemons and jobs, whatever is still there."""
        for process in psutil.process_iter():
            try:
                environment = process.environ()
            except psutil.Error:
                continue
            by_slurm = process.name() in {"slurmd", "slurmstepd"} or "SLURMD_NODENAME" in environment
            if (
                by_slurm
                and environment.get("SLURM_CONF") == str(self.conf)
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                yield process

    def _start(self, name: str, command: list[str]) -> None:
        with (self.folder / "log" / f"{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                command,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _start_munged(self) -> None:
        run, log, munge = (self.folder / name for name in ("run", "log", "munge"))
        options = {
            "key-file": munge / "key",
            "socket": run / "munge.sock",
            "pid-file": run / "munged.pid",
            "log-file": log / "munged.log",
            "seed-file": munge / "seed",
        }
        self._start("munged", ["munged", "--foreground", "--force", *(f"--{key}={at}" for key, at in options.items())])
        wait_for((run / "munge.sock").exists, "munged does not start", self._logs)

    def _idle_nodes(self) -> int:
        return self.command("sinfo", "--noheader", "--Node", "--format=%T", check=False).split().count("idle")

    def _logs(self) -> str:
        files = sorted((self.folder / "log").iterdir())
        return "\n".join(f"{file.name}: {file.read_text(errors='replace')[-1500:]}" for file in files)

    def _configure(self) -> None:
        here, folder = socket.gethostname().split(".")[0], self.folder
        settings = {
            "ClusterName": "test",
            "SlurmctldHost": f"{here}(127.0.0.1)",
            "SlurmctldPort": self.port,
            "SlurmUser": "root",
            "AuthType": "auth/munge",
            # Also how long a requeued job waits: Slurm's own 120 s are too long for a test.
            "AuthInfo": f"socket={folder}/run/munge.sock,cred_expire=5",
            "SlurmctldPidFile": f"{folder}/run/slurmctld.pid",
            "SlurmdPidFile": f"{folder}/run/slurmd.%n.pid",
            "SlurmctldLogFile": f"{folder}/log/slurmctld.log",
            "SlurmdLogFile": f"{folder}/log/slurmd.%n.log",
            "StateSaveLocation": f"{folder}/state",
            "SlurmdSpoolDir": f"{folder}/spool.%n",
            "TmpFS": f"{folder}/tmp.%n",
            "PlugStackConfig": f"{folder}/plugstack.conf",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "JobAcctGatherType": "jobacct_gather/none",
            "AccountingStorageType": "accounting_storage/none",
            "MailProg": "/bin/true",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core",
            "SchedulerType": "sched/backfill",
            "SchedulerParameters": "sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0",
            "SlurmdParameters": "config_overrides",
            "ReturnToService": 2,
            "SlurmdTimeout": 10,
            "KillWait": 2,
            "MinJobAge": 3600,
            "JobRequeue": 1,
        }
        lines = [f"{name}={value}" for name, value in settings.items()]
        hosts = ["127.0.0.1 localhost", f"127.0.0.1 {here}"]
        for index, node in enumerate(self.nodes, 1):
            address = f"127.0.1.{index}"
            hosts.append(f"{address} {node}")
            lines.append(
                f"NodeName={node} NodeHostname={node} NodeAddr={address} Port={self.port + index} "
                "CPUs=8 Sockets=1 CoresPerSocket=8 ThreadsPerCore=1 RealMemory=4096 State=UNKNOWN"
            )
        lines.append(f"PartitionName=batch Nodes={','.join(self.nodes)} Default=YES MaxTime=INFINITE State=UP")
        texts = {
            "slurm.conf": "\n".join(lines),
            "hosts": "\n".join(hosts),
            # Loaded though never used, and this one loads anywhere.
            "cgroup.conf": "CgroupPlugin=cgroup/v1",
            "plugstack.conf": self.plugin,
        }
        for name, text in texts.items():
            (folder / name).write_text(text + "\n")


def wait_for(condition: Callable[[], bool], fault: str, details: Callable[[], str] = str) -> None:
    """Return once the condition holds; a TimeoutError with the fault and its details if it does not."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{fault} after {PATIENCE_S:.0f} s\n{details()}")
        time.sleep(0.1)


def _free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody listens on."""
    while True:
        first = random.randrange(20_000, 30_000)
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("", port))
        except OSError:
            continue
        return first
