"""Checks on this machine what the start of a run would refuse: data, weights, and the folders that it writes to.

A job checks the same on its nodes, inside their containers, once it has them; here the check costs no allocation.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from benchmark.checkpoints import KEPT, bytes_of_one
from benchmark.errors import RefusedError
from benchmark.files import existing_above, why_unwritable
from compliance.checks.rule import AbsentError, Breach, Rulebook
from compliance.checks.sources import PREFLIGHT
from compliance.findings import Finding, Severity
from harness.preflight import PlannedRuns
from reference_impl.checkpoint.source import usable_checkpoint
from reference_impl.data.read.configured import quick_faults
from reference_impl.ready import links_to_nowhere, require_initial_weights

HERE_RULES: Rulebook[PlannedRuns] = Rulebook()
rule = HERE_RULES.rule


def check_here(plan: PlannedRuns) -> tuple[Finding, ...]:
    """Return every finding about a run of the plan on this machine. It raises nothing and leaves no files behind."""
    return HERE_RULES.judge(plan)


@rule("preflight.index", source=PREFLIGHT, example="NPY_INDEX_DIR in a folder that is read-only")
def index(plan: PlannedRuns) -> Iterator[Breach]:
    """The shuffled index can be written to NPY_INDEX_DIR."""
    folder = plan.config.data.index_dir
    if folder is not None and (reason := why_unwritable(folder)):
        yield Breach(message=f"NPY_INDEX_DIR={folder} cannot be written", actual=reason)


@rule("preflight.dataset", source=PREFLIGHT, example="a .bin file of another size than the published one")
def dataset(plan: PlannedRuns) -> Iterator[Breach]:
    """The dataset and the tokenizer are the benchmark's, by the sizes of files; their bytes are a run's to compare."""
    config = plan.config
    folder = config.data.data_dir
    # Missing data is a finding of preflight.data.
    if folder is None and config.benchmark_row.dataset.files is not None:
        raise AbsentError("DATADIR")
    if folder is not None and not folder.is_dir():
        raise AbsentError("DATADIR")
    command = f"llama31 data verify --quick --expect {config.benchmark} {folder}"
    expected = "" if folder is None else f"what `{command}` accepts"
    yield from (Breach(message=fault, expected=expected) for fault in quick_faults(config))


@rule("preflight.weights", source=PREFLIGHT, example="LOAD_CHECKPOINT not set for 405B, or with the weights of 8B")
def weights(plan: PlannedRuns) -> Iterator[Breach]:
    """The initial weights are there, whole, and those of the benchmark's model; they are not read."""
    config = plan.config
    try:
        require_initial_weights(config)
        if config.data.load_checkpoint is not None:
            usable_checkpoint(config)
    except RefusedError as error:
        command = f"llama31 checkpoint inspect {config.data.load_checkpoint or 'FOLDER'}"
        expected = f"initial weights of {config.benchmark}; `{command}` shows what is there"
        yield from (Breach(message=fault, expected=expected) for fault in error.faults)


@rule("preflight.links", source=PREFLIGHT, example="DATADIR of links into a disk that is not mounted here")
def links(plan: PlannedRuns) -> Iterator[Breach]:
    """The targets of links in DATADIR and LOAD_CHECKPOINT exist."""
    yield from (Breach(message=fault) for fault in links_to_nowhere(plan.config))


@rule(
    "preflight.checkpoints",
    source=PREFLIGHT,
    example="SAVE_CHECKPOINT with room for one checkpoint; for two, but not for those of all runs, is a WARNING",
)
def checkpoints(plan: PlannedRuns) -> Iterator[Breach]:
    """SAVE_CHECKPOINT can be written and has room: for two checkpoints, and for those that finished runs leave."""
    config, folder = plan.config, plan.config.job.save_checkpoint
    if folder is None:
        return
    if reason := why_unwritable(folder):
        yield Breach(message=f"SAVE_CHECKPOINT={folder} cannot be written", actual=reason)
        return
    each, state = bytes_of_one(config)
    runs = config.job.experiments
    free = shutil.disk_usage(existing_above(folder)).free
    wanted = runs * KEPT + 1 if config.job.save_interval is not None else runs + 1
    least = min(wanted, KEPT)
    if free < wanted * each:
        yield Breach(
            message=f"SAVE_CHECKPOINT={folder} has no room for {least if free < least * each else wanted} checkpoints",
            expected=(
                f"{wanted * each:,} bytes: {wanted} x {each:,}, which are {each // state:,} parameters x {state}; "
                f"{runs} run{'s' if runs > 1 else ''} may leave {wanted - 1}, and one is being written"
            ),
            actual=f"{free:,} bytes free",
            severity=Severity.ERROR if free < least * each else Severity.WARNING,
        )
