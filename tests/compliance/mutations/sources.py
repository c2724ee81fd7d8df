"""Where the rules are written: MLCommons' policies, and the code of mlperf_logging that decides."""

from __future__ import annotations


def rules(section: str, words: str) -> str:
    """Words of training_rules.adoc (text of December 2025)."""
    return f'training_rules, "{section}": "{words}"'


def submission(section: str, words: str) -> str:
    """Words of submission_rules.adoc."""
    return f'submission_rules, "{section}": "{words}"'


def official(place: str, what: str) -> str:
    """A place in mlperf_logging (4.1.68)."""
    return f"mlperf_logging, {place}: {what}"


def published(who: str, what: str) -> str:
    """Logs that were accepted in their round."""
    return f"published: {who}: {what}"


EXACTLY_ONE = official("compliance_checker, *.yaml", "REQ: EXACTLY_ONE")
TWICE = official("mlp_compliance.configured_checks", "EXACTLY_ONE found several times with one value is a warning")
NOT_CHECKED = official("compliance_checker, *.yaml", "no such key, or no CHECK of it, and no rule in the policies")
UNKNOWN = official("mlp_compliance.configured_checks", "unknown key - it's allowed, skip to next record")

TABLE = "Hyperparameters"
SEEDS = "Random numbers"
FORMATS = "Numerical formats"
CACHE = rules("Data State at Start of Run", "You must flush the cache or restart the system prior to benchmarking.")
INIT_LIMIT = rules(
    "Run Results", "a maximum model initialization time of 30 minutes for Closed division and 4 hours for Open"
)
NO_PAUSE = rules("Run Results", "The clock may not be paused during the run.")
DATA_AFTER_START = rules("Run Results", "The clock must start before any part of the system touches the dataset")
MAY_STOP = rules("Run Results", "The clock may be stopped as soon as any part of the system determines target accuracy")
CONTIGUOUS = rules("Run Results", "a wall-clock timing measurement for a contiguous period")
RUN = rules("Definitions", "training a model from initialization to the quality target")
FREQUENCY = rules(
    "Quality measure", "must be evaluated at the same frequency ... may be rounded up to the nearest batch size"
)
THOROUGHLY = rules("Quality measure", "at least as thoroughly (in terms of number of tests per set)")
TARGET = rules("Closed Division", "Llama31_8b 3.3 log perplexity; Llama31_405B 5.6 log perplexity")
REPORTING = rules("RCP Rules and Guidelines", "Training samples starting from 0 (integer)")
EXACT_COUNTS = rules(
    "RCP Rules and Guidelines", "To extract submission convergence points, logs should report epochs as follows"
)
OLYMPIC = rules("Benchmark Results", "a single non-converging run may be treated as the slowest run and dropped")
TWO_FAILED = rules("Benchmark Results", "A benchmark result is invalid if there is more than one non-converging run.")
RUNS = rules("Benchmark Results", "Minimum Number of Runs: Small LLM pretraining 10, LLM pretraining 3")
INDEPENDENT = rules("Scoring", "each benchmark submission is composed of a set of N independent runs")
RCP = rules(
    "Reference Convergence Points", "sets a lower bound on epoch convergence that a valid submission should not beat"
)
RCP_FAILURES = rules(
    "Handling RCP Failures", "Submissions with failing RCP tests are rejected by default until the SWG approves"
)
WEIGHTS_405B = rules(
    "Pre-training is not allowed", "should start from the weights provided in the benchmark reference definition"
)
WEIGHTS_8B = rules(
    "Weight and Bias Initialization", "must be initialized using the same constant or random value distribution"
)
OPEN_TABLE = rules(TABLE, "OPEN: Hyperparameters and optimizer may be freely changed.")
OPEN_STOP = rules("Quality measure", "OPEN: An arbitrary stopping criteria may be used")
SAME_SYSTEM = rules(
    "System and framework must be consistent", "The same system and framework must be used for a submission result set."
)
RESUBMISSION = rules(
    "Results Resubmission",
    "permitted only if the system.json matches exactly between both rounds and the resubmitted logs pass",
)
STRUCTURE = submission(
    "Directory structure", "results/<system_desc_id>/<benchmark>/result_<i>.txt; The structure must be followed"
)
NAMES = submission(
    "Directory structure",
    "Benchmark directory names are determined from the benchmark keywords used in logging repository",
)
CONTENT = submission(
    "Submission content", "A submission must contain: Metadata for the systems under test, Code, ... Result logs"
)
METADATA = submission("<system_desc_id>.json metadata", "Meaningful response required: Yes")
POWER = submission("Directory structure", "power # optional power logs; result_<i>/node_<j>.txt")
SEEDS_DIFFER = rules(SEEDS, "no other run can log the same seed on the same line in the same source file")
NORMALIZED = rules(
    "Reference Convergence Points", "normalized to (potentially interpolated) RCP mean epochs for fairness"
)
IN_5_0_ALONE = rules(
    "v5.0 Specific Rules", "1 evaluation (46080 samples) earlier ...; This exception only applies to v5.0"
)
SCALING = rules("Score scaling", "may be scaled if the training committee decides so ... under the name scaling.json")
ONE_FAULT = official(
    "package_checker", "1 file does not comply, accepting; the rule says this of a non-converging run alone"
)
PARAMS = official("package_checker", "a line of package_checker_params is a bypass if it has no line break")
REPOSITORY = official("repo_checker", "no names with a first dot or a space, no file above 50 MB, no broken link")
