"""The command line of each container back end, word for word, and the paths that one cannot express."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.checkout import ROOT
from benchmark.config import ConfigError
from benchmark.config.libraries import RECORDED
from harness.launch.containers import BACK_ENDS, Container, Mount, back_end_of, image_of, mounts_of, mounts_of_links
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
    Mount(path=Path('/data/it\'s"quoted"')),
    Mount(path=Path("/data/$(id);`id`&*"), writable=True),
)
"""What any back end can be told, since nothing goes through a shell."""

SPACE = Mount(path=Path("/data/with space"))

SEPARATORS = (SPACE, *(Mount(path=Path(path)) for path in ("/data/a,b", "/data/a:b", "/data/a\\040b")))


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
    """Every word of the srun that starts the ranks in a container, for every back end."""
    kinds = {"plain": PLAIN, "hostile": HOSTILE, "space": (SPACE,)}
    sorts = ((name, kind) for name in BACK_ENDS for kind in kinds if (name, kind) != ("pyxis", "space"))
    return {f"{name} {kind}": argv(name, kinds[kind]) for name, kind in sorts}


def test_command_lines_are_as_they_were(subtests: pytest.Subtests) -> None:
    """They equal tests/golden/launch.json, one word a line."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    made = all_command_lines()
    assert made.keys() == golden.keys(), REMAKE
    for name, words in made.items():
        with subtests.test(name):
            assert words == golden[name], REMAKE


@pytest.mark.parametrize("mount", SEPARATORS, ids=str)
def test_pyxis_refuses_what_it_would_take_apart(mount: Mount) -> None:
    """A comma or a colon in a path would start another mount, and a space would end it."""
    with pytest.raises(ConfigError) as refusal:
        argv("pyxis", (mount,))
    said = "pyxis cannot mount a path with a comma, a colon, a space or a backslash; rename it"
    assert str(refusal.value) == f"{str(mount.path)!r}: {said}"


@pytest.mark.parametrize("back_end", ["pyxis", "apptainer", "docker"])
def test_a_path_of_several_lines_is_refused(back_end: str) -> None:
    """No back end can express it."""
    with pytest.raises(ConfigError, match=r"printable|pyxis cannot mount a path"):
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
    """Docker gets only names, since every user of a node can read command lines."""
    assert [word for word in argv("docker", ()) if word.startswith("--env")] == ["--env=BENCHMARK", "--env=SEED"]


@pytest.mark.parametrize("image", ["--privileged", "a\nb"])
def test_an_image_is_no_option(image: str) -> None:
    """A name that would be read as an option is refused."""
    config = configured(CONT=image)
    with pytest.raises(ConfigError, match="CONT="):
        back_end_of(config.job, config.layout)


def test_an_image_file_is_told_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyxis would look for `x.sqsh` in a registry; any other name stays as it is."""
    monkeypatch.setattr("harness.launch.containers.ROOT", tmp_path)
    (tmp_path / "x.sqsh").touch()
    images = ("x.sqsh", "./x.sqsh", "/images/y.sqsh", "nvcr.io#nvidia/pytorch:26.01-py3", "")
    told = [image_of(configured(CONT=image).job) for image in images]
    assert told == [str(tmp_path / "x.sqsh"), str(tmp_path / "x.sqsh"), *images[2:]]


@pytest.mark.parametrize("image", ["y.sqsh", "images/y.sif"])
def test_an_image_file_that_is_not_there_is_refused(image: str) -> None:
    """Preflight refuses it too, before a node looks for it in a registry."""
    config = configured(CONT=image)
    with pytest.raises(ConfigError) as refusal:
        back_end_of(config.job, config.layout)
    assert (
        str(refusal.value) == f"CONT={image}: there is no such file in {ROOT}; expected a file there, or a whole path"
    )


def test_a_run_sees_what_it_reads_and_writes(tmp_path: Path) -> None:
    """Data and tokenizer are read-only, logs and checkpoints writable, and outer folders come before inner ones."""
    config = configured(
        DATADIR=str(tmp_path / "data"), LOGDIR=str(tmp_path / "data" / "logs"), SAVE_CHECKPOINT=str(tmp_path / "saved")
    )
    mounts = {mount.path: mount.writable for mount in mounts_of(config)}
    assert mounts[tmp_path / "data"] is False
    assert mounts[tmp_path / "data" / "logs"] is True
    assert mounts[tmp_path / "saved"] is True
    assert list(mounts) == sorted(mounts)


# Links.


def mounted(**variables: str | int | Path) -> dict[Path, Path]:
    """The mounts besides the folders of a configuration, by their path inside."""
    config = configured(**{name: str(value) for name, value in variables.items()})
    plain = mounts_of(config)
    return {mount.path: mount.outside for mount in mounts_of_links(config, plain) if mount not in plain}


def snapshot(cache: Path) -> Path:
    """A snapshot as huggingface_hub keeps it: links to files that are named after their content."""
    for folder in ("blobs", "snapshots/0123"):
        (cache / folder).mkdir(parents=True)
    (cache / "blobs" / "71d6").touch()
    (cache / "snapshots" / "0123" / "config.json").symlink_to("../../blobs/71d6")
    return cache / "snapshots" / "0123"


def test_the_files_of_a_snapshot_are_mounted(tmp_path: Path) -> None:
    """LOAD_CHECKPOINT may be a snapshot in Hugging Face's cache."""
    blobs = tmp_path / "hub" / "blobs"
    assert mounted(LOAD_CHECKPOINT=snapshot(tmp_path / "hub")) == {blobs: blobs}


def test_a_link_to_a_snapshot_is_a_folder_inside(tmp_path: Path) -> None:
    """Since the way up from it differs inside, the targets outside are mounted there."""
    (tmp_path / "mine" / "of" / "8b").mkdir(parents=True)
    link = tmp_path / "mine" / "of" / "8b" / "latest"
    link.symlink_to(snapshot(tmp_path / "hub"))
    assert mounted(LOAD_CHECKPOINT=link) == {tmp_path / "mine" / "of" / "blobs": tmp_path / "hub" / "blobs"}


def test_links_are_followed_to_their_end(tmp_path: Path) -> None:
    """Links to links, folders with links, and a link to itself are followed, each folder once."""
    data, first, second, more = (tmp_path / name for name in ("data", "first", "second", "more"))
    for folder in (data, first, second, more):
        folder.mkdir()
    (second / "train.bin").touch()
    (first / "train.bin").symlink_to("../second/train.bin")
    (more / "train.idx").symlink_to(second / "train.bin")
    (data / "train.bin").symlink_to(first / "train.bin")
    (data / "more").symlink_to(more)
    (data / "self").symlink_to(".")
    assert mounted(DATADIR=data) == {folder: folder for folder in (first, second, more)}


def test_what_is_mounted_already_or_is_not_there_is_no_mount(tmp_path: Path) -> None:
    """A link into LOGDIR stays writable, and a broken link is not mounted."""
    (tmp_path / "data").mkdir()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "file").touch()
    (tmp_path / "data" / "file").symlink_to(tmp_path / "logs" / "file")
    (tmp_path / "data" / "gone").symlink_to(tmp_path / "gone" / "file")
    assert mounted(DATADIR=tmp_path / "data", LOGDIR=tmp_path / "logs") == {}


def test_no_folder_of_an_image_is_hidden(tmp_path: Path) -> None:
    """A target just below the root is mounted as a file."""
    (tmp_path / "hosts").symlink_to("/etc/hosts")
    assert mounted(DATADIR=tmp_path) == {Path("/etc/hosts"): Path("/etc/hosts")}


@pytest.mark.parametrize("back_end", ["pyxis", "apptainer", "docker"])
def test_a_mount_may_have_another_source(back_end: str) -> None:
    """Each back end gets both paths."""
    words = argv(back_end, (Mount(path=Path("/inside"), source=Path("/outside")),))
    assert any("/outside:/inside:ro" in word or "source=/outside,destination=/inside," in word for word in words)


@pytest.mark.parametrize(
    ("variables", "fault"),
    [
        (
            {"CONTAINER_RUNTIME": "nspawn"},
            f"CONTAINER_RUNTIME=nspawn is not a container back end; valid: {', '.join(BACK_ENDS)}",
        ),
        ({"CONTAINER_RUNTIME": "docker"}, "CONTAINER_RUNTIME=docker needs an image: CONT is not set"),
        ({"CONTAINER_RUNTIME": "none", "CONT": "x"}, "CONTAINER_RUNTIME=none, but CONT=x: unset one of them"),
        (
            {"CONTAINER_RUNTIME": "docker", "CONT": "x", "DGXNNODES": 2, "MINIBS": 72},
            "CONTAINER_RUNTIME=docker starts the ranks of one node; DGXNNODES is 2",
        ),
        (
            {"CONTAINER_RUNTIME": "docker", "CONT": "x", "NPAR": 2},
            "CONTAINER_RUNTIME=docker passes on no signal and starts no single rank: unset NPAR and NCCL_TEST_MIN_GBPS",
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
    """The rest of the environment stays outside."""
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    for name in RECORDED:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    names = variables_to_pass(configured())
    assert {"SEED", "RESULT_FILE", "NPY_INDEX_DIR", "MASTER_ADDR", "NCCL_DEBUG", *RECORDED} <= set(names)
    assert "AWS_SECRET_ACCESS_KEY" not in names


def test_an_image_does_not_say_where_ranks_meet() -> None:
    """The job's values win over the image's, also for the libraries; the image keeps its interpreter."""
    told = Container(image="x", name="y", mounts=(), variables=("SEED", "HARNESS_PYTHON", *RECORDED, "MASTER_ADDR"))
    wrapped = BACK_ENDS["pyxis"].wrap(told, ["true"])
    assert wrapped.srun[-1] == f"--container-env={','.join((*RECORDED, 'MASTER_ADDR'))}"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(all_command_lines(), indent=2) + "\n")
