"""All mutations, and the labels that were changed since."""

from __future__ import annotations

from tests.compliance.mutations.clock import CLOCK
from tests.compliance.mutations.evaluations import EVALUATIONS
from tests.compliance.mutations.hyperparameters import HYPERPARAMETERS
from tests.compliance.mutations.log_events import LOG_EVENTS
from tests.compliance.mutations.mutation import Changed, LogMutation, TreeMutation
from tests.compliance.mutations.open_division import OPEN_DIVISION
from tests.compliance.mutations.submission_files import SUBMISSION_FILES
from tests.compliance.mutations.submission_runs import SUBMISSION_RUNS
from tests.compliance.mutations.submission_systems import SUBMISSION_SYSTEMS
from tests.compliance.mutations.training import TRAINING

LOGS: tuple[LogMutation, ...] = (*LOG_EVENTS, *TRAINING, *HYPERPARAMETERS, *CLOCK, *EVALUATIONS, *OPEN_DIVISION)
TREES: tuple[TreeMutation, ...] = (*SUBMISSION_RUNS, *SUBMISSION_FILES, *SUBMISSION_SYSTEMS)
CHANGED: tuple[Changed, ...] = ()
