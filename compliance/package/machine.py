"""Ask this machine, a compute node, for the fields of a system's description. Works without torch."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.run_record import distribution, machine
from compliance.package.facts import STACK, Facts

_TIMEOUT_S = 10
"""Seconds that lscpu or nvidia-smi may take."""
_SYS = Path("/sys")
_SECTOR_BYTES = 512
"""Bytes of the unit of /sys/block/*/size, which is independent of the disk's own sectors."""

# Field -> (its name in lscpu, its unit).
_LSCPU = {
    "host_processors_per_node": ("Socket(s)", ""),
    "host_processor_core_count": ("Core(s) per socket", ""),
    "host_processor_vcpu_count": ("CPU(s)", ""),
    "host_processor_frequency": ("CPU max MHz", " MHz"),
}
_CACHES = ("L1d", "L1i", "L2", "L3")

_QUERY = "name,memory.total,clocks.max.sm,driver_version"

COUNTED = ("host_processors_per_node", "host_processor_core_count")
"""Fields that are one whole number, which lscpu knows."""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A GPU as nvidia-smi lists it; a value that nvidia-smi does not know is empty."""

    name: str
    memory: str
    frequency: str
    driver: str


def processor() -> Facts:
    """Return the fields of the processors and the operating system, which nodes of one kind share."""
    model = machine()["processor"]
    return _known({"host_processor_model_name": str(model), **_of_lscpu(_lscpu()), "operating_system": distribution()})


def node() -> Facts:
    """Return every field that a machine on which runs are made can tell."""
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
    """Return the GPUs of this machine; none if nvidia-smi is missing or finds none."""
    return _parse_smi(_output_of("nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader"))


def differences(facts: Facts) -> Iterator[str]:
    """Yield where a description differs from this machine; nothing if it names another processor."""
    here = processor()
    if facts.get("host_processor_model_name") != here.get("host_processor_model_name"):
        return
    for name in COUNTED:
        if name in facts and name in here and facts[name] != here[name]:
            yield (
                f"{name} is {facts[name]} in the description; this machine, which has the same processor "
                f"({here['host_processor_model_name']}), reports {here[name]}"
            )


def _known(facts: Mapping[str, str | dict[str, str]]) -> Facts:
    return {name: value for name, value in facts.items() if value}


# Processors.


def _of_lscpu(printed: Mapping[str, str]) -> dict[str, str]:
    fields = {
        field: printed[name].removesuffix(".0000") + unit
        for field, (name, unit) in _LSCPU.items()
        if printed.get(name, "-") != "-"
    }
    caches = [f"{cache}: {printed[name]}" for cache in _CACHES if (name := f"{cache} cache") in printed]
    return fields | ({"host_processor_caches": ", ".join(caches)} if caches else {})


def _lscpu() -> dict[str, str]:
    """Return what lscpu prints, name -> value; empty if it is missing."""
    lines = (line.partition(":") for line in _output_of("lscpu").splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


# GPUs.


def _parse_smi(listed: str) -> tuple[Accelerator, ...]:
    """Parse a table with one GPU a line, in which unknown values are `[N/A]`."""
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
    """Yield the kind and size of each NVMe and SCSI disk. Other disks are virtual, and misreport their kind."""
    for disk in sorted((root / "block").glob("*")):
        sectors = _read(disk / "size")
        if not disk.name.startswith(("nvme", "sd")) or not sectors.isdecimal() or int(sectors) == 0:
            continue
        flash = _read(disk / "queue" / "rotational") == "0"
        kind = "NVMe SSD" if disk.name.startswith("nvme") else "SSD" if flash else "HDD"
        yield kind, f"{int(sectors) * _SECTOR_BYTES / 1e12:.2f} TB"


def _links(root: Path) -> Iterator[str]:
    """Yield each active port of an adapter: first those of InfiniBand and RoCE, then those of other Ethernet."""
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
    """Read a small file of the kernel; empty if it does not exist or cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _output_of(*command: str) -> str:
    """Return what a program prints, in English; empty if it is missing or fails."""
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
