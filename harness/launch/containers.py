"""Container back ends. Each class knows everything about running a command inside an image with one tool.

Every folder is mounted under its own path, so that a path means the same inside and outside and no variable has to be
translated. A name that a back end's syntax cannot express is refused, never passed on to be misread.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from benchmark.checkout import ROOT
from benchmark.config import ConfigError, RunConfig
from benchmark.config.groups import Job, Layout
from benchmark.config.libraries import RECORDED
from benchmark.files import links_in


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A file or folder that a run needs, under its own path."""

    path: Path
    writable: bool = False
    source: Path | None = None
    """Its path outside the container, if links make that a different one."""

    @property
    def outside(self) -> Path:
        return self.source or self.path


@dataclass(frozen=True, kw_only=True)
class Container:
    """An image and everything that a back end must know to run it."""

    image: str
    name: str
    """Name of the container on each node, for a back end that keeps one; no two jobs share it."""
    mounts: tuple[Mount, ...]
    variables: tuple[str, ...] = ()
    """Names of environment variables to pass on, for a back end that passes none by itself."""
    gpus: bool = True
    """Whether the nodes have GPUs for the container."""
    working_folder: Path = ROOT


@dataclass(frozen=True, kw_only=True)
class Wrapped:
    """A command inside a container: the options for srun, and the command that srun starts."""

    srun: tuple[str, ...]
    command: tuple[str, ...]


class BackEnd(ABC):
    """One way to run a command inside an image, with everything that a job needs of it."""

    name: ClassVar[str]
    """The value of CONTAINER_RUNTIME that selects it."""
    needs_image: ClassVar[bool] = True
    whole_node: ClassVar[bool] = False
    """True if one container starts all ranks of a node; otherwise srun starts each rank."""

    @abstractmethod
    def wrap(self, container: Container, command: Sequence[str]) -> Wrapped:
        """Return the command that runs `command` inside the container."""

    def start(self, container: Container) -> Wrapped | None:
        """Return what each node runs once before the job's steps, if anything."""
        del container
        return None

    def stop(self, container: Container) -> Wrapped | None:
        """Return what each node runs after the job's steps, if anything."""
        del container
        return None

    def kill(self, container: Container) -> tuple[str, ...]:
        """Return the command that ends processes which outlive srun's own; empty if none do."""
        del container
        return ()

    def faults(self, job: Job, layout: Layout) -> Iterator[str]:
        """Yield why the back end cannot run such a job."""
        if self.needs_image and not job.container_image:
            yield f"CONTAINER_RUNTIME={self.name} needs an image: CONT is not set"
        del layout


class NoContainer(BackEnd):
    """Runs the command without a container."""

    name = "none"
    needs_image = False

    def wrap(self, container: Container, command: Sequence[str]) -> Wrapped:
        del container
        return Wrapped(srun=(), command=tuple(command))

    def faults(self, job: Job, layout: Layout) -> Iterator[str]:
        del layout
        if job.container_image:
            yield f"CONTAINER_RUNTIME=none, but CONT={job.container_image}: unset one of them"


_FOR_THE_RANKS = frozenset({*RECORDED, "MASTER_ADDR", "MASTER_PORT"})
"""Variables for which the job's value must win over a value in the image."""


class Pyxis(BackEnd):
    """NVIDIA's plugin for srun. Each node names the image once at the start and keeps it for the job's steps.

    Source: pyxis 0.24, README.md: mounts are SRC:DST[:FLAGS], separated by commas, without quoting. The job's variables
    are passed on, but an image's own values win unless --container-env names them.
    """

    name = "pyxis"

    def wrap(self, container: Container, command: Sequence[str]) -> Wrapped:
        options = (
            f"--container-name={container.name}",
            f"--container-mounts={_pyxis_mounts(container.mounts)}",
            f"--container-workdir={container.working_folder}",
            "--no-container-mount-home",
        )
        own_values = ",".join(name for name in container.variables if name in _FOR_THE_RANKS)
        return Wrapped(
            srun=(*options, f"--container-env={own_values}") if own_values else options, command=tuple(command)
        )

    def start(self, container: Container) -> Wrapped:
        options = (f"--container-image={container.image}", f"--container-name={container.name}")
        return Wrapped(srun=(*options, "--no-container-mount-home"), command=("true",))

    def stop(self, container: Container) -> Wrapped:
        # enroot keeps it after the job (pyxis's container_scope=global).
        script = 'if command -v enroot >/dev/null && enroot list | grep -Fqx "$1"; then enroot remove --force "$1"; fi'
        return Wrapped(srun=(), command=("bash", "-euc", script, "bash", f"pyxis_{container.name}"))


class Apptainer(BackEnd):
    """Apptainer or Singularity. `--mount` takes a line of CSV, so any path can be quoted.

    Source: Apptainer user guide, "Bind paths and mounts".
    """

    name = "apptainer"

    def wrap(self, container: Container, command: Sequence[str]) -> Wrapped:
        mounts = (f"--mount={_csv(_bind(mount, read_only='ro'))}" for mount in container.mounts)
        gpus = ("--nv",) if container.gpus else ()
        options = (*gpus, "--no-home", f"--pwd={container.working_folder}", *mounts)
        return Wrapped(srun=(), command=("apptainer", "exec", *options, container.image, *command))


class Docker(BackEnd):
    """Docker on one node. Variables' values stay out of the command line, which every user of the node can read.

    Source: docker run's reference: `--mount` takes a line of CSV, `--env=NAME` passes a variable on.
    """

    name = "docker"
    whole_node = True

    def wrap(self, container: Container, command: Sequence[str]) -> Wrapped:
        mounts = (f"--mount={_csv(_bind(mount, read_only='readonly'))}" for mount in container.mounts)
        variables = (f"--env={name}" for name in container.variables)
        gpus = ("--gpus=all",) if container.gpus else ()
        # NCCL needs the host's network, its shared memory, and memory that it may pin.
        host = ("--network=host", "--ipc=host", "--ulimit=memlock=-1", "--ulimit=stack=67108864")
        place = (f"--name={container.name}", *gpus, *host, f"--workdir={container.working_folder}")
        options = (*place, *mounts, *variables)
        return Wrapped(srun=(), command=("docker", "run", "--rm", "--init", *options, container.image, *command))

    def kill(self, container: Container) -> tuple[str, ...]:
        # The container outlives the `docker run` that started it.
        return ("docker", "kill", container.name)

    def faults(self, job: Job, layout: Layout) -> Iterator[str]:
        yield from super().faults(job, layout)
        if layout.nodes > 1:
            yield f"CONTAINER_RUNTIME=docker starts the ranks of one node; DGXNNODES is {layout.nodes}"
        if job.allocations > 1 or job.nccl_test_min_gbps is not None:
            yield (
                "CONTAINER_RUNTIME=docker passes on no signal and starts no single rank: unset NPAR and "
                "NCCL_TEST_MIN_GBPS"
            )


BACK_ENDS: dict[str, BackEnd] = {one.name: one for one in (NoContainer(), Pyxis(), Apptainer(), Docker())}


def back_end_of(job: Job, layout: Layout) -> BackEnd:
    """Return the back end that CONTAINER_RUNTIME names, or pyxis if only CONT is set.

    Raises:
        ConfigError: there is no back end of that name, or it cannot run such a job.
    """
    name = job.container_runtime or (Pyxis.name if job.container_image else NoContainer.name)
    if name not in BACK_ENDS:
        raise ConfigError([f"CONTAINER_RUNTIME={name} is not a container back end; valid: {', '.join(BACK_ENDS)}"])
    faults = [*BACK_ENDS[name].faults(job, layout), *_image_faults(job)]
    if faults:
        raise ConfigError(faults)
    return BACK_ENDS[name]


def require_container(config: RunConfig) -> None:
    """Refuse a container that a job of this configuration could not start.

    Raises:
        ConfigError: there is no such back end, it cannot run such a job, or its syntax cannot express a mount.
    """
    back_end = back_end_of(config.job, config.layout)
    mounts = mounts_of_links(config, mounts_of(config)) if back_end.needs_image else ()
    back_end.wrap(Container(image=image_of(config.job), name="", mounts=mounts), ["true"])


_IMAGE_FILES = (".sqsh", ".squashfs", ".sif")
"""Endings of image files; a name in a registry has none of them."""


def image_of(job: Job) -> str:
    """Return CONT as a back end needs it: if it names a file in this folder, that file's whole path.

    pyxis takes `x.sqsh` as an image's name in a registry, but `./x.sqsh` as a file (its tests/squashfs_image.bats).
    """
    file = ROOT / job.container_image
    return str(file) if job.container_image and file.is_file() else job.container_image


def _image_faults(job: Job) -> Iterator[str]:
    image = job.container_image
    if image.startswith("-") or not image.isprintable():
        # A command line would read this as an option.
        yield f"CONT={image!r}: expected an image's name or file that does not begin with a dash"
    elif image.endswith(_IMAGE_FILES) and not Path(image_of(job)).is_absolute():
        yield f"CONT={image}: there is no such file in {ROOT}; expected a file there, or a whole path"


def mounts_of(config: RunConfig) -> tuple[Mount, ...]:
    """Return what a run reads and writes, in the order of paths: a folder hides what was mounted inside it before."""
    data = config.data
    read = [ROOT, data.data_dir, data.tokenizer, data.load_checkpoint]
    written = [config.job.log_dir, config.job.save_checkpoint, config.job.resume, data.index_dir]
    writable = {path.absolute(): False for path in read if path is not None}
    writable |= {path.absolute(): True for path in written if path is not None}
    return tuple(Mount(path=path, writable=writable[path]) for path in sorted(writable))


@dataclass(frozen=True)
class _Place:
    """A folder under its path inside and its path outside; the outside path goes through no link."""

    inside: Path
    outside: Path


def mounts_of_links(config: RunConfig, mounts: Iterable[Mount]) -> tuple[Mount, ...]:
    """Return the mounts, together with the targets of links in DATADIR and LOAD_CHECKPOINT, in the order of paths.

    A snapshot in Hugging Face's cache consists of links to ../../blobs. A broken link is left for its reader to report.
    """
    made = {mount.path: mount for mount in mounts}
    folders = [
        folder.absolute() for folder in (config.data.data_dir, config.data.load_checkpoint) if folder is not None
    ]
    waiting, walked = [_Place(folder, folder.resolve()) for folder in folders], set[_Place]()
    while waiting:
        place = waiting.pop()
        if place not in walked:
            walked.add(place)
            for link in links_in(place.outside):
                parent = _Place(place.inside / link.parent.relative_to(place.outside), link.parent)
                waiting += _follow(parent, link.name, made)
    return tuple(made[path] for path in sorted(made))


def _follow(folder: _Place, name: str, made: dict[Path, Mount]) -> Iterator[_Place]:
    """Add to `made` the mounts that a link needs inside; return the folder that it leads to, if it is one."""
    outside = folder.outside / os.readlink(folder.outside / name)
    inside = Path(os.path.normpath(folder.inside / os.readlink(folder.outside / name)))
    if outside.is_dir():
        target = _Place(inside, outside.resolve())
        _mount(target, made)
        yield target
    elif outside.exists():
        parent = _Place(inside.parent, outside.parent.resolve())
        # A mount of a folder at the root, or just below it, would hide the image's own.
        _mount(parent if len(inside.parts) > 3 else _Place(inside, outside.resolve()), made)
        if (parent.outside / inside.name).is_symlink():
            yield from _follow(parent, inside.name, made)


def _mount(place: _Place, made: dict[Path, Mount]) -> None:
    """Add the mount unless another one already shows the place."""
    for path in (place.inside, *place.inside.parents):
        if path in made and (made[path].outside / place.inside.relative_to(path)).resolve() == place.outside:
            return
    source = None if place.inside.resolve() == place.outside else place.outside
    made[place.inside] = Mount(path=place.inside, source=source)


def _pyxis_mounts(mounts: Iterable[Mount]) -> str:
    parts = []
    for mount in mounts:
        path = str(mount.path)
        if fault := next((part for part in (path, str(mount.outside)) if not _goes_into_pyxis(part)), None):
            raise ConfigError(
                [f"{fault!r}: pyxis cannot mount a path with a comma, a colon, a space or a backslash; rename it"]
            )
        parts.append(f"{mount.outside}:{path}" if mount.writable else f"{mount.outside}:{path}:ro")
    return ",".join(parts)


def _goes_into_pyxis(path: str) -> bool:
    # pyxis writes mounts as lines of an fstab, where a space ends a field (NVIDIA/pyxis, issue 133).
    return path.isprintable() and not set(path) & set(",: \\")


def _bind(mount: Mount, *, read_only: str) -> list[str]:
    fields = ["type=bind", f"source={mount.outside}", f"destination={mount.path}"]
    return fields if mount.writable else [*fields, read_only]


def _csv(fields: Iterable[str]) -> str:
    """Return one line of CSV: a field with a comma or a quote is quoted, and its quotes are doubled."""
    return ",".join(f'"{field.replace(chr(34), chr(34) * 2)}"' if _needs_quotes(field) else field for field in fields)


def _needs_quotes(field: str) -> bool:
    if not field.isprintable():
        raise ConfigError([f"{field!r}: a mount must be one line of printable characters"])
    return "," in field or '"' in field
