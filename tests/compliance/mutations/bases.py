"""The valid logs and submissions that mutations are made from; each is made once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from benchmark.mllog import TOKEN
from tests.compliance.mutations.mutation import LogMutation, TreeMutation
from tests.compliance.mutations.trees import CONFIGURE, Tree, make_tree
from tests.logs import LogFile, make_log, reaching


class Bases:
    """Makes valid logs and trees when they are first asked for, and mutated copies of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def log(self, benchmark: str, ruleset: str) -> Path:
        path = self._folder / f"{benchmark}_{ruleset}.txt"
        if not path.exists():
            config = CONFIGURE[benchmark](RULESET=ruleset)
            make_log(path, config, reaching(config))
        return path

    def tree(self, ruleset: str) -> Tree:
        folder = self._folder / f"tree_{ruleset}"
        return Tree(folder / "reference", ruleset) if folder.exists() else make_tree(folder, ruleset)

    def mutated_log(self, mutation: LogMutation, folder: Path) -> Path:
        """A copy of a valid log, mutated."""
        copy = Path(shutil.copy(self.log(mutation.benchmark, mutation.made_for), folder / "result_0.txt"))
        log = LogFile(copy)
        mutation.change(log)
        text = "".join(f"{TOKEN} {json.dumps(event)}\n" for event in log.events)
        copy.write_text(mutation.rewrite(text) if mutation.rewrite else text, encoding="utf-8", newline="")
        return copy

    def mutated_tree(self, mutation: TreeMutation, folder: Path) -> Path:
        """A copy of a valid tree, mutated; the folder that a checker is given."""
        root = shutil.copytree(self.tree(mutation.ruleset).root, folder / "reference")
        mutation.change(Tree(Path(root), mutation.ruleset))
        return Path(root)
