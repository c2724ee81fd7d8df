"""A valid submission of an organisation with two systems, and the means to break it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark.config import RunConfig
from tests.compliance.mutations.edits import Edit, evaluated_at, falling, rerun, without
from tests.logs import LogFile, llama31_8b, llama31_405b, make_log, reaching

B405, B8 = "llama31_405b", "llama31_8b"
ALPHA, BETA = "alpha", "beta"

CONFIGURE: dict[str, Callable[..., RunConfig]] = {B405: llama31_405b, B8: llama31_8b}
BENCHMARKS = {"5.0.0": (B405,), "5.1.0": (B405, B8), "6.0.0": (B405, B8), "6.1.0": (B8,)}
"""Those of each ruleset. Source: mlperf_logging, benchmark_meta."""

# After how many sequences each run converges: on average not faster than the reference, so that no score is scaled.
# Source: mlperf_logging, rcp_checker, rcps_<benchmark>.json at these batch sizes (405B: 1152, 8B: 128).
CONVERGED = {
    ("5.0.0", B405): (322560, 322560, 368640),
    ("5.1.0", B405): (294912, 313344, 331776),
    ("6.0.0", B405): (294912, 313344, 331776),
    **{
        (ruleset, B8): (331776, *[344064] * 4, *[356352] * 4, 368640)
        for ruleset, benchmarks in BENCHMARKS.items()
        if B8 in benchmarks
    },
}

# Source: mlperf_logging, system_desc_checker; submission_rules, "<system_desc_id>.json metadata".
DESCRIPTION = {
    "submitter": "reference",
    "division": "closed",
    "status": "Research, Development, or Internal (RDI)",
    "system_name": "",
    "number_of_nodes": "1",
    "host_processors_per_node": "2",
    "host_processor_model_name": "TEST CPU",
    "host_processor_core_count": "32",
    "host_processor_vcpu_count": "",
    "host_processor_frequency": "",
    "host_processor_caches": "",
    "host_processor_interconnect": "",
    "host_memory_capacity": "2 TB",
    "host_storage_type": "NVMe SSD",
    "host_storage_capacity": "30 TB",
    "host_networking": "InfiniBand",
    "host_networking_topology": "Fat tree",
    "host_memory_configuration": "32 x 64 GB",
    "accelerators_per_node": "8",
    "accelerator_model_name": "TEST",
    "accelerator_host_interconnect": "PCIe",
    "accelerator_frequency": "",
    "accelerator_on-chip_memories": "",
    "accelerator_memory_configuration": "HBM3",
    "accelerator_memory_capacity": "80 GB",
    "accelerator_interconnect": "NVLink",
    "accelerator_interconnect_topology": "",
    "cooling": "Air",
    "hw_notes": "",
    "framework": "PyTorch",
    "other_software_stack": "CUDA 13.0",
    "operating_system": "Linux",
    "sw_notes": "",
}


@dataclass(frozen=True)
class Tree:
    """The folder of an organisation."""

    root: Path
    """What a checker is given."""
    ruleset: str

    def result(self, system: str, benchmark: str) -> Path:
        return self.root / "results" / system / benchmark

    def logs(self, system: str, benchmark: str) -> list[Path]:
        paths = self.result(system, benchmark).glob("result_*.txt")
        return sorted(paths, key=lambda path: int(path.stem.rpartition("_")[2]))

    def edit(self, system: str, benchmark: str, change: Edit, *runs: int) -> None:
        """Change the logs of some runs, or of all where none is named."""
        for path in self._chosen(system, benchmark, runs):
            log = LogFile(path)
            change(log)
            log.save()

    def rerun(self, system: str, benchmark: str, at: Callable[[int], list[int]], *runs: int) -> None:
        """Let runs be evaluated elsewhere; the last evaluation reaches the target. Each run keeps its own losses."""
        for nth, path in enumerate(self._chosen(system, benchmark, runs)):
            log = LogFile(path)
            rerun(log, [(count, loss - 1e-5 * nth) for count, loss in falling(log, at(nth))])
            log.save()

    def _chosen(self, system: str, benchmark: str, runs: tuple[int, ...]) -> Iterator[Path]:
        paths = self.logs(system, benchmark)
        yield from (paths[run] for run in runs or range(len(paths)))

    def description(self, system: str) -> Path:
        return self.root / "systems" / f"{system}.json"

    def describe(self, system: str, **fields: object) -> None:
        """Change fields of a description, or remove those that are `...`."""
        path = self.description(system)
        changed = json.loads(path.read_text(encoding="utf-8")) | fields
        path.write_text(json.dumps({name: value for name, value in changed.items() if value is not ...}, indent=1))


def make_tree(folder: Path, ruleset: str) -> Tree:
    """A valid submission: one system with each benchmark of the round, another with its first."""
    tree = Tree(folder / "reference", ruleset)
    benchmarks = BENCHMARKS[ruleset]
    for system, entered in ((ALPHA, benchmarks), (BETA, benchmarks[:1])):
        for benchmark in entered:
            _make_result(tree, system, benchmark)
            implementation = tree.root / "benchmarks" / benchmark / "implementations" / system
            implementation.mkdir(parents=True)
            (implementation / "README.md").write_text(f"# {benchmark} on {system}\n\nbash run_and_time.sh\n")
            (implementation / "run_and_time.sh").write_text("#!/bin/bash\nexec python3 pretrain.py\n")
        tree.description(system).parent.mkdir(exist_ok=True)
        tree.description(system).write_text(json.dumps(DESCRIPTION | {"system_name": system}, indent=1))
    return tree


def _make_result(tree: Tree, system: str, benchmark: str) -> None:
    folder = tree.result(system, benchmark)
    folder.mkdir(parents=True)
    config = CONFIGURE[benchmark](RULESET=tree.ruleset)
    model = make_log(folder / "model", config, reaching(config))
    first, second, *_ = evaluated_at(LogFile(model))
    for run, converged in enumerate(CONVERGED[tree.ruleset, benchmark]):
        log = LogFile(Path(shutil.copy(model, folder / f"result_{run}.txt")))
        # Both systems and all runs have their own seed, curve and hour.
        own = 100 * (system == BETA) + run
        log.set("seed", 1000 + own)
        without("tracked_stats")(log)
        at = [*range(first, converged + 1, second - first)]
        rerun(log, [(count, loss - 1e-5 * own) for count, loss in falling(log, at)])
        for event in log.events:
            event["time_ms"] += own * 40_000_000
        log.save()
    model.unlink()
