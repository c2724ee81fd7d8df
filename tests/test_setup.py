"""setup.sh on a small tree of its own, with packages made up here, so that nothing is downloaded."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmark.checkout import ROOT

MISSING = "raise ImportError('not on this machine')\n"


PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "checkout"
version = "1.0"
dependencies = ["torch==1.0"]
"""

# What builds the checkout's own package, without a library.
BACKEND = """
import zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(f"{folder}/checkout-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("checkout.py", "")
        info = "checkout-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: checkout\\nVersion: 1.0\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return "checkout-1.0-py3-none-any.whl"
"""


def make_wheel(folder: Path, name: str) -> None:
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@dataclass
class Tree:
    """A checkout with nothing but what setup.sh reads."""

    folder: Path
    wheels: Path

    @property
    def python(self) -> str:
        return f"{self.folder}/.venv/bin/python"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
        }

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(self.folder / "setup.sh"), *arguments],
            env=self.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def setup(self, *arguments: str, **variables: str) -> tuple[int, str, str]:
        """Status, stdout and stderr."""
        process = self.start(*arguments, **variables)
        out, err = process.communicate()
        return process.returncode, out, err

    def imports(self, *modules: str) -> bool:
        code = "import " + ", ".join(modules)
        return subprocess.run([self.python, "-c", code], capture_output=True, check=False).returncode == 0


def locked(wheels: Path, name: str) -> str:
    """The line of a lock for a wheel."""
    (wheel,) = wheels.glob(f"{name}-*.whl")
    return f"{name.replace('_', '-')}==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


def make_tree(parent: Path) -> Tree:
    folder, wheels = parent / "a tree", parent / "wheels"
    folder.mkdir()
    wheels.mkdir()
    for name in ("torch", "needed", "only_dev", "only_data", "only_nemo"):
        make_wheel(wheels, name)
    (folder / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    (folder / "backend.py").write_text(BACKEND, encoding="utf-8")
    locks = {
        "requirements-host.lock": ("needed",),
        "requirements.lock": ("needed",),
        "requirements-dev.lock": ("needed", "only_dev"),
        "requirements-nodeps.lock": ("only_data",),
        "requirements-nemo.lock": ("only_nemo",),
    }
    for lock, names in locks.items():
        (folder / lock).write_text("".join(locked(wheels, name) for name in names), encoding="utf-8")
    shutil.copy(ROOT / "setup.sh", folder)
    return Tree(folder, wheels)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return make_tree(tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A tree whose environment was made, for tests that leave it valid."""
    tree = make_tree(tmp_path_factory.mktemp("made"))
    status, out, err = tree.setup()
    assert (status, out) == (0, tree.python + "\n"), err
    return tree


@pytest.fixture
def spoilt(made: Tree) -> Iterator[Tree]:
    """The tree whose environment was made; whatever a test does to it is undone by a copy, in a moment."""
    venv, aside = made.folder / ".venv", made.folder / "aside"
    originals = {path: path.read_bytes() for path in made.folder.iterdir() if path.is_file()}
    shutil.copytree(venv, aside, symlinks=True)
    yield made
    shutil.rmtree(venv)
    aside.rename(venv)
    for path, content in originals.items():
        path.write_bytes(content)


@pytest.fixture
def without(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Variables under which Python finds none of the named modules."""

    def variables(*modules: str) -> dict[str, str]:
        folder = tmp_path / "shadows"
        for module in modules:
            (folder / module).mkdir(parents=True)
            (folder / module / "__init__.py").write_text(MISSING, encoding="utf-8")
        return {"PYTHONPATH": str(folder)}

    return variables


def test_everything_is_installed(made: Tree) -> None:
    """The interpreter has what the locks name and torch, and nothing of the tests'."""
    assert made.imports("needed", "torch", "only_data", "checkout")
    assert not made.imports("only_dev")


def test_second_call_says_and_does_nothing(made: Tree) -> None:
    """If everything is as it should be, it only prints the interpreter."""
    log = made.folder / ".venv" / "setup.log"
    before = log.stat().st_mtime_ns
    assert made.setup() == (0, made.python + "\n", "")
    assert log.stat().st_mtime_ns == before


def test_dev_adds_to_what_is_there(spoilt: Tree) -> None:
    """--dev installs the tests' packages together with the run's, and then either call is satisfied."""
    status, out, err = spoilt.setup("--dev")
    assert (status, out, "creating" in err) == (0, spoilt.python + "\n", False)
    assert spoilt.imports("needed", "torch", "only_data", "only_dev")
    assert [spoilt.setup(*arguments)[2] for arguments in ((), ("--dev",))] == ["", ""]


@pytest.mark.slow
def test_nemo_has_an_environment_of_its_own(made: Tree) -> None:
    """--nemo installs its lock and torch in .venv-nemo, once, and leaves .venv as it is."""
    python = f"{made.folder}/.venv-nemo/bin/python"
    assert made.setup("--nemo")[:2] == (0, python + "\n")
    assert subprocess.run([python, "-c", "import only_nemo, torch"], check=False).returncode == 0
    assert made.setup("--nemo") == (0, python + "\n", "")
    assert made.setup()[2] == ""
    assert not made.imports("only_nemo")


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-nodeps.lock", "setup.sh", "pyproject.toml"])
def test_changed_file_is_noticed(spoilt: Tree, name: str) -> None:
    """A change to whatever the environment is made from makes it anew."""
    path = spoilt.folder / name
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("torch==1.0", "torch==2.0") + "# changed\n", encoding="utf-8")
    process = spoilt.start()
    assert process.stderr is not None
    assert "creating" in process.stderr.readline()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_another_setting_is_not_noticed(spoilt: Tree) -> None:
    """Only torch's version matters in pyproject.toml."""
    with (spoilt.folder / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write("# a tool's setting\n")
    assert spoilt.setup() == (0, spoilt.python + "\n", "")


def test_interrupted_installation_is_done_again(tree: Tree) -> None:
    """A call that was killed while it installed leaves nothing that the next would trust."""
    process = tree.start()
    assert process.stderr is not None
    while "installing" not in process.stderr.readline():
        pass
    # As setup.sh's own lock is named.
    leftover = tree.folder / ".venv" / "lib" / "leftover" / ".setup.lock"
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not list((tree.folder / ".venv").glob("*.stamp"))

    assert tree.setup()[:2] == (0, tree.python + "\n")
    assert tree.imports("needed", "torch")
    assert not leftover.parent.exists()


def test_concurrent_calls_install_once(tree: Tree) -> None:
    """Of calls at once, one installs and the others wait; all print the interpreter.

    Between making .venv and putting its lock there, a call leaves an empty folder; that is nobody else's.
    """
    (tree.folder / ".venv").mkdir()
    processes = [tree.start() for _ in range(4)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    assert [out for out, _ in outputs] == [tree.python + "\n"] * 4
    assert sorted(err.count("creating") for _, err in outputs) == [0, 0, 0, 1]


def test_failed_installation_shows_why(tree: Tree) -> None:
    """pip's message is shown and kept, and the next call tries again."""
    (tree.folder / "requirements.lock").write_text(f"no-such-package==1.0 --hash=sha256:{0:064}\n", encoding="utf-8")
    status, out, err = tree.setup()
    assert (status, out) == (1, "")
    assert "no-such-package" in err
    assert not list((tree.folder / ".venv").glob("*.stamp"))


def test_another_file_than_the_locked_one_is_refused(tree: Tree) -> None:
    """A wheel of the right name and version whose bytes differ is not installed, and pip says so."""
    (wheel,) = tree.wheels.glob("needed-*.whl")
    with zipfile.ZipFile(wheel, "a") as changed:
        changed.writestr("needed/more.py", "")
    status, out, err = tree.setup()
    assert (status, out) == (1, "")
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in err
    assert not tree.imports("needed")


def test_package_index_that_does_not_answer_is_named(tree: Tree) -> None:
    """Without a network setup cannot start: status 2, and a line that says so."""
    silent = {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "1", "PIP_FIND_LINKS": ""}
    status, out, err = tree.setup(**silent)
    assert (status, out) == (2, "")
    assert err.endswith("setup: the package index cannot be reached\n")


@pytest.mark.slow
def test_pip_of_the_machine_will_do(tree: Tree, without: Callable[..., dict[str, str]]) -> None:
    """If Python cannot put pip into an environment (Debian without python3-venv), the machine's own pip installs."""
    base = sys._base_executable  # type: ignore[attr-defined]
    if subprocess.run([base, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        pytest.skip("the machine's Python has no pip")
    status, out, err = tree.setup(**without("ensurepip"))
    assert (status, out) == (0, tree.python + "\n"), err
    assert tree.imports("needed", "torch", "only_data")
    assert not tree.imports("pip")


def test_no_way_to_install_names_the_package(tree: Tree, without: Callable[..., dict[str, str]]) -> None:
    """Without venv and without pip, one line says what to install."""
    status, out, err = tree.setup(**without("ensurepip", "pip"))
    assert (status, out) == (2, "")
    assert "apt-get install python3-venv" in err


def test_old_python_is_refused(tree: Tree) -> None:
    """If every Python is too old, one line says which version is needed and which are there."""
    programs = tree.folder / "bin"
    programs.mkdir()
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        script = '#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.18\nexit 1\n'
        (programs / name).write_text(script, encoding="utf-8")
        (programs / name).chmod(0o755)
    status, out, err = tree.setup(PATH=f"{programs}:{os.environ['PATH']}")
    assert (status, out) == (2, "")
    assert err == (
        "setup: needs Python 3.11 or newer; python3 here is: Python 3.9.18; to name another: "
        "SETUP_PYTHON=/path/to/python3.11 bash setup.sh\n"
    )


def test_given_interpreter_is_used_as_it_is(tree: Tree) -> None:
    """With HARNESS_PYTHON, that interpreter is printed and nothing is installed."""
    assert tree.setup("--dev", HARNESS_PYTHON=sys.executable) == (0, sys.executable + "\n", "")
    assert not (tree.folder / ".venv").exists()


def test_given_interpreter_must_exist(tree: Tree) -> None:
    """A HARNESS_PYTHON that is not a program is refused."""
    status, out, err = tree.setup(HARNESS_PYTHON="no-such-python")
    assert (status, out) == (2, "")
    assert "HARNESS_PYTHON=no-such-python" in err


def test_environment_of_another_maker_is_left_alone(tree: Tree) -> None:
    """A .venv that setup.sh did not make is not deleted."""
    (tree.folder / ".venv").mkdir()
    (tree.folder / ".venv" / "precious").touch()
    status, out, err = tree.setup()
    assert (status, out) == (2, "")
    assert "move it away" in err
    assert (tree.folder / ".venv" / "precious").exists()


def test_unknown_argument_is_refused(tree: Tree) -> None:
    """A mistyped argument is not ignored."""
    status, out, err = tree.setup("--devel")
    assert (status, out) == (2, "")
    assert "usage" in err


def test_help_is_what_stands_at_the_top(tree: Tree) -> None:
    """It says what each option makes, from whichever folder it is asked, and installs nothing."""
    status, out, err = tree.setup("--help")
    assert (status, err) == (0, "")
    assert "bash setup.sh --host" in out
    assert not (tree.folder / ".venv").exists()


# Where torch comes from.


@pytest.fixture
def elsewhere(tree: Tree, tmp_path: Path) -> str:
    """An index that has torch and nothing else, beside a tree that needs nothing else: pip is told of no other."""
    for name in ("requirements.lock", "requirements-nodeps.lock"):
        (tree.folder / name).write_text("", encoding="utf-8")
    folder = tmp_path / "index" / "torch"
    folder.mkdir(parents=True)
    wheel = tree.wheels / "torch-1.0-py3-none-any.whl"
    shutil.copy(wheel, folder)
    (folder / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>', encoding="utf-8")
    return folder.parent.as_uri()


UNTOLD = {"PIP_NO_INDEX": "", "PIP_FIND_LINKS": ""}
"""Without the index that the other tests have."""


def test_torch_for_cpus_comes_from_its_own_index(tree: Tree, elsewhere: str) -> None:
    """It does without a GPU and without an index of the user's; size and reason are announced."""
    status, _, err = tree.setup(**UNTOLD, TORCH_INDEX_URL=elsewhere)
    assert status == 0, err
    assert f"torch==1.0 for CPUs, since there is no NVIDIA GPU: about 200 MB from {elsewhere}\n" in err
    assert tree.imports("torch")


def test_an_index_of_the_users_own_is_asked_alone(tree: Tree) -> None:
    """An air-gapped site's mirror gets every request."""
    status, _, err = tree.setup(TORCH_INDEX_URL="http://127.0.0.1:9/")
    assert status == 0, err
    assert "torch==1.0 from pip's configured index" in err
    assert "127.0.0.1" not in err + (tree.folder / ".venv" / "setup.log").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("http://127.0.0.1:9/", "cannot be reached; using the public index instead: about 5 GB"),
        ("", "torch==1.0 from the public index, since TORCH_INDEX_URL is empty: about 5 GB"),
    ],
)
def test_without_that_index_the_public_one_is_taken(tree: Tree, elsewhere: str, index: str, said: str) -> None:
    """pip is told so; here nothing answers in the public one's place."""
    status, _, err = tree.setup(**UNTOLD, TORCH_INDEX_URL=index, https_proxy="http://127.0.0.1:9/", PIP_RETRIES="0")
    assert said in err
    assert status != 0


# What a site may have set.


def test_an_environment_without_torch_for_the_host_of_a_job(tree: Tree) -> None:
    """--host installs its own lock and the checkout, in .venv-host."""
    python = f"{tree.folder}/.venv-host/bin/python"
    assert tree.setup("--host")[:2] == (0, python + "\n")
    imports = {
        name: subprocess.run([python, "-c", f"import {name}"], capture_output=True, check=False).returncode
        for name in ("needed", "checkout", "torch")
    }
    assert imports == {"needed": 0, "checkout": 0, "torch": 1}
    assert tree.setup("--made", "--host") == (0, python + "\n", "")


def test_what_is_to_be_there_already_is_not_made(tree: Tree) -> None:
    """--made says how to make it, and changes nothing."""
    status, out, err = tree.setup("--made", "--host")
    assert (status, out) == (2, "")
    assert err == (
        f"setup: {tree.folder}/.venv-host is missing or out of date: bash setup.sh --host makes it, "
        "on a machine that reaches a package index\n"
    )
    assert not (tree.folder / ".venv-host").exists()


@pytest.mark.slow
def test_another_interpreter_can_be_named(tree: Tree, tmp_path: Path) -> None:
    """SETUP_PYTHON may have any name; one that is too old is named in the refusal."""
    (tmp_path / "a python").symlink_to(sys._base_executable)  # type: ignore[attr-defined]
    assert tree.setup(SETUP_PYTHON=str(tmp_path / "a python"))[0] == 0
    status, _, err = tree.setup("--host", SETUP_PYTHON="/bin/false")
    assert status == 2
    assert "/bin/false here is: " in err


@pytest.mark.slow
@pytest.mark.parametrize("how", ["CDPATH", "PIP_USER", "pip.conf"])
def test_settings_of_the_user_do_no_harm(tree: Tree, tmp_path: Path, how: str) -> None:
    """Setup works with each of them."""
    file = tmp_path / "pip.conf"
    file.write_text("[install]\nuser = true\n", encoding="utf-8")
    variables = {
        "CDPATH": {"CDPATH": f"{tree.folder.parent}:."},
        "PIP_USER": {"PIP_USER": "1"},
        "pip.conf": {"PIP_CONFIG_FILE": str(file)},
    }[how]
    status, out, err = tree.setup(**variables)
    assert (status, out) == (0, tree.python + "\n"), err


def test_a_linked_environment_is_refused(made: Tree, tree: Tree) -> None:
    """It belongs to another checkout, and is left as it is."""
    (tree.folder / ".venv").symlink_to(made.folder / ".venv")
    status, out, err = tree.setup()
    assert (status, out) == (2, "")
    assert ".venv is a link" in err
    assert made.setup() == (0, made.python + "\n", "")


@pytest.fixture
def programs(tmp_path: Path) -> Callable[..., str]:
    """A PATH on which programs do what a test wants."""

    def path(**scripts: str) -> str:
        folder = tmp_path / "programs"
        folder.mkdir()
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
            (folder / name).chmod(0o755)
        return f"{folder}:{os.environ['PATH']}"

    return path


@pytest.mark.slow
def test_a_file_system_without_locks_will_do(tree: Tree, programs: Callable[..., str]) -> None:
    """One line warns that concurrent calls cannot be seen."""
    status, out, err = tree.setup(PATH=programs(flock="echo 'flock: 9: No locks available' >&2; exit 71"))
    assert (status, out) == (0, tree.python + "\n")
    assert "this file system has no locks (flock ended with status 71)" in err


def test_another_system_is_told_what_works_there(tree: Tree, programs: Callable[..., str]) -> None:
    """That covers macOS, Windows without WSL2, and other processors."""
    status, out, err = tree.setup(PATH=programs(uname="echo Darwin arm64"))
    assert (status, out) == (2, "")
    assert err == (
        "setup: needs Linux on x86-64 or aarch64, not Darwin arm64; elsewhere, use WSL2 or the container of the "
        "Dockerfile\n"
    )


def test_a_read_only_checkout_names_what_it_needs(tree: Tree, programs: Callable[..., str]) -> None:
    """The refusal is simulated, since whoever runs the tests may write everywhere."""
    status, out, err = tree.setup(PATH=programs(mkdir="exit 1"))
    assert (status, out) == (2, "")
    assert all(name in err for name in ("HARNESS_PYTHON", "DATADIR", "LOGDIR"))
