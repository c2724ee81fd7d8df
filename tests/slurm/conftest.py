"""One cluster for all tests here, and jobs on it. Without Slurm they are skipped; in CI it is installed first."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from benchmark.checkout import ROOT
from benchmark.mllog import Event
from tests.fakes import read_events
from tests.slurm.cluster import ENDED, PACKAGES, Cluster, install, wait_for, why_not
from tests.slurm.stub_trainer import HOLD

HERE = Path(__file__).parent

IMAGE = "registry.example#mlperf/llama31:1"

TINY = {
    "BENCHMARK": "llama31_tiny",
    "DGXSYSTEM": "tiny",
    "PRECISION": "fp32",
    "DGXNNODES": "2",
    "DGXNGPU": "2",
    "MINIBS": "4",
    "MICRO_BATCH_SIZE": "4",
    # The page cache is that of the machine which runs the tests.
    "CLEAR_CACHES": "0",
}


@pytest.fixture(scope="session")
def slurm() -> None:
    """Skip what needs Slurm where it is not installed and cannot be."""
    if why_not() and "CI" in os.environ and os.geteuid() == 0:
        try:
            install(*PACKAGES, "libslurm-dev", "gcc", "libc6-dev")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"Slurm is not installed, and apt-get cannot: {error}")
    if why_not():
        pytest.skip(why_not())


@pytest.fixture(scope="session")
def cluster(slurm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    del slurm  # installed
    folder = tmp_path_factory.mktemp("slurm")
    with Cluster(folder / "cluster", 2, plugin=_pyxis(folder / "pyxis")) as running:
        yield running


def _pyxis(folder: Path) -> str:
    """The stand-in's line of plugstack.conf; empty where it cannot be compiled, and tests of it are skipped."""
    folder.mkdir(parents=True)
    library = folder / "pyxis_stub.so"
    command = ["gcc", "-shared", "-fPIC", "-D_GNU_SOURCE", "-o", str(library), str(HERE / "pyxis_stub.c")]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        return ""
    if done.returncode:
        return ""
    (folder / "images" / IMAGE.replace("#", "+").replace("/", "+").replace(":", "+")).mkdir(parents=True)
    (folder / "borrow").write_text(sys.base_prefix if not sys.base_prefix.startswith("/usr") else "")
    return f"required {library} dir={folder} helper={HERE / 'pyxis_stub_enter.sh'}"


@pytest.fixture(scope="session")
def pyxis(cluster: Cluster) -> Path:
    """The folder of the stand-in for pyxis."""
    if not cluster.plugin:
        pytest.skip("the stand-in for pyxis needs gcc and libslurm-dev")
    return Path(cluster.plugin.split("dir=")[1].split()[0])


@dataclass
class Jobs:
    """Submits run.sub and reads what it leaves."""

    cluster: Cluster
    folder: Path
    stub: bool = True
    """Whether tests.slurm.stub_trainer stands in for the trainer."""
    numbers: list[int] = field(default_factory=list)

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def python(self) -> Path:
        """What runs the ranks."""
        self.logs.mkdir(exist_ok=True)
        return self._stub_python() if self.stub else Path(sys.executable)

    def submit(self, variables: Mapping[str, object | None] | None = None, *options: str, checkout: Path = ROOT) -> int:
        """Variables replace what every job here has; None is one that is not set."""
        common: dict[str, object] = {**TINY, "LOGDIR": self.logs, "HARNESS_PYTHON": self.python()}
        given = {name: str(value) for name, value in {**common, **(variables or {})}.items() if value is not None}
        arguments = ["--nodes=2", "--time=60", f"--output={self.folder}/job-%j.log", *options, "run.sub"]
        self.numbers.append(self.cluster.submit(*arguments, cwd=checkout, variables=given))
        return self.numbers[-1]

    def type(self, line: str, variables: Mapping[str, str]) -> int:
        """The number of the job that a line submits which somebody types in the checkout."""
        environment = self.cluster.environment(variables)
        done = subprocess.run(
            ["bash", "-c", line], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        self.numbers.append(int(done.stdout.removeprefix("Submitted batch job ")))
        return self.numbers[-1]

    def run(self, variables: Mapping[str, object | None] | None = None, *options: str, checkout: Path = ROOT) -> str:
        """The state in which a job ends."""
        return self.cluster.wait(self.submit(variables, *options, checkout=checkout))

    def output(self) -> str:
        """Of the last job, all its allocations."""
        path = self.folder / f"job-{self.numbers[-1]}.log"
        return path.read_text() if path.exists() else ""

    def last_lines(self, count: int = 5) -> str:
        return "\n".join(self.output().splitlines()[-count:])

    def results(self) -> Path:
        """The one folder of runs."""
        (folder,) = (self.logs / "tiny").iterdir()
        return folder

    def events(self, index: int = 0) -> list[Event]:
        return read_events(self.results() / f"result_{index}.txt")

    @contextmanager
    def held_after(self, step: int, variables: Mapping[str, object] | None = None) -> Iterator[int]:
        """The number of a new job of the stand-in whose run has taken so many steps, and waits until this is left."""
        self.logs.mkdir(exist_ok=True)
        hold = self.logs / HOLD
        hold.write_text(str(step))
        number = self.submit(variables)
        self._wait_for_step(step)
        try:
            yield number
        finally:
            hold.unlink(missing_ok=True)

    def _wait_for_step(self, step: int) -> None:
        def taken() -> bool:
            if self.cluster.state(self.numbers[-1]) in ENDED:
                raise AssertionError(f"the job ended before step {step}\n{self.output()}")
            return any(f'"step": {step}' in path.read_text() for path in self.logs.glob("tiny/*/result_0.txt"))

        wait_for(taken, f"no step {step}", self.output)

    def _stub_python(self) -> Path:
        """An interpreter that runs the stand-in where the trainer is asked for; in LOGDIR, which containers see."""
        path = self.logs / "python"
        path.write_text(
            "#!/usr/bin/env bash\n"
            'if [[ "$1 ${2:-}" == "-m reference_impl.pretrain" ]]; then set -- -m tests.slurm.stub_trainer; fi\n'
            f'exec "{sys.executable}" "$@"\n'
        )
        path.chmod(0o755)
        return path


@pytest.fixture
def jobs(cluster: Cluster, tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(cluster, tmp_path)
    yield made
    for number in made.numbers:
        cluster.command("scancel", str(number), check=False)
