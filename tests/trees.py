"""The tree of an organisation with one system, small enough for the official tools to judge quickly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.config import RunConfig
from compliance.checks.systems import FIELDS, STATUSES
from tests.logs import LogFile, llama31_8b, llama31_405b, make_log, reaching

SYSTEM = "TEST"


@dataclass(frozen=True)
class Tree:
    """An organisation's tree with one system and all runs of one benchmark; a test may change it."""

    organisation: Path
    benchmark: str
    ruleset: str
    runs: int

    @property
    def result(self) -> Path:
        return self.organisation / "results" / SYSTEM / self.benchmark

    @property
    def description(self) -> Path:
        return self.organisation / "systems" / f"{SYSTEM}.json"

    def log(self, run: int) -> LogFile:
        return LogFile(self.result / f"result_{run}.txt", self.ruleset)

    def miss(self, run: int) -> None:
        """Say of a run that it was aborted above the target."""
        log = self.log(run)
        log.set("eval_accuracy", log.get("target_accuracy")["value"] + 0.1, nth=-1)
        log.get("run_stop")["metadata"]["status"] = "aborted"
        log.save()

    def kill(self, run: int) -> None:
        """Cut a run's log off within its last block."""
        log = self.log(run)
        del log.events[log.indices("block_stop")[-1] :]
        log.save()

    def describe(self, **fields: Any) -> None:
        """Change fields of the description."""
        changed = json.loads(self.description.read_text(encoding="utf-8")) | fields
        self.description.write_text(json.dumps(changed), encoding="utf-8")

    def copy(self, organisation: Path) -> Tree:
        shutil.copytree(self.organisation, organisation)
        return Tree(organisation, self.benchmark, self.ruleset, self.runs)


# Evaluations after which the reference reaches the target.
BASES: dict[str, tuple[Callable[[], RunConfig], int]] = {"405b": (llama31_405b, 3), "8b": (llama31_8b, 28)}


def make_tree(organisation: Path, name: str) -> Tree:
    """A tree that breaks no rule; its logs are without training steps, which no official tool reads."""
    configure, evaluations = BASES[name]
    config = configure()
    tree = Tree(organisation, config.benchmark, config.rules.ruleset, config.rules.runs)
    tree.result.mkdir(parents=True)
    log = LogFile(make_log(organisation / "log", config, reaching(config, evaluations)))
    log.path.unlink()
    log.events = [event for event in log.events if event["key"] != "tracked_stats"]
    curve = [event["value"] for event in log.events if event["key"] == "eval_accuracy"]
    for run in range(tree.runs):
        log.path = tree.result / f"result_{run}.txt"
        log.set("seed", run)
        for nth, value in enumerate(curve):
            log.set("eval_accuracy", value - 0.001 * run, nth)
        log.save()
    tree.description.parent.mkdir()
    tree.description.write_text(json.dumps(dict.fromkeys(FIELDS, "")), encoding="utf-8")
    layout = config.layout
    tree.describe(
        submitter=log.get("submission_org")["value"],
        division=config.submission.division,
        status=STATUSES[log.get("submission_status")["value"]],
        number_of_nodes=str(layout.nodes),
        host_processors_per_node="2",
        accelerators_per_node=str(layout.gpus_per_node),
    )
    implementation = organisation / "benchmarks" / tree.benchmark / "implementations"
    implementation.mkdir(parents=True)
    (implementation / "README.md").touch()
    return tree
