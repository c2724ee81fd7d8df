"""What this machine says of itself, in the fields of a system's description. Asked of a compute node; no torch."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.run_record import distribution, machine
from compliance.package.facts import STACK, Facts

_TIMEOUT_S = 10
_SYS = Path("/sys")
_SECTOR_BYTES = 512
"""Of /sys/block/*/size, whatever the disk's own are."""

# Field -> the name that lscpu gives it, and its unit.
_LSCPU = {
    "host_processors_per_node": ("Socket(s)", ""),
    "host_processor_core_count": ("Core(s) per socket", ""),
    "host_processor_vcpu_count": ("CPU(s)", ""),
    "host_processor_frequency": ("CPU max MHz", " MHz"),
}
_CACHES = ("L1d", "L1i", "L2", "L3")

_QUERY = "name,memory.total,clocks.max.sm,driver_version"

COUNTED = ("host_processors_per_node", "host_processor_core_count")
"""Fields of one whole number that lscpu knows of the processor's model."""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A GPU as nvidia-smi lists it; a value that it does not know is empty."""

    name: str
    memory: str
    frequency: str
    driver: str


def processor() -> Facts:
    """Of the processors and the operating system: what all nodes of one kind have in common."""
    model = machine()["processor"]
    return _known({"host_processor_model_name": str(model), **_of_lscpu(_lscpu()), "operating_system": distribution()})


def node() -> Facts:
    """Everything, of a machine that the runs are made on."""
    gpus = accelerators()
    return _known(
        {
            **processor(),
            "host_memory_capacity": f"{machine()['memory_gib']} GiB",
            **_storage(_SYS),
            "host_networking": ", ".join(_counted(_links(_SYS))),
            **_of_accelerators(gpus),
        }
    )


def accelerators() -> tuple[Accelerator, ...]:
    """The GPUs of this machine; none where nvidia-smi is not there or finds none."""
    return _parse_smi(
        _said("nvidia-smi", "--query-gpu=name,memory.total,clocks.max.sm,driver_version", "--format=csv,noheader")
    )


def differences(facts: Facts) -> Iterator[str]:
    """Where a description says other numbers than this machine, if that has the processor which it names."""
    here = processor()
    if facts.get("host_processor_model_name") != here.get("host_processor_model_name"):
        return
    for name in COUNTED:
        if name in facts and name in here and facts[name] != here[name]:
            yield (
                f"{name} is {facts[name]}; this machine, which has the processor that is named "
                f"({here['host_processor_model_name']}), says {here[name]}"
            )


def _known(facts: Mapping[str, str | dict[str, str]]) -> Facts:
    return {name: value for name, value in facts.items() if value}


# Processors.


def _of_lscpu(said: Mapping[str, str]) -> dict[str, str]:
    found = {
        field: said[name].removesuffix(".0000") + unit
        for field, (name, unit) in _LSCPU.items()
        if said.get(name, "-") != "-"
    }
    caches = [f"{cache}: {said[name]}" for cache in _CACHES if (name := f"{cache} cache") in said]
    return found | ({"host_processor_caches": ", ".join(caches)} if caches else {})


def _lscpu() -> dict[str, str]:
    """What lscpu prints, by name; empty where there is none."""
    lines = (line.partition(":") for line in _said("lscpu").splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


# GPUs.


def _parse_smi(listed: str) -> tuple[Accelerator, ...]:
    """From a table with a GPU a line; `[N/A]` is what it does not know."""
    rows = ([cell.strip() for cell in line.split(",")] for line in listed.splitlines())
    return tuple(Accelerator(*("" if cell.startswith("[") else cell for cell in row)) for row in rows if len(row) == 4)


def _of_accelerators(gpus: Sequence[Accelerator]) -> Facts:
    if not gpus:
        return {}
    first = gpus[0]
    return {
        "accelerators_per_node": str(len(gpus)),
        "accelerator_model_name": first.name,
        "accelerator_memory_capacity": first.memory,
        "accelerator_frequency": first.frequency and f"{first.frequency} (maximum)",
        STACK: {"nvidia_kernel_driver": first.driver} if first.driver else {},
    }


# Disks and networks.


def _storage(root: Path) -> dict[str, str]:
    disks = list(_disks(root))
    kinds = list(dict.fromkeys(kind for kind, _ in disks))
    return {
        "host_storage_type": " + ".join(kinds),
        "host_storage_capacity": " + ".join(_counted(f"{size} {kind}" for kind, size in disks)),
    }


def _disks(root: Path) -> Iterator[tuple[str, str]]:
    """Kind and size of each NVMe and SCSI disk; what a virtual disk says of its kind is not to be trusted."""
    for disk in sorted((root / "block").glob("*")):
        sectors = _read(disk / "size")
        if not disk.name.startswith(("nvme", "sd")) or not sectors.isdecimal() or int(sectors) == 0:
            continue
        flash = _read(disk / "queue" / "rotational") == "0"
        kind = "NVMe SSD" if disk.name.startswith("nvme") else "SSD" if flash else "HDD"
        yield kind, f"{int(sectors) * _SECTOR_BYTES / 1e12:.2f} TB"


def _links(root: Path) -> Iterator[str]:
    """Each active port of an adapter, first those of InfiniBand's verbs (RoCE's, too), then other Ethernet."""
    for port in sorted((root / "class" / "infiniband").glob("*/ports/*")):
        if "ACTIVE" in _read(port / "state"):
            yield f"{_read(port / 'link_layer')} {_read(port / 'rate')}"
    for interface in sorted((root / "class" / "net").glob("*")):
        speed = _read(interface / "speed")
        if (interface / "device").exists() and not (interface / "device" / "infiniband").exists() and speed.isdecimal():
            yield f"Ethernet {int(speed) / 1000:g} Gb/s"


def _counted(texts: Iterator[str]) -> Iterator[str]:
    return (f"{count}x {text}" for text, count in Counter(texts).items())


def _read(path: Path) -> str:
    """A small file of the kernel; empty where there is none, or it answers nothing."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _said(*command: str) -> str:
    """What a program prints, in English; nothing where there is none, or it fails."""
    try:
        done = subprocess.run(
            ("env", "LC_ALL=C", *command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return done.stdout
