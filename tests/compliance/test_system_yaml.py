"""system.yaml and what a machine reports: text stays as it was written, and faults are given with their line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from compliance.package import machine
from compliance.package.facts import MAX_BYTES, Facts, read_facts
from compliance.package.runs import NotPackageableError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "system.yaml"


def faults(file: Path, text: str) -> list[str]:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(NotPackageableError) as refusal:
        read_facts(file)
    return refusal.value.faults


def test_scalars_are_text_as_written(file: Path) -> None:
    """No value becomes a number, a boolean or a time on its way."""
    file.write_text(
        "cooling: no\noperating_system: 22.10\nhost_processor_frequency: 3.80\nsystem_name: 007\n"
        "host_networking: 8:4:2\nhw_notes: on\nother_software_stack: {cuda: 12.10, nccl: 2.20}\n",
        encoding="utf-8",
    )
    assert read_facts(file) == {
        "cooling": "no",
        "operating_system": "22.10",
        "host_processor_frequency": "3.80",
        "system_name": "007",
        "host_networking": "8:4:2",
        "hw_notes": "on",
        "other_software_stack": {"cuda": "12.10", "nccl": "2.20"},
    }


def test_blank_fields_say_nothing(file: Path) -> None:
    """A blank field counts as a missing one, with Windows line ends too."""
    file.write_bytes(b"\xef\xbb\xbfcooling:\r\nhw_notes: ''\r\nother_software_stack: {cuda: }\r\nsystem_name: A\r\n")
    assert read_facts(file) == {"system_name": "A"}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("cooling: air\ncooling: water\n", "line 2: cooling is given again, first in line 1"),
        ("other_software_stack:\n  cuda: 1\n  cuda: 2\n", "line 3: cuda is given again, first in line 2"),
        ("cooling: &a air\nhw_notes: *a\n", "line 2: aliases are not read; write the value out"),
        ("cooling: [air]\n", "line 1: cooling is a list; expected text"),
        (
            "other_software_stack: {cuda: {version: 1}}\n",
            "line 1: other_software_stack is a mapping; expected text",
        ),
        ("? [a]\n: b\n", "line 1: expected the name of a field, read a list"),
        ("coolling: air\n", "line 1: coolling is not a field of a system; did you mean cooling?"),
        ("cooling: 8x: air\n", "line 1: mapping values are not allowed here"),
        ("--- {cooling: a}\n--- {cooling: b}\n", "line 2: but found another document"),
        ("", "expected lines such as `system_name: DGX H100`, read an empty file"),
        ("- a\n", "expected lines such as `system_name: DGX H100`, read a list"),
    ],
)
def test_what_is_no_description_is_refused_with_its_line(file: Path, text: str, fault: str) -> None:
    """There is one clear error, on what was read and where."""
    (found,) = faults(file, text)
    assert found.startswith(str(file))
    assert found.endswith(fault)


@pytest.mark.parametrize(
    "text",
    ["[" * 2_000, "{a: " * 8_000, "a" * (MAX_BYTES + 1), "cooling: \x00", "a: &a [x, x]\n" * 9 + "b: [*a, *a]\n"],
    ids=["deep", "deeper", "large", "binary", "bomb"],
)
def test_hostile_files_are_refused_at_once(file: Path, text: str) -> None:
    """Depth, size and aliases cost no more than a second, and no traceback."""
    began = time.process_time()
    assert len(faults(file, text)) == 1
    assert time.process_time() - began < 2


# The machine.


LSCPU = {
    "Socket(s)": "2",
    "Core(s) per socket": "48",
    "CPU(s)": "192",
    "CPU max MHz": "3800.0000",
    "L1d cache": "4.5 MiB (96 instances)",
    "L3 cache": "210 MiB (2 instances)",
}


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine of two processors and two GPUs; returns its /sys."""
    monkeypatch.setattr(machine, "_lscpu", lambda: LSCPU)
    monkeypatch.setattr(machine, "machine", lambda: {"processor": "Fast 9000", "memory_gib": 2015.5})
    smi = "NVIDIA H200, 143771 MiB, 1980 MHz, 550.54.15\n" * 2
    monkeypatch.setattr(machine, "accelerators", lambda: machine._parse_smi(smi))
    for port in ("mlx5_0", "mlx5_1"):
        made(
            tmp_path / "class/infiniband" / port / "ports/1",
            state="4: ACTIVE",
            link_layer="InfiniBand",
            rate="400 Gb/s",
        )
    made(tmp_path / "class/infiniband/mlx5_2/ports/1", state="1: DOWN", link_layer="InfiniBand", rate="10 Gb/s")
    made(tmp_path / "class/net/eth0", speed="100000", device="")
    made(tmp_path / "class/net/lo", speed="10")
    for disk in ("nvme0n1", "nvme1n1", "loop0"):
        made(tmp_path / "block" / disk, size="7501476528")
    monkeypatch.setattr(machine, "_SYS", tmp_path)
    return tmp_path


def made(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text + "\n", encoding="utf-8")


@pytest.mark.usefixtures("node")
def test_a_node_describes_itself() -> None:
    """Processors, memory, disks, active ports and GPUs are fields of the description, each with its unit."""
    found = machine.node()
    assert found.pop("operating_system")
    assert found == {
        "host_processor_model_name": "Fast 9000",
        "host_processors_per_node": "2",
        "host_processor_core_count": "48",
        "host_processor_vcpu_count": "192",
        "host_processor_frequency": "3800 MHz",
        "host_processor_caches": "L1d: 4.5 MiB (96 instances), L3: 210 MiB (2 instances)",
        "host_memory_capacity": "2015.5 GiB",
        "host_storage_type": "NVMe SSD",
        "host_storage_capacity": "2x 3.84 TB NVMe SSD",
        "host_networking": "2x InfiniBand 400 Gb/s, 1x Ethernet 100 Gb/s",
        "accelerators_per_node": "2",
        "accelerator_model_name": "NVIDIA H200",
        "accelerator_memory_capacity": "143771 MiB",
        "accelerator_frequency": "1980 MHz (maximum)",
        "other_software_stack": {"nvidia_kernel_driver": "550.54.15"},
    }


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"host_processor_model_name": "Fast 9000", "host_processor_core_count": "2"}, True),
        ({"host_processor_model_name": "Fast 9000", "host_processor_core_count": "48"}, False),
        ({"host_processor_model_name": "Other", "host_processor_core_count": "2"}, False),
    ],
)
@pytest.mark.usefixtures("node")
def test_another_number_of_cores_is_told_on_such_a_machine(facts: Facts, told: bool) -> None:
    """A different number of cores on a machine with the same processor is reported; other machines do not count."""
    found = list(machine.differences(facts))
    assert bool(found) is told
    expected = "host_processor_core_count is 2 in the description; this machine"
    assert all(expected in doubt and doubt.endswith("reports 48") for doubt in found)


def test_what_nvidia_smi_does_not_know_is_left_out() -> None:
    """A value that it does not support is left out; a message in place of a table means no GPU."""
    (gpu,) = machine._parse_smi("NVIDIA GB200, 189471 MiB, [N/A], 570.1\n")
    assert (gpu.name, gpu.frequency) == ("NVIDIA GB200", "")
    assert machine._parse_smi("No devices were found\n") == ()
