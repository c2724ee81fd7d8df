"""All mutations, and the labels that were changed since."""

from __future__ import annotations

from tests.compliance.mutations.clock import CLOCK
from tests.compliance.mutations.evaluations import EVALUATIONS
from tests.compliance.mutations.hyperparameters import HYPERPARAMETERS
from tests.compliance.mutations.log_events import LOG_EVENTS
from tests.compliance.mutations.mutation import Changed, Label, LogMutation, TreeMutation
from tests.compliance.mutations.open_division import OPEN_DIVISION
from tests.compliance.mutations.submission_files import SUBMISSION_FILES
from tests.compliance.mutations.submission_runs import SUBMISSION_RUNS
from tests.compliance.mutations.submission_systems import SUBMISSION_SYSTEMS
from tests.compliance.mutations.training import TRAINING

LOGS: tuple[LogMutation, ...] = (*LOG_EVENTS, *TRAINING, *HYPERPARAMETERS, *CLOCK, *EVALUATIONS, *OPEN_DIVISION)
TREES: tuple[TreeMutation, ...] = (*SUBMISSION_RUNS, *SUBMISSION_FILES, *SUBMISSION_SYSTEMS)
CHANGED = (
    Changed(
        id="tree.other-folder",
        before=Label.PASS,
        after=Label.OFFICIAL,
        why="The package checker skips the folder with a warning, but the summarizer takes its name for a benchmark's, "
        "and an assertion fails because its table has no such column.",
    ),
    Changed(
        id="8b.no-blocks",
        before=Label.DEBATABLE,
        after=Label.REJECT,
        why="Misread: block_start stands in for eval_start, not the other way; blocks or epochs are required.",
    ),
    *(
        Changed(
            id=f"{benchmark}.ranks-50-ms-apart",
            before=Label.PASS,
            after=Label.DEBATABLE,
            why="Published logs run backwards before init_stop only; this one does in its run.",
        )
        for benchmark in ("405b", "8b")
    ),
)
