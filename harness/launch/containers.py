"""Container back ends as text: how a command line runs inside an image, one function for each.

Every folder is mounted under its own path, so that a path means the same inside and outside and no variable has to be
translated. Whatever a back end's syntax cannot express is refused, never passed on to be read as something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.checkout import ROOT
from benchmark.config import ConfigError, RunConfig


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A file or folder that a run needs, under its own path."""

    path: Path
    writable: bool = False


@dataclass(frozen=True, kw_only=True)
class Container:
    """An image with everything that is told to a back end."""

    image: str
    name: str
    """Of the container on each node, for the back end that keeps one; no two jobs share it."""
    mounts: tuple[Mount, ...]
    variables: tuple[str, ...] = ()
    """Names of environment variables to pass on, for the back end that passes none by itself."""
    gpus: bool = True
    """Whether the nodes have GPUs to hand in."""
    working_folder: Path = ROOT


@dataclass(frozen=True, kw_only=True)
class Wrapped:
    """A command inside a container: what srun is told, and what it starts."""

    srun: tuple[str, ...]
    command: tuple[str, ...]


BackEnd = Callable[[Container, Sequence[str]], Wrapped]


def none(container: Container, command: Sequence[str]) -> Wrapped:
    """No container: the command as it is."""
    del container
    return Wrapped(srun=(), command=tuple(command))


def pyxis(container: Container, command: Sequence[str]) -> Wrapped:
    """NVIDIA's plugin for srun; the image was given a name on each node by `pyxis_start`.

    Source: pyxis 0.24, README.md: mounts are SRC:DST[:FLAGS], separated by commas, and nothing is quoted.
    """
    options = (
        f"--container-name={container.name}",
        f"--container-mounts={_pyxis_mounts(container.mounts)}",
        f"--container-workdir={container.working_folder}",
        "--no-container-mount-home",
    )
    return Wrapped(srun=options, command=tuple(command))


def pyxis_start(container: Container) -> Wrapped:
    """Imports the image once on a node and keeps it under its name for the job's other steps."""
    options = (f"--container-image={container.image}", f"--container-name={container.name}")
    return Wrapped(srun=(*options, "--no-container-mount-home"), command=("true",))


def pyxis_stop(container: Container) -> Wrapped:
    """Removes the named container from a node, where enroot keeps it after the job (pyxis's container_scope=global)."""
    script = 'if command -v enroot >/dev/null && enroot list | grep -Fqx "$1"; then enroot remove --force "$1"; fi'
    return Wrapped(srun=(), command=("bash", "-euc", script, "bash", f"pyxis_{container.name}"))


def apptainer(container: Container, command: Sequence[str]) -> Wrapped:
    """Apptainer or Singularity: `--mount` is a line of CSV, so that any path can be quoted.

    Source: Apptainer user guide, "Bind paths and mounts".
    """
    mounts = (f"--mount={_csv(_bind(mount, read_only='ro'))}" for mount in container.mounts)
    gpus = ("--nv",) if container.gpus else ()
    options = (*gpus, "--no-home", f"--pwd={container.working_folder}", *mounts)
    return Wrapped(srun=(), command=("apptainer", "exec", *options, container.image, *command))


def docker(container: Container, command: Sequence[str]) -> Wrapped:
    """Docker on one node. Values of variables stay out of the command line, which every user of the node can read.

    Source: docker run's reference: `--mount` is a line of CSV, `--env=NAME` passes a variable on.
    """
    mounts = (f"--mount={_csv(_bind(mount, read_only='readonly'))}" for mount in container.mounts)
    variables = (f"--env={name}" for name in container.variables)
    gpus = ("--gpus=all",) if container.gpus else ()
    # What NCCL needs: the host's network, its shared memory, and memory that it may pin.
    host = ("--network=host", "--ipc=host", "--ulimit=memlock=-1", "--ulimit=stack=67108864")
    options = (f"--name={container.name}", *gpus, *host, f"--workdir={container.working_folder}", *mounts, *variables)
    return Wrapped(srun=(), command=("docker", "run", "--rm", "--init", *options, container.image, *command))


def docker_kill(container: Container) -> tuple[str, ...]:
    """Ends the container, which outlives the `docker run` that started it."""
    return ("docker", "kill", container.name)


BACK_ENDS: dict[str, BackEnd] = {"none": none, "pyxis": pyxis, "apptainer": apptainer, "docker": docker}


def mounts_of(config: RunConfig) -> tuple[Mount, ...]:
    """What a run reads and writes, a folder before what lies in it, so that it does not hide a mount inside it."""
    data = config.data
    read = [ROOT, data.data_dir, data.tokenizer, data.load_checkpoint]
    written = [config.job.log_dir, config.job.save_checkpoint, data.index_dir]
    writable = {path.absolute(): False for path in read if path is not None}
    writable |= {path.absolute(): True for path in written if path is not None}
    return tuple(Mount(path=path, writable=writable[path]) for path in sorted(writable))


def check_image(image: str) -> None:
    """Refuse an image that a command line would read as an option.

    Raises:
        ConfigError
    """
    if image.startswith("-") or not image.isprintable():
        raise ConfigError([f"CONT={image!r}: an image is a name or a file, and begins with no dash"])


def _pyxis_mounts(mounts: Iterable[Mount]) -> str:
    parts = []
    for mount in mounts:
        path = str(mount.path)
        if "," in path or ":" in path or not path.isprintable():
            raise ConfigError(
                [f"{path!r}: pyxis separates mounts with commas and their parts with colons, and quotes neither"]
            )
        parts.append(f"{path}:{path}" if mount.writable else f"{path}:{path}:ro")
    return ",".join(parts)


def _bind(mount: Mount, *, read_only: str) -> list[str]:
    fields = ["type=bind", f"source={mount.path}", f"destination={mount.path}"]
    return fields if mount.writable else [*fields, read_only]


def _csv(fields: Iterable[str]) -> str:
    """One line of CSV: a field with a comma or a quote stands in quotes, and a quote in it is doubled."""
    return ",".join(f'"{field.replace(chr(34), chr(34) * 2)}"' if _needs_quotes(field) else field for field in fields)


def _needs_quotes(field: str) -> bool:
    if not field.isprintable():
        raise ConfigError([f"{field!r}: a mount is one line of printable characters"])
    return "," in field or '"' in field
