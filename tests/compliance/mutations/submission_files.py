"""Mutations of where files lie in a submission, of its power logs, and of its scaling.json."""

from __future__ import annotations

import json
import os
import shutil

from tests.compliance.mutations.mutation import Label, of_tree
from tests.compliance.mutations.sources import (
    CONTENT,
    NAMES,
    NORMALIZED,
    POWER,
    REPOSITORY,
    SCALING,
    STRUCTURE,
    official,
    submission,
)
from tests.compliance.mutations.tree_edits import (
    A8,
    A405,
    B_405,
    TreeEdit,
    converging,
    in_turn,
    power,
    remove,
    rename,
    write,
)
from tests.compliance.mutations.trees import ALPHA, B8, B405, BETA, Tree

PASS, REJECT, OFFICIAL, DEBATABLE = Label.PASS, Label.REJECT, Label.OFFICIAL, Label.DEBATABLE

IMPLEMENTATION = f"benchmarks/{B405}/implementations/{ALPHA}"
EACH_RUN = official("power_checker", "a folder for each result, as many node files in each")
NODES = official("result_summarizer._compute_total_power", "asserts that there are node files")

slightly_fast = converging(B405, 294912)


def _deeper(tree: Tree) -> None:
    for run, path in enumerate(tree.logs(ALPHA, B405)):
        folder = path.parent / f"run_{run}"
        folder.mkdir()
        path.rename(folder / "result_0.txt")


def _copy_deeper(tree: Tree) -> None:
    folder = tree.result(ALPHA, B405) / "older"
    folder.mkdir()
    for path in tree.logs(ALPHA, B405):
        shutil.copy(path, folder)


def _higher(tree: Tree) -> None:
    for path in tree.logs(BETA, B405):
        path.rename(path.parents[1] / path.name)
    tree.result(BETA, B405).rmdir()


def _within_itself(tree: Tree) -> None:
    copy = shutil.copytree(tree.root, tree.root.parent / "copy")
    shutil.move(copy, tree.root / "backup")


def _folder(name: str) -> TreeEdit:
    return lambda tree: (tree.root / name).mkdir()


def _link_to_nowhere(name: str) -> TreeEdit:
    return lambda tree: (tree.root / name).symlink_to("/nowhere/at/all")


def _big_file(tree: Tree) -> None:
    path = tree.root / IMPLEMENTATION / "weights.bin"
    path.touch()
    os.truncate(path, 51 * 1024 * 1024)


def _power_without_events(tree: Tree) -> None:
    power(runs=3)(tree)
    for path in tree.result(ALPHA, B405).glob("power/*/*.txt"):
        path.write_text("")


def _scaling(factor: float) -> TreeEdit:
    return write(f"{A405}/scaling.json", json.dumps({"scaling_factor": factor}))


SUBMISSION_FILES = (
    # Logs.
    of_tree(
        "deeper", "Each log of a result lies in a folder of its own (run_0/result_0.txt).", _deeper, REJECT, STRUCTURE
    ),
    of_tree(
        "deeper-one",
        "One log of ten lies one folder deeper.",
        rename(f"{A8}/result_9.txt", f"{A8}/again/result_9.txt"),
        REJECT,
        STRUCTURE,
    ),
    of_tree(
        "deeper-copy",
        "A copy of the runs lies in a folder beside them.",
        _copy_deeper,
        DEBATABLE,
        STRUCTURE,
    ),
    of_tree(
        "deeper-by-implementation",
        "A folder of the implementation lies between benchmark and logs.",
        in_turn(rename(B_405, "moved"), rename("moved", f"{B_405}/pytorch")),
        REJECT,
        STRUCTURE,
    ),
    of_tree(
        "higher", "The logs of a system lie in its folder, without one of the benchmark.", _higher, REJECT, STRUCTURE
    ),
    of_tree(
        "folder-as-log",
        "result_2.txt is a folder, which is empty.",
        in_turn(remove(f"{A405}/result_2.txt"), _folder(f"{A405}/result_2.txt")),
        REJECT,
        f"{STRUCTURE}; {official('package_checker', 'opening a folder raises')}",
    ),
    of_tree(
        "folder-with-log",
        "result_9.txt is a folder with the log in it.",
        in_turn(rename(f"{A8}/result_9.txt", "moved"), rename("moved", f"{A8}/result_9.txt/result_9.txt")),
        REJECT,
        STRUCTURE,
    ),
    of_tree(
        "folder-beside-logs",
        "A folder result_3.txt lies beside three logs.",
        _folder(f"{A405}/result_3.txt"),
        OFFICIAL,
        official("package_checker", "Incorrect number of files in dir"),
    ),
    of_tree(
        "log-link-to-nowhere",
        "One log is a link to nowhere.",
        in_turn(remove(f"{A405}/result_2.txt"), _link_to_nowhere(f"{A405}/result_2.txt")),
        REJECT,
        REPOSITORY,
    ),
    # Names of folders.
    of_tree(
        "benchmark-capital",
        "The folder of a result is called llama31_405B.",
        rename(A405, f"results/{ALPHA}/llama31_405B"),
        REJECT,
        NAMES,
    ),
    of_tree(
        "benchmark-dotted",
        "The folder of a result is called llama3.1_8b.",
        rename(A8, f"results/{ALPHA}/llama3.1_8b"),
        REJECT,
        NAMES,
    ),
    of_tree(
        "benchmarks-swapped",
        "The folders of two benchmarks have each other's name.",
        in_turn(rename(A8, "moved"), rename(A405, A8), rename("moved", A405)),
        REJECT,
        NAMES,
    ),
    of_tree(
        "system-renamed",
        "The folder of a system's results has another name than its description.",
        rename(f"results/{BETA}", "results/Beta"),
        REJECT,
        STRUCTURE,
    ),
    # What else lies there.
    of_tree(
        "other-folder",
        "A folder of notes lies beside the results of a system.",
        write(f"results/{ALPHA}/notes/README.md", "notes\n"),
        OFFICIAL,
        official("result_summarizer.Summary.push", "asserts that the folder's name is a column, so a benchmark"),
    ),
    of_tree(
        "file-in-results",
        "A README lies in results/.",
        write("results/README.md", "results\n"),
        PASS,
        official("package_checker", "looks at folders alone"),
    ),
    of_tree(
        "private-id",
        "A privateid.json lies in a system's results.",
        write(f"results/{ALPHA}/privateid.json", '{"private_id": "juliet-eleven-carbon-mike"}'),
        PASS,
        official("result_summarizer", "writes it"),
    ),
    of_tree(
        "hidden-file",
        "A file .DS_Store lies in benchmarks/.",
        write(f"benchmarks/{B405}/.DS_Store", "x"),
        OFFICIAL,
        REPOSITORY,
    ),
    of_tree(
        "space-in-name",
        "A file has a space in its name.",
        write(f"{IMPLEMENTATION}/run me.sh", "exit\n"),
        OFFICIAL,
        REPOSITORY,
    ),
    of_tree("big-file", "A file of 51 MB lies in benchmarks/.", _big_file, OFFICIAL, REPOSITORY),
    of_tree(
        "link-to-nowhere",
        "A link to nowhere lies in benchmarks/.",
        _link_to_nowhere(f"{IMPLEMENTATION}/data"),
        OFFICIAL,
        REPOSITORY,
    ),
    of_tree(
        "within-itself",
        "The whole submission lies in a folder of itself again.",
        _within_itself,
        DEBATABLE,
        STRUCTURE,
    ),
    # What is missing.
    of_tree("no-results", "No results at all.", remove("results"), REJECT, CONTENT),
    of_tree(
        "no-benchmarks",
        "No benchmarks/ at all.",
        remove("benchmarks"),
        DEBATABLE,
        CONTENT,
    ),
    of_tree(
        "no-code-of-one",
        "No code of one benchmark.",
        remove(f"benchmarks/{B8}"),
        DEBATABLE,
        CONTENT,
    ),
    of_tree(
        "no-readme",
        "An implementation without README.md.",
        remove(f"{IMPLEMENTATION}/README.md"),
        DEBATABLE,
        submission("Directory structure", "<system_desc_id>/README.md"),
    ),
    # Power logs.
    of_tree("power", "Power logs for all runs.", power(runs=3), PASS, POWER),
    of_tree("power-two-of-three", "Power logs for two of three runs.", power(runs=2), OFFICIAL, f"{EACH_RUN}; {NODES}"),
    of_tree("power-eight-of-ten", "Power logs for eight of ten runs.", power(B8, runs=8), OFFICIAL, EACH_RUN),
    of_tree(
        "power-nine-of-ten", "Power logs for nine of ten runs.", power(B8, runs=9), OFFICIAL, f"{EACH_RUN}; {NODES}"
    ),
    of_tree(
        "power-empty",
        "An empty folder power/.",
        _folder(f"{A405}/power"),
        OFFICIAL,
        official("power_checker.check_equals", "max() of nothing raises ValueError"),
    ),
    of_tree(
        "power-misnamed", "Folders of power logs are called run_0 ...", power(runs=3, folder="run_{run}"), REJECT, POWER
    ),
    of_tree(
        "power-node-by-letter",
        "Power logs of nodes are called node_a.txt.",
        power(runs=3, file="node_a.txt"),
        OFFICIAL,
        official("power_checker", "int('a') raises ValueError"),
    ),
    of_tree(
        "power-nodes-differ",
        "Power logs of one node in one run, of two in the others.",
        power(runs=3, nodes=(1, 2)),
        DEBATABLE,
        EACH_RUN,
    ),
    of_tree(
        "power-nodes-all-differ",
        "Power logs of one, two and three nodes in three runs.",
        power(runs=3, nodes=(1, 2, 3)),
        OFFICIAL,
        EACH_RUN,
    ),
    of_tree(
        "power-without-events",
        "Power logs are empty files.",
        _power_without_events,
        OFFICIAL,
        official("result_summarizer._compute_power_node", "Power start timestamp not found"),
    ),
    # Scaling.
    of_tree("scaling-one", "scaling.json says 1.0, where nothing is to be scaled.", _scaling(1.0), PASS, SCALING),
    of_tree("scaling-half", "scaling.json halves the score.", _scaling(0.5), REJECT, SCALING),
    of_tree(
        "scaling-as-due",
        "scaling.json says the factor that is due.",
        in_turn(slightly_fast, _scaling(313344 / 294912)),
        PASS,
        NORMALIZED,
    ),
    of_tree(
        "scaling-not-yet",
        "A factor is due, and no scaling.json is there yet.",
        slightly_fast,
        PASS,
        official("package_checker", "writes scaling.json itself"),
    ),
    of_tree(
        "scaling-too-little",
        "scaling.json says 1.0, where 1.0625 is due.",
        in_turn(slightly_fast, _scaling(1.0)),
        DEBATABLE,
        NORMALIZED,
    ),
    of_tree(
        "scaling-broken",
        "scaling.json is no JSON.",
        write(f"{A405}/scaling.json", "{"),
        DEBATABLE,
        SCALING,
    ),
)
