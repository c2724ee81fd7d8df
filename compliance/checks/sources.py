"""The documents in which the rules are written, as findings name them."""

RUN_RESULTS = 'training_rules.adoc, "Run Results"'
"""The limit of initialisation; when the clock starts and stops; that it may not be paused."""
BENCHMARK_RESULTS = 'training_rules.adoc, "Benchmark Results"'
HYPERPARAMETERS = 'training_rules.adoc, "Hyperparameters and Optimizer"'
QUALITY = 'training_rules.adoc, "Quality measure"'
"""The target, and when and on what a run is evaluated."""
CONVERGENCE_POINTS = 'training_rules.adoc, "Reference Convergence Points"'
RANDOM_NUMBERS = 'training_rules.adoc, "Random numbers"'
DATA_STATE = 'training_rules.adoc, "Data State at Start of Run"'
DIVISIONS = 'training_rules.adoc, "Divisions"'
RESUBMISSION = 'training_rules.adoc, "Results Resubmission"'
NUMERICAL_FORMATS = 'training_rules.adoc, "Numerical formats"'
INITIALIZATION = 'training_rules.adoc, "Weight and Bias Initialization"'
LOGGING = "mlcommons/logging, compliance_checker: common.yaml of the ruleset"
LOG_FORMAT = "mlcommons/logging, mllog: one strict JSON object after :::MLLOG"
HARNESS = "this harness: what the checks need to judge a log"
PREFLIGHT = "this harness: what a run needs before it starts"
