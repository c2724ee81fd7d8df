"""What holds for the whole project: the direction of imports, who reads the environment, what files may contain."""

from __future__ import annotations

import ast
import builtins
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Container, Iterable, Iterator
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

from benchmark.checkout import ROOT

FLOORS = (("harness",), ("report",), ("compliance", "reference_impl"), ("benchmark",))
"""From the top down; an arrow goes from a floor to a lower one, never up and never sideways."""

PACKAGES = tuple(package for floor in FLOORS for package in floor)
NOT_OURS = {
    ".git",
    ".venv",
    ".venv-host",
    ".venv-nemo",
    ".venv-null",
    "__pycache__",
    ".pytest_cache",
    ".ruff_cache",
    ".mypy_cache",
    ".hypothesis",
}

# Module that may touch the process's environment -> why.
ENVIRONMENT_USERS = {
    "benchmark/config/run_config.py": "RunConfig.from_environment is the one place where variables are read",
    "benchmark/config/sourcing.py": "hands it to the shell that sources a config file",
    "benchmark/config/resolve.py": "hands it to RunConfig.from_environment, noting which variable came from where",
    "harness/dryrun/environment.py": "hands it to the process of the null device, less what would lead it elsewhere",
    "benchmark/run_record.py": "records of the libraries' own variables those on its list",
    "harness/verbs/runs.py": "leaves there what a config file exports for the libraries, as sourcing it would",
    "harness/launch/node.py": "looks whether Slurm has handed its task one GPU of the node's",
    "harness/doctor.py": "shows which of the harness's own variables are set",
    "harness/launch/launcher.py": "hands it to the ranks it starts, with the configuration's own variables on top",
    "compliance/official.py": "hands two variables of the system to the official tools, and no other",
    "reference_impl/parallel.py": "says which network device to use, which gloo and NCCL can be told in no other way",
    "reference_impl/pretrain.py": "says where the libraries underneath put what is temporary",
    "reference_impl/launch.py": "sets variables for the libraries underneath, and for the ranks it starts",
}


def project_files() -> Iterator[Path]:
    for folder, folders, files in os.walk(ROOT):
        top = Path(folder) == ROOT
        folders[:] = [name for name in folders if name not in NOT_OURS and not (top and name in {"data", "results"})]
        yield from (Path(folder) / name for name in files)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


FILES = sorted(project_files())
MODULES = [path for path in FILES if path.suffix == ".py" and relative(path).split("/")[0] in PACKAGES]
SCRIPTS = [path for path in FILES if path.suffix == ".sh" or relative(path) in {"run.sub", ".ci/run"}]
CONFIGS = [path for path in SCRIPTS if path.name.startswith("config_")]


# Python.


def tree_of(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "."


def started(tree: ast.AST) -> Iterator[str]:
    """Modules in argument lists: what follows "-m"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.List | ast.Tuple | ast.Call):
            parts = node.args if isinstance(node, ast.Call) else node.elts
            words = [part.value if isinstance(part, ast.Constant) else None for part in parts]
            yield from (str(module) for flag, module in pairwise(words) if flag == "-m" and module is not None)


def test_arrows_point_down() -> None:
    """No module imports, or starts by its name, one of a floor above its own or of the other package of its floor."""
    allowed = {
        package: {package, *(lower for below in FLOORS[place + 1 :] for lower in below)}
        for place, floor in enumerate(FLOORS)
        for package in floor
    }
    wrong = {}
    for path in MODULES:
        tree = tree_of(path)
        named = {name.split(".")[0] for name in (*imported(tree), *started(tree))}
        wrong[relative(path)] = named & set(PACKAGES) - allowed[relative(path).split("/")[0]]
    assert {path: names for path, names in wrong.items() if names} == {}


def test_only_the_trainer_imports_torch() -> None:
    """The other packages are for machines without it."""
    torch = {"torch", "megatron", "transformers", "transformer_engine"}
    found = {relative(path): {name.split(".")[0] for name in imported(tree_of(path))} & torch for path in MODULES}
    assert {path for path, names in found.items() if names and not path.startswith("reference_impl/")} == set()


def test_no_circles() -> None:
    """No module depends on itself, directly or indirectly, for types or for code."""
    modules = {relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in MODULES}
    needs = {name: set(needed_modules(tree_of(path), modules)) for name, path in modules.items()}
    TopologicalSorter(needs).prepare()


def needed_modules(tree: ast.AST, modules: Container[str]) -> Iterator[str]:
    """The modules of ours that one imports; of a package its submodule where one is named."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield from (name for name in (submodule if submodule in modules else node.module,) if name in modules)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)


def uses_of_the_environment(tree: ast.AST) -> Iterator[int]:
    names = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    for node in ast.walk(tree):
        if (isinstance(node, ast.Attribute) and node.attr in names) or (
            isinstance(node, ast.ImportFrom) and node.module == "os" and names & {alias.name for alias in node.names}
        ):
            yield node.lineno


def test_the_environment_is_read_in_one_place() -> None:
    """No other module looks at the environment, so a run is what its configuration says; each that may does."""
    lines = {relative(path): list(uses_of_the_environment(tree_of(path))) for path in MODULES}
    users = {path: found for path, found in lines.items() if found}
    assert users.keys() == ENVIRONMENT_USERS.keys(), users


IMPORT_ALL = """
import importlib, pkgutil, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "megatron", "transformers"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
for package in ("benchmark", "compliance", "report", "harness"):
    for module in pkgutil.walk_packages([package], package + "."):
        importlib.import_module(module.name)
"""


def test_all_floors_but_the_trainer_import_without_torch() -> None:
    """Every module of the four packages imports where torch and megatron are missing: a login node, a laptop, CI."""
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_exceptions_share_a_base_and_end_in_error() -> None:
    """Every Exception of ours derives from HarnessError, directly or through another, and its name ends in Error."""
    of_python = {
        name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, Exception)
    }
    classes = [node for path in MODULES for node in ast.walk(tree_of(path)) if isinstance(node, ast.ClassDef)]
    bases = {node.name: {ast.unparse(base) for base in node.bases} for node in classes}
    found, ours = set[str](), {"HarnessError"}
    while found != ours:
        found, ours = ours, ours | {name for name in bases if bases[name] & ours}
    strangers = {name for name in bases if bases[name] & of_python} - ours
    assert (strangers, {name for name in ours if not name.endswith("Error")}) == (set(), set())


# Shell.


def lines_of(paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """File and line of all the files."""
    for path in paths:
        text = path.read_bytes().decode("utf-8", errors="replace")
        yield from ((relative(path), line) for line in text.splitlines())


def test_scripts_stop_at_the_first_error() -> None:
    """A script says `set -euo pipefail` first, and swallows no failure."""
    scripts = [path for path in SCRIPTS if path not in CONFIGS]
    code = [(name, line) for name, line in lines_of(scripts) if line and not line.startswith("#")]
    # The first line of each, because of two with one key the last stays.
    first = dict(reversed(code))
    assert first == dict.fromkeys(map(relative, scripts), "set -euo pipefail")
    assert [found for found in code if re.search(r"\|\|\s*(true|:)\s*($|[;)#])|set \+e", found[1])] == []


def test_config_files_only_export() -> None:
    """A config file holds comments, assignments, exports and conditions on them, and unsets what another one set."""
    allowed = re.compile(
        r"#|export [A-Z]|[A-Z_]+=|source .*config_common\.sh|(el)?if |else$|fi$|$|(unset )?[A-Z_][A-Z0-9_ ]*(\\)?$"
    )
    assert [found for found in lines_of(CONFIGS) if not allowed.match(found[1].strip())] == []


def test_programs_are_executable() -> None:
    """A file that is called by its path is executable."""
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


# What files may contain.

# The brackets keep this file from matching itself.
OF_ONE_MACHINE = re.compile(
    r"(?<![\w.])/(roo[t]|hom[e]/\w+|User[s]|wor[k]|tmp/scratc[h]|opt/whee[l]s|opt/pyp[i])(/|\b(?![\w.]))"
    r"|(pypi\.or[g]|pythonhoste[d]|download\.pytorc[h])"
)


def test_no_trace_of_one_machine() -> None:
    """No file names a folder of its author's machine, or a package registry but PyTorch's for CPUs, once."""
    (torch_for_cpus,) = [found for found in lines_of(FILES) if OF_ONE_MACHINE.search(found[1])]
    assert torch_for_cpus[0] == "setup.sh"


# Dependencies.


def pins(name: str) -> dict[str, str]:
    """Package -> version of a requirements file."""
    lines = (line.split("#")[0].rstrip(" \\") for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    return dict(normalised(line) for line in lines if line and not line.startswith(" "))


def normalised(requirement: str) -> tuple[str, str]:
    name, version = requirement.split(";")[0].strip().split("==")
    return re.sub(r"[-_.]+", "-", name).lower(), version


def direct(group: str | None = None) -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return dict(
        normalised(line) for line in (project["optional-dependencies"][group] if group else project["dependencies"])
    )


def test_locks_hold_what_the_project_asks_for() -> None:
    """Each direct dependency is pinned exactly, at the version of its lock; torch is the machine's own build."""
    wanted = {name: version for name, version in direct().items() if name != "torch"}
    assert wanted.items() <= pins("requirements.lock").items()
    assert direct("dev").items() <= pins("requirements-dev.lock").items()
    assert "torch" not in pins("requirements-dev.lock")


@pytest.mark.parametrize("lock", sorted(path.name for path in ROOT.glob("requirements*.lock")))
def test_each_locked_package_has_hashes(lock: str) -> None:
    """The locked bytes are what is installed; setup.sh makes pip insist on that."""
    text = re.sub(r"#.*", "", (ROOT / lock).read_text(encoding="utf-8")).replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip()]
    assert lines
    assert [line for line in lines if not re.search(r"--hash=sha256:[0-9a-f]{64}", line)] == []


def test_tests_run_on_what_runs_use() -> None:
    """The lock of the tests adds to that of a run and changes nothing in it."""
    assert pins("requirements.lock").items() <= pins("requirements-dev.lock").items()
