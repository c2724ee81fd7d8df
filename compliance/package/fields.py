"""Explain each field of a system's description, with an example.

Most examples are from published v5.0 and v5.1 results. No document of MLCommons gives more than the names.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Meaning:
    """What belongs in a field."""

    text: str
    example: str


MEANINGS: dict[str, Meaning] = {
    "system_name": Meaning("the system's name in the tables of results", "Eos-dfw (64x NVIDIA HGX H100)"),
    "host_processors_per_node": Meaning("processors (sockets) of a node, a whole number", "2"),
    "host_processor_model_name": Meaning("the processor's model", "Intel(R) Xeon(R) Platinum 8462Y+"),
    "host_processor_core_count": Meaning("cores of one processor", "32"),
    "host_processor_vcpu_count": Meaning("hardware threads of a node", "128"),
    "host_processor_frequency": Meaning("the processor's clock, with its unit", "2.8GHz"),
    "host_processor_caches": Meaning("the processor's caches", "L1d: 3 MiB, L1i: 2 MiB, L2: 128 MiB, L3: 120 MiB"),
    "host_processor_interconnect": Meaning("what links the processors of a node", "3x UPI, 16 GT/s"),
    "host_memory_capacity": Meaning("memory of a node, with its unit", "2.0 TB"),
    "host_storage_type": Meaning("what the storage is", "NVMe SSD"),
    "host_storage_capacity": Meaning("disks of a node", "2x 1.92TB NVMe SSD + 8x 3.84TB NVMe U.2"),
    "host_networking": Meaning("network adapters of a node", "8x NVIDIA ConnectX-7 IB NDR 400Gb/s"),
    "host_networking_topology": Meaning("how nodes are connected", "Ethernet on switching network"),
    "host_memory_configuration": Meaning("memory modules of a node", "32x 64GB DDR5-5600"),
    "accelerator_model_name": Meaning("the accelerator's model", "NVIDIA H100-SXM5-80GB"),
    "accelerator_host_interconnect": Meaning("what links accelerator and host", "PCIe Gen5 x16"),
    "accelerator_frequency": Meaning("the accelerator's clock, with its unit", "1980 MHz"),
    "accelerator_on-chip_memories": Meaning("memories on the accelerator's chip", "L2 50 MB"),
    "accelerator_memory_configuration": Meaning("kind of the accelerator's memory", "HBM3"),
    "accelerator_memory_capacity": Meaning("memory of one accelerator, with its unit", "81559 MiB"),
    "accelerator_interconnect": Meaning("what links accelerators", "NVLINK Gen4 900 GB/s + NVSWITCH Gen3"),
    "accelerator_interconnect_topology": Meaning("how accelerators are connected", "all to all, through switches"),
    "cooling": Meaning("how the system is cooled", "Liquid"),
    "hw_notes": Meaning("anything else about the hardware", "nodes of two racks"),
    "framework": Meaning("the framework and its release", "NVIDIA NeMo Framework Release 25.09"),
    "other_software_stack": Meaning("libraries and drivers, a name and a version each", "cuda_version: 13.0.1.012"),
    "operating_system": Meaning("the operating system", "Ubuntu 24.04.3 LTS"),
    "sw_notes": Meaning("anything else about the software", "container of October 2025"),
}
"""Every field that a person may fill; those that the configuration decides (system.FROM_THE_RUNS) are left out."""

RECORDED = ("host_processor_model_name", "host_memory_capacity", "framework", "other_software_stack")
"""Fields that run.json fills if a person has not."""
