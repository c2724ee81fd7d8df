"""What each container back end is told, word for word, and the paths that one cannot express."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.config import ConfigError
from benchmark.run_record import LIBRARY_SETTINGS
from harness.launch.containers import BACK_ENDS, Container, Mount, back_end_of, mounts_of
from harness.launch.slurm import srun, variables_to_pass
from tests.fakes import configured

GOLDEN = Path(__file__).parent.parent / "golden" / "launch.json"
REMAKE = "if it is meant: python -m tests.harness.test_launch_containers > tests/golden/launch.json"

PLAIN = (
    Mount(path=Path("/checkout")),
    Mount(path=Path("/checkout/results/logs"), writable=True),
    Mount(path=Path("/data/c4")),
)

HOSTILE = (
    Mount(path=Path("/data/with space")),
    Mount(path=Path('/data/it\'s "quoted"')),
    Mount(path=Path("/data/$(touch x);`id`&*"), writable=True),
)
"""What any back end can be told, since nothing goes through a shell."""

SEPARATORS = (Mount(path=Path("/data/a,b")), Mount(path=Path("/data/a:b")))


def container(mounts: tuple[Mount, ...]) -> Container:
    return Container(
        image="registry.example/llama31:1",
        name="llama31_42",
        mounts=mounts,
        variables=("BENCHMARK", "SEED"),
        working_folder=Path("/checkout"),
    )


def argv(back_end: str, mounts: tuple[Mount, ...]) -> list[str]:
    wrapped = BACK_ENDS[back_end].wrap(container(mounts), ["bash", "run_and_time.sh"])
    return [*srun(("n1", "n2"), 8, "--label", *wrapped.srun), *wrapped.command]


def all_command_lines() -> dict[str, list[str]]:
    """Of every back end: each word of the srun that starts the ranks in a container."""
    kinds = {"plain": PLAIN, "hostile": HOSTILE}
    return {f"{name} {kind}": argv(name, mounts) for name in BACK_ENDS for kind, mounts in kinds.items()}


def test_command_lines_are_as_they_were(subtests: pytest.Subtests) -> None:
    """tests/golden/launch.json holds them, one word a line."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    made = all_command_lines()
    assert made.keys() == golden.keys(), REMAKE
    for name, words in made.items():
        with subtests.test(name):
            assert words == golden[name], REMAKE


@pytest.mark.parametrize("mount", SEPARATORS, ids=str)
def test_pyxis_refuses_what_it_would_take_apart(mount: Mount) -> None:
    """A comma or a colon in a path would be another mount, or another place."""
    with pytest.raises(ConfigError, match="pyxis separates mounts"):
        argv("pyxis", (mount,))


@pytest.mark.parametrize("back_end", ["pyxis", "apptainer", "docker"])
def test_a_path_of_several_lines_is_refused(back_end: str) -> None:
    """No back end has a way to say it."""
    with pytest.raises(ConfigError, match=r"printable|pyxis separates"):
        argv(back_end, (Mount(path=Path("/data/a\nb,type=bind")),))


_PATHS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs"))).map(lambda text: Path("/" + text))


@given(path=_PATHS, writable=st.booleans(), back_end=st.sampled_from(["apptainer", "docker"]))
def test_a_mount_reads_back_as_it_was_meant(path: Path, writable: bool, back_end: str) -> None:
    """The CSV of a mount, read by a reader of CSV, is that path and nothing else."""
    if not str(path).isprintable():
        return
    (option,) = [word for word in argv(back_end, (Mount(path=path, writable=writable),)) if word.startswith("--mount=")]
    (fields,) = csv.reader([option.removeprefix("--mount=")])
    read_only = [] if writable else [{"apptainer": "ro", "docker": "readonly"}[back_end]]
    assert fields == ["type=bind", f"source={path}", f"destination={path}", *read_only]


def test_values_of_variables_are_on_no_command_line() -> None:
    """Docker is told names; every user of a node can read command lines."""
    assert [word for word in argv("docker", ()) if word.startswith("--env")] == ["--env=BENCHMARK", "--env=SEED"]


@pytest.mark.parametrize("image", ["--privileged", "a\nb"])
def test_an_image_is_no_option(image: str) -> None:
    """What would be read as an option is refused."""
    config = configured(CONT=image)
    with pytest.raises(ConfigError, match="CONT="):
        back_end_of(config.job, config.layout)


def test_a_run_sees_what_it_reads_and_writes(tmp_path: Path) -> None:
    """Data and tokenizer read-only, logs and checkpoints writable, folders before what lies in them."""
    config = configured(
        DATADIR=str(tmp_path / "data"), LOGDIR=str(tmp_path / "data" / "logs"), SAVE_CHECKPOINT=str(tmp_path / "saved")
    )
    mounts = {mount.path: mount.writable for mount in mounts_of(config)}
    assert mounts[tmp_path / "data"] is False
    assert mounts[tmp_path / "data" / "logs"] is True
    assert mounts[tmp_path / "saved"] is True
    assert list(mounts) == sorted(mounts)


@pytest.mark.parametrize(
    ("variables", "fault"),
    [
        (
            {"CONTAINER_RUNTIME": "nspawn"},
            f"CONTAINER_RUNTIME=nspawn is no container back end; valid: {', '.join(BACK_ENDS)}",
        ),
        ({"CONTAINER_RUNTIME": "docker"}, "CONTAINER_RUNTIME=docker needs an image: CONT is not set"),
        ({"CONTAINER_RUNTIME": "none", "CONT": "x"}, "CONTAINER_RUNTIME=none, but CONT=x: unset one of them"),
        (
            {"CONTAINER_RUNTIME": "docker", "CONT": "x", "DGXNNODES": 2, "MINIBS": 72},
            "CONTAINER_RUNTIME=docker starts the ranks of one node; DGXNNODES is 2",
        ),
        (
            {"CONTAINER_RUNTIME": "docker", "CONT": "x", "NPAR": 2},
            "CONTAINER_RUNTIME=docker passes on no signal, starts no single rank: unset NPAR, NCCL_TEST_MIN_GBPS",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(variables: dict[str, str | int], fault: str) -> None:
    """A runtime needs an image, an image a runtime, and docker one node."""
    config = configured(**variables)
    with pytest.raises(ConfigError) as caught:
        back_end_of(config.job, config.layout)
    assert caught.value.faults == [fault]


def test_a_container_gets_our_variables_and_the_libraries_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else is in the environment stays outside."""
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    for name in LIBRARY_SETTINGS:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    names = variables_to_pass(configured())
    assert {"SEED", "RESULT_FILE", "NPY_INDEX_DIR", "MASTER_ADDR", "NCCL_DEBUG", *LIBRARY_SETTINGS} <= set(names)
    assert "AWS_SECRET_ACCESS_KEY" not in names


def test_an_image_does_not_say_where_ranks_meet() -> None:
    """Or what the libraries are told: with pyxis, its own values would win. Its interpreter, say, is left to it."""
    told = Container(
        image="x", name="y", mounts=(), variables=("SEED", "HARNESS_PYTHON", *LIBRARY_SETTINGS, "MASTER_ADDR")
    )
    wrapped = BACK_ENDS["pyxis"].wrap(told, ["true"])
    assert wrapped.srun[-1] == f"--container-env={','.join((*LIBRARY_SETTINGS, 'MASTER_ADDR'))}"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(all_command_lines(), indent=2) + "\n")
