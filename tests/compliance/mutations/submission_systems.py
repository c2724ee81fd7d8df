"""Mutations of descriptions of systems, and of divisions."""

from __future__ import annotations

import shutil

from tests.compliance.mutations.edits import put, without
from tests.compliance.mutations.mutation import Label, of_tree
from tests.compliance.mutations.sources import (
    CONTENT,
    METADATA,
    OPEN_TABLE,
    RCP,
    SAME_SYSTEM,
    SEEDS,
    SEEDS_DIFFER,
    TABLE,
    TWO_FAILED,
    official,
    published,
    rules,
    submission,
)
from tests.compliance.mutations.submission_runs import too_fast
from tests.compliance.mutations.tree_edits import (
    TreeEdit,
    describe,
    in_turn,
    logs_of,
    not_converged,
    opened,
    remove,
    write,
)
from tests.compliance.mutations.trees import ALPHA, B405, BETA, Tree

PASS, REJECT, OFFICIAL, DEBATABLE = Label.PASS, Label.REJECT, Label.OFFICIAL, Label.DEBATABLE

JOINED = official("system_desc_checker", "the fields of a row are joined as texts")
COUNTED = official("result_summarizer", "int(host_processors_per_node) * int(number_of_nodes), and so the accelerators")
IS_CLOSED = official("package_checker", "seeds and convergence are checked where contents['division'] == 'closed'")
EVERY_DESCRIPTION = official("package_checker.check_systems", "every systems/*.json is checked")
ONE_DIVISION = rules("Definitions", "A division is a set of rules for implementing benchmarks")
STATUS = official("system_desc_checker", "status must be one of four")

DESCRIPTION = f"systems/{ALPHA}.json"


def _with_byte_order_mark(tree: Tree) -> None:
    path = tree.description(ALPHA)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def _cooling_twice(tree: Tree) -> None:
    path = tree.description(ALPHA)
    path.write_text(path.read_text(encoding="utf-8").replace("{", '{"cooling": "Water",', 1), encoding="utf-8")


def _spare(**fields: object) -> TreeEdit:
    """The description of a third system, without results."""

    def edit(tree: Tree) -> None:
        shutil.copy(tree.description(BETA), tree.description("gamma"))
        tree.describe("gamma", system_name="gamma", **fields)

    return edit


SUBMISSION_SYSTEMS = (
    of_tree("no-description", "A system has no description.", remove(DESCRIPTION), REJECT, CONTENT),
    of_tree("no-systems", "No systems/ at all.", remove("systems"), REJECT, CONTENT),
    of_tree(
        "description-cut",
        "A description is cut off.",
        write(DESCRIPTION, '{"submitter": "reference",'),
        REJECT,
        METADATA,
    ),
    of_tree("description-list", "A description is a list.", write(DESCRIPTION, '["reference"]'), REJECT, METADATA),
    of_tree("description-empty", "A description is an empty file.", write(DESCRIPTION, ""), REJECT, METADATA),
    of_tree(
        "description-byte-order-mark",
        "A description begins with a byte order mark.",
        _with_byte_order_mark,
        OFFICIAL,
        official("package_checker", "json.load refuses it"),
    ),
    of_tree(
        "description-field-twice",
        "A description has a field twice.",
        _cooling_twice,
        DEBATABLE,
        METADATA,
    ),
    of_tree(
        "field-missing",
        "A description has no cooling.",
        describe(cooling=...),
        REJECT,
        official("system_desc_checker", "Missing field cooling"),
    ),
    of_tree(
        "field-more",
        "A description has a field of its own.",
        describe(boot_firmware_version="1.2"),
        PASS,
        published("AMD v5.1", "50 fields"),
    ),
    of_tree(
        "software-as-object",
        "other_software_stack is an object.",
        describe(other_software_stack={"CUDA": "13.0"}),
        PASS,
        published("NVIDIA v5.0 and v5.1", "an object"),
    ),
    of_tree(
        "accelerators-integer",
        "accelerators_per_node is the number 8.",
        describe(accelerators_per_node=8),
        OFFICIAL,
        JOINED,
    ),
    of_tree(
        "cores-integer",
        "host_processor_core_count is the number 32.",
        describe(host_processor_core_count=32),
        OFFICIAL,
        JOINED,
    ),
    of_tree("framework-null", "framework is null.", describe(framework=None), REJECT, METADATA),
    of_tree(
        "nodes-integer",
        "number_of_nodes is the number 1.",
        describe(number_of_nodes=1),
        PASS,
        official("result_summarizer", "int(1), and it is joined to no text"),
    ),
    of_tree("nodes-empty", "number_of_nodes is empty.", describe(number_of_nodes=""), REJECT, f"{METADATA}; {COUNTED}"),
    of_tree(
        "processors-empty",
        "host_processors_per_node is empty.",
        describe(host_processors_per_node=""),
        REJECT,
        f"{METADATA}; {COUNTED}",
    ),
    of_tree(
        "processors-word",
        'host_processors_per_node is "two".',
        describe(host_processors_per_node="two"),
        REJECT,
        f"{METADATA}; {COUNTED}",
    ),
    of_tree(
        "processors-decimal",
        'host_processors_per_node is "2.0".',
        describe(host_processors_per_node="2.0"),
        OFFICIAL,
        COUNTED,
    ),
    of_tree(
        "accelerators-with-name",
        'accelerators_per_node is "8x".',
        describe(accelerators_per_node="8x"),
        OFFICIAL,
        COUNTED,
    ),
    of_tree("status-short", 'status is "onprem".', describe(status="onprem"), REJECT, STATUS),
    of_tree("status-preview", 'status is "Preview".', describe(status="Preview"), PASS, STATUS),
    of_tree(
        "submitter-other",
        "submitter is not the submission_org of the logs.",
        describe(submitter="another"),
        PASS,
        published("Verda v5.1 8B", "SUBMISSION_ORG_PLACEHOLDER in the logs"),
    ),
    of_tree("spare-description", "A description of a system without results.", _spare(), PASS, EVERY_DESCRIPTION),
    of_tree(
        "spare-description-bad",
        "A description of a system without results lacks a field.",
        _spare(framework=...),
        OFFICIAL,
        EVERY_DESCRIPTION,
    ),
    of_tree(
        "spare-description-broken",
        "A description of a system without results is no JSON.",
        write("systems/gamma.json", "{'submitter'}"),
        OFFICIAL,
        EVERY_DESCRIPTION,
    ),
    of_tree(
        "too-few-accelerators",
        "The logs' layout needs eight accelerators, the system has four.",
        describe(accelerators_per_node="4"),
        REJECT,
        f"{SAME_SYSTEM}; a batch is micro-batch * accumulation * data-parallel size",
    ),
    of_tree(
        "too-wide",
        "A tensor parallelism of 16 on eight accelerators.",
        logs_of(ALPHA, B405, put("tensor_parallelism", 16)),
        REJECT,
        SAME_SYSTEM,
    ),
    # Divisions.
    of_tree(
        "division-capital",
        'division is "Closed".',
        describe(division="Closed"),
        DEBATABLE,
        f"{submission('<system_desc_id>.json metadata', 'division: closed, Closed, Open')}; {IS_CLOSED}",
    ),
    of_tree(
        "division-capital-one-seed",
        'division is "Closed", and all seeds are one.',
        in_turn(describe(division="Closed"), logs_of(ALPHA, B405, put("seed", 1))),
        REJECT,
        f"{SEEDS_DIFFER}; {IS_CLOSED}",
    ),
    of_tree(
        "division-capital-too-fast",
        'division is "Closed", and 8B converges too fast.',
        in_turn(describe(division="Closed"), too_fast),
        REJECT,
        f"{RCP}; {IS_CLOSED}",
    ),
    of_tree(
        "division-other",
        'division is "network".',
        describe(division="network"),
        REJECT,
        rules(
            "Divisions", "There are two divisions of the benchmark suite, the Closed division and the Open division."
        ),
    ),
    of_tree(
        "open-system-closed-logs",
        "The description says open, the logs closed.",
        describe(division="open"),
        REJECT,
        ONE_DIVISION,
    ),
    of_tree(
        "closed-system-open-logs",
        "The description says closed, the logs open, with a learning rate of 5e-3.",
        logs_of(
            BETA, B405, lambda log: (put("submission_division", "open")(log), put("opt_base_learning_rate", 5e-3)(log))
        ),
        REJECT,
        rules(TABLE, "CLOSED: By default, the hyperparameters must be the same as the reference."),
    ),
    of_tree(
        "open-one-log",
        "One log of three says open.",
        logs_of(ALPHA, B405, put("submission_division", "open"), 1),
        REJECT,
        ONE_DIVISION,
    ),
    of_tree(
        "open",
        "One system is in the open division, with another learning rate.",
        opened(put("opt_base_learning_rate", 1e-4)),
        PASS,
        OPEN_TABLE,
    ),
    of_tree(
        "open-no-seeds",
        "One system is in the open division, without seeds.",
        opened(without("seed")),
        PASS,
        rules(SEEDS, "OPEN: ... The seed is not expected to be logged."),
    ),
    of_tree(
        "open-fast",
        "One system is in the open division, and converges at once.",
        in_turn(opened(), lambda tree: tree.rerun(BETA, B405, lambda run: [11520, 23040])),
        PASS,
        f"{IS_CLOSED}; reference points bind the closed division",
    ),
    of_tree(
        "open-failed-two",
        "One system is in the open division, and two of three runs did not converge.",
        in_turn(opened(), logs_of(BETA, B405, not_converged, 0, 1)),
        REJECT,
        TWO_FAILED,
    ),
    of_tree(
        "open-8b-6.1",
        "One system is in the open division with 8B, stopped at 3.3.",
        opened(),
        OFFICIAL,
        official("open_llama31_8b.yaml", "v < 1.0"),
        ruleset="6.1.0",
    ),
)
