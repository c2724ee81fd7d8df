"""Mutations of the runs of a result: whether they converged, how many, how independent, how fast."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.compliance.mutations.edits import all_of, batches, counts, from_then_on, put, target_of, without
from tests.compliance.mutations.hyperparameters import at_batch
from tests.compliance.mutations.mutation import Label, of_tree
from tests.compliance.mutations.sources import (
    EXACT_COUNTS,
    IN_5_0_ALONE,
    INDEPENDENT,
    NORMALIZED,
    OLYMPIC,
    ONE_FAULT,
    PARAMS,
    RCP,
    RCP_FAILURES,
    RESUBMISSION,
    RUNS,
    SAME_SYSTEM,
    SEEDS,
    SEEDS_DIFFER,
    STRUCTURE,
    TWO_FAILED,
    official,
    published,
    rules,
)
from tests.compliance.mutations.tree_edits import (
    A8,
    A405,
    converging,
    copied,
    in_turn,
    killed,
    logs_of,
    not_converged,
    remove,
    rename,
    write,
)
from tests.compliance.mutations.trees import ALPHA, B8, B405, BETA, Tree
from tests.logs import LogFile

PASS, REJECT, OFFICIAL, DEBATABLE = Label.PASS, Label.REJECT, Label.OFFICIAL, Label.DEBATABLE

FILE_COUNT = official("package_checker", "Incorrect number of files in dir")

# Sequences, below what the reference allows on average at a global batch size of 128.
too_fast = converging(B8, 294912)


def _claims_success(log: LogFile) -> None:
    log.set("eval_accuracy", target_of(log) + 0.2, -1)


def _cut_line(tree: Tree) -> None:
    path = tree.logs(ALPHA, B405)[2]
    text = path.read_text(encoding="utf-8")
    path.write_text(text[: text.rindex("run_stop") + 20], encoding="utf-8")


def _fourth(tree: Tree) -> None:
    path = tree.result(ALPHA, B405) / "result_3.txt"
    log = LogFile(Path(shutil.copy(tree.logs(ALPHA, B405)[0], path)))
    log.set("seed", 4711)
    log.set("eval_accuracy", target_of(log) - 0.02, -1)
    log.save()


def _same_seed_elsewhere(log: LogFile) -> None:
    log.set("seed", 1000)
    log.get("seed")["metadata"]["lineno"] += 1


def _of_the_other_system(tree: Tree) -> None:
    for path in tree.logs(ALPHA, B405):
        shutil.copy(path, tree.result(BETA, B405) / path.name)


def _of_another_benchmark(tree: Tree) -> None:
    shutil.copy(tree.logs(ALPHA, B8)[0], tree.logs(ALPHA, B405)[2])


def _at_6912(tree: Tree) -> None:
    tree.edit(BETA, B405, at_batch(6912))
    for run in range(3):
        tree.edit(BETA, B405, put("eval_accuracy", 5.59 - run / 1000, -1), run)


def _like_5_0(tree: Tree, *runs: int) -> None:
    """Runs with the cadence of 5.0.0."""
    tree.rerun(ALPHA, B405, lambda run: [*range(46080, 322560 + 46080 * (run == 2) + 1, 46080)], *runs)


SUBMISSION_RUNS = (
    # One run that did not converge, or two.
    of_tree(
        "failed-one-405b",
        "One run of three ended above the target, and says aborted.",
        logs_of(ALPHA, B405, not_converged, 1),
        PASS,
        OLYMPIC,
    ),
    of_tree(
        "failed-one-8b",
        "One run of ten ended above the target, and says aborted.",
        logs_of(ALPHA, B8, not_converged, 4),
        PASS,
        OLYMPIC,
    ),
    of_tree(
        "killed-one-405b",
        "The log of one run of three ends within a block.",
        logs_of(ALPHA, B405, killed, 2),
        PASS,
        OLYMPIC,
    ),
    of_tree(
        "killed-one-8b-6.1",
        "The log of one run of ten ends within a block.",
        logs_of(ALPHA, B8, killed, 9),
        PASS,
        OLYMPIC,
        ruleset="6.1.0",
    ),
    of_tree(
        "failed-one-in-each",
        "One run of each result did not converge.",
        in_turn(
            logs_of(ALPHA, B405, not_converged, 0),
            logs_of(ALPHA, B8, not_converged, 0),
            logs_of(BETA, B405, not_converged, 0),
        ),
        PASS,
        OLYMPIC,
    ),
    of_tree(
        "failed-two-405b",
        "Two runs of three did not converge.",
        logs_of(ALPHA, B405, not_converged, 0, 2),
        REJECT,
        TWO_FAILED,
    ),
    of_tree(
        "failed-two-8b",
        "Two runs of ten did not converge.",
        logs_of(ALPHA, B8, not_converged, 0, 9),
        REJECT,
        TWO_FAILED,
    ),
    of_tree(
        "failed-one-killed-one",
        "One run of ten was aborted, another killed.",
        in_turn(logs_of(ALPHA, B8, not_converged, 3), logs_of(ALPHA, B8, killed, 7)),
        REJECT,
        TWO_FAILED,
    ),
    of_tree(
        "claims-success",
        "One run of three ended above the target, and says success.",
        logs_of(ALPHA, B405, _claims_success, 1),
        DEBATABLE,
        OLYMPIC,
    ),
    of_tree(
        "cut-one",
        "The log of one run of three is cut off within a line.",
        _cut_line,
        OFFICIAL,
        official("seed_checker", "Found parsing errors"),
    ),
    of_tree("empty-one", "The log of one run of three is empty.", write(f"{A405}/result_2.txt", ""), REJECT, RUNS),
    of_tree(
        "wrong-one-405b",
        "One run of three has another weight decay.",
        logs_of(ALPHA, B405, put("opt_adamw_weight_decay", 0.0), 1),
        REJECT,
        ONE_FAULT,
    ),
    of_tree(
        "wrong-one-8b",
        "One run of ten has sequences of 4096 tokens.",
        logs_of(ALPHA, B8, put("max_sequence_length", 4096), 6),
        REJECT,
        ONE_FAULT,
    ),
    of_tree(
        "failed-one-wrong-one",
        "One run of ten did not converge, another has another clip norm.",
        in_turn(logs_of(ALPHA, B8, not_converged, 3), logs_of(ALPHA, B8, put("opt_gradient_clip_norm", 2.0), 7)),
        REJECT,
        ONE_FAULT,
    ),
    # How many.
    of_tree("four-logs", "Four runs of 405B.", _fourth, REJECT, f"{RUNS}; {FILE_COUNT}"),
    of_tree("two-logs", "Two runs of 405B.", remove(f"{A405}/result_1.txt"), REJECT, RUNS),
    of_tree("nine-logs", "Nine runs of 8B.", remove(f"{A8}/result_0.txt"), REJECT, RUNS, ruleset="5.1.0"),
    of_tree(
        "log-misnamed",
        "One of three logs is called result_2.log.",
        rename(f"{A405}/result_2.txt", f"{A405}/result_2.log"),
        REJECT,
        f"{STRUCTURE}; {FILE_COUNT}",
    ),
    of_tree(
        "log-by-letter",
        "One of three logs is called result_a.txt.",
        rename(f"{A405}/result_2.txt", f"{A405}/result_a.txt"),
        PASS,
        official("package_checker", "glob result_*.txt"),
    ),
    of_tree(
        "logs-from-one",
        "The logs are numbered from 1.",
        rename(f"{A405}/result_0.txt", f"{A405}/result_3.txt"),
        PASS,
        STRUCTURE,
    ),
    of_tree(
        "other-file-beside",
        "A file out.txt lies beside the logs.",
        write(f"{A405}/out.txt", "epoch 1\n"),
        PASS,
        official("package_checker", "Unknown files in result directory is a warning"),
    ),
    # Independent of each other.
    of_tree(
        "seed-repeated-405b",
        "Two runs have the same seed.",
        logs_of(ALPHA, B405, put("seed", 1000), 1),
        REJECT,
        SEEDS_DIFFER,
    ),
    of_tree(
        "seed-repeated-8b-6.1",
        "Two runs of ten have the same seed.",
        logs_of(ALPHA, B8, put("seed", 1000), 9),
        REJECT,
        SEEDS_DIFFER,
        ruleset="6.1.0",
    ),
    of_tree(
        "seed-repeated-as-text",
        'Two runs have the same seed, one as the text "01000".',
        logs_of(ALPHA, B405, put("seed", "01000"), 1),
        REJECT,
        SEEDS_DIFFER,
    ),
    of_tree(
        "seed-of-other-line",
        "Two runs have the same seed, from different lines of the code.",
        logs_of(ALPHA, B405, _same_seed_elsewhere, 1),
        DEBATABLE,
        SEEDS_DIFFER,
    ),
    of_tree(
        "seeds-of-other-system",
        "Both systems use the same three seeds.",
        in_turn(*(logs_of(BETA, B405, put("seed", 1000 + run), run) for run in range(3))),
        PASS,
        official("seed_checker", "looks at the runs of one result"),
    ),
    of_tree(
        "no-seed-in-one",
        "One run of ten has no seed.",
        logs_of(ALPHA, B8, without("seed"), 5),
        REJECT,
        rules(SEEDS, "We expect all runs to log at least one seed."),
    ),
    of_tree("copied", "One log is there twice.", copied(B405), REJECT, SEEDS_DIFFER),
    of_tree(
        "copied-new-seed",
        "One log is there twice, with another seed.",
        copied(B8, put("seed", 4711)),
        REJECT,
        INDEPENDENT,
    ),
    of_tree(
        "copied-new-day",
        "One log is there twice, with another seed and a day later.",
        copied(B405, put("seed", 4711), from_then_on("cache_clear", 86_400)),
        REJECT,
        INDEPENDENT,
    ),
    of_tree(
        "copied-from-other-system", "One system has the logs of the other.", _of_the_other_system, REJECT, SAME_SYSTEM
    ),
    # Of one implementation.
    of_tree(
        "other-benchmark",
        "One of three logs of 405B is of 8B.",
        _of_another_benchmark,
        REJECT,
        official("rcp_checker", "Benchmark names in files do not match."),
    ),
    of_tree(
        "other-batch",
        "One of three runs has another global batch size.",
        logs_of(ALPHA, B405, at_batch(1280), 2),
        REJECT,
        official("rcp_checker", "Batch sizes in files do not match."),
    ),
    of_tree(
        "other-rate",
        "One of ten runs has another learning rate.",
        logs_of(ALPHA, B8, all_of(put("opt_base_learning_rate", 0.001), put("opt_end_learning_rate", 0.0001)), 3),
        REJECT,
        f"{INDEPENDENT}; of one benchmark implementation",
    ),
    of_tree(
        "other-parallelism",
        "One of three runs has another tensor parallelism.",
        logs_of(ALPHA, B405, all_of(put("tensor_parallelism", 2), put("gradient_accumulation_steps", 288)), 2),
        DEBATABLE,
        f"{INDEPENDENT}; {SAME_SYSTEM}",
    ),
    of_tree(
        "other-platform",
        "One of three runs names another platform.",
        logs_of(ALPHA, B405, put("submission_platform", "1xOTHER"), 2),
        REJECT,
        SAME_SYSTEM,
    ),
    of_tree(
        "one-of-5.0",
        "One of three runs has the cadence of 5.0.0.",
        lambda tree: _like_5_0(tree, 1),
        REJECT,
        rules("Quality measure", "Llama31_405B: Every 18432 sequences"),
    ),
    of_tree(
        "all-of-5.0",
        "All runs have the cadence of 5.0.0, judged by 5.1.0.",
        _like_5_0,
        DEBATABLE,
        RESUBMISSION,
        ruleset="5.1.0",
    ),
    of_tree(
        "one-without-org",
        "One of three logs has no submission_org and submission_platform, as in 5.0.0.",
        logs_of(ALPHA, B405, without("submission_org", "submission_platform"), 0),
        REJECT,
        ONE_FAULT,
    ),
    # Convergence.
    of_tree(
        "too-fast-8b", "8B converges after 294912 sequences, below the reference's minimum.", too_fast, REJECT, RCP
    ),
    of_tree(
        "too-fast-8b-6.1",
        "8B converges after 294912 sequences, below the reference's minimum.",
        too_fast,
        REJECT,
        RCP,
        ruleset="6.1.0",
    ),
    of_tree(
        "too-fast-405b",
        "405B converges after 276480 sequences, below the policy's minimum of 285344.",
        converging(B405, 276480),
        REJECT,
        f"{RCP}; {IN_5_0_ALONE}",
    ),
    of_tree(
        "early-405b-5.0",
        "405B converges after 276480 sequences in 5.0.0, one evaluation early.",
        converging(B405, 276480),
        PASS,
        IN_5_0_ALONE,
        ruleset="5.0.0",
    ),
    of_tree(
        "too-fast-405b-5.0",
        "405B converges after 230400 sequences in 5.0.0.",
        converging(B405, 230400),
        REJECT,
        RCP,
        ruleset="5.0.0",
    ),
    of_tree(
        "fast-8b",
        "8B converges after 331776 sequences: faster than the mean, above the minimum.",
        converging(B8, 331776),
        PASS,
        NORMALIZED,
    ),
    of_tree(
        "too-fast-hidden",
        "8B converges too fast, but eval_accuracy counts four intervals more.",
        in_turn(too_fast, logs_of(ALPHA, B8, counts(lambda log, count: count + 49152, "eval_accuracy"))),
        REJECT,
        f"{EXACT_COUNTS}; {RCP}",
    ),
    of_tree(
        "accuracy-one-low-5.1",
        "eval_accuracy of all runs of 8B counts one batch less.",
        logs_of(ALPHA, B8, counts(batches(-1), "eval_accuracy")),
        PASS,
        published("AMD v5.1 8B", "all ten runs"),
        ruleset="5.1.0",
    ),
    of_tree(
        "accuracy-one-high",
        "eval_accuracy of all runs of 8B counts one batch more.",
        logs_of(ALPHA, B8, counts(batches(1), "eval_accuracy")),
        REJECT,
        EXACT_COUNTS,
    ),
    of_tree(
        "batch-without-reference",
        "A global batch size of 6912, above all reference points of the round.",
        _at_6912,
        REJECT,
        rules(
            "Reference Convergence Points",
            "larger than the batch size of any RCP the submitter must provide the missing RCPs",
        ),
    ),
    # Bypasses.
    of_tree(
        "bypass-too-fast",
        "8B converges too fast, and package_checker_params says rcp-bypass.",
        in_turn(too_fast, write(f"{A8}/package_checker_params", "rcp-bypass")),
        REJECT,
        f"{RCP_FAILURES}; {PARAMS}",
    ),
    of_tree(
        "bypass-too-fast-of-system",
        "8B converges too fast, and package_checker_params of the system says rcp-bypass.",
        in_turn(too_fast, write(f"results/{ALPHA}/package_checker_params", "rcp-bypass")),
        REJECT,
        f"{RCP_FAILURES}; {PARAMS}",
    ),
    of_tree(
        "bypass-too-fast-with-line-break",
        "8B converges too fast, and package_checker_params says rcp-bypass and a line break.",
        in_turn(too_fast, write(f"{A8}/package_checker_params", "rcp-bypass\n")),
        REJECT,
        f"{RCP_FAILURES}; {PARAMS}",
    ),
    of_tree(
        "bypass-too-fast-at-root",
        "8B converges too fast, and package_checker_params at the root says rcp-bypass.",
        in_turn(too_fast, write("package_checker_params", "rcp-bypass")),
        REJECT,
        RCP_FAILURES,
    ),
    of_tree(
        "bypass-unneeded",
        "package_checker_params says rcp-bypass where nothing is too fast.",
        write(f"{A405}/package_checker_params", "rcp-bypass"),
        PASS,
        rules("RCP Rules and Guidelines", "the option to submit with the --rcp_bypass parameter"),
    ),
    of_tree(
        "seed-bypass",
        "All seeds are one, and package_checker_params says seed-checker-bypass.",
        in_turn(logs_of(ALPHA, B405, put("seed", 1)), write(f"{A405}/package_checker_params", "seed-checker-bypass")),
        REJECT,
        f"{SEEDS_DIFFER}; {PARAMS}",
    ),
    of_tree(
        "seed-bypass-unneeded",
        "package_checker_params says seed-checker-bypass where seeds differ.",
        write(f"results/{ALPHA}/package_checker_params", "seed-checker-bypass"),
        PASS,
        PARAMS,
    ),
    of_tree(
        "params-of-nothing",
        "package_checker_params says --rcp-bypass, which means nothing.",
        write(f"{A405}/package_checker_params", "--rcp-bypass\n"),
        PASS,
        PARAMS,
    ),
)
