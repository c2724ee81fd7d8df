"""Cases that the texts of the rules leave open: how each is judged here, and why. Each is a mutation of the tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Debatable:
    """A change of a valid log or submission about which the sources disagree or are silent."""

    what: str
    """The change."""
    rules: tuple[str, ...]
    """Ids of the rules under which it is an ERROR; none if it passes."""
    why: str
    """The arguments on both sides."""


DEBATABLE: dict[str, Debatable] = {
    "8b.evaluates-after-run-stop": Debatable(
        what="One more evaluation after run_stop.",
        rules=("eval.cadence", "eval.stop_at_target", "event.after_stop", "event.sequence"),
        why="No rule forbids what a system does after its clock has stopped. But a run is complete when it stops.",
    ),
    "8b.two-stats-on-a-line": Debatable(
        what="tracked_stats and the next event are on one line.",
        rules=(),
        why="The log is damaged, but nothing that a rule asks for is lost.",
    ),
    "8b.first-loss-far": Debatable(
        what="The first training loss is 40.",
        rules=(),
        why="No reference initialisation gives such a loss. But it is not an advantage, and the text names no number.",
    ),
    "405b.target-lower": Debatable(
        what="target_accuracy is 5.0, though the run stops at 5.6.",
        rules=("hyperparameter.target_accuracy",),
        why="The value contradicts the benchmark. But no rule asks for the key, and the run reached the true target.",
    ),
    "8b.cache-cleared-long-ago": Debatable(
        what="The caches were cleared 40 minutes before init_start.",
        rules=(),
        why="The limit counts from when building the model begins, which no log shows. Published logs have 20 s.",
    ),
    "405b.ranks-50-ms-apart": Debatable(
        what="One event of the run is stamped 50 ms before the one above it.",
        rules=("clock.monotone",),
        why="Ranks in published logs disagree as much, but only before init_stop. After it, the score is in doubt.",
    ),
    "8b.ranks-50-ms-apart": Debatable(
        what="One event of the run is stamped 50 ms before the one above it.",
        rules=("clock.monotone",),
        why="Ranks in published logs disagree as much, but only before init_stop. After it, the score is in doubt.",
    ),
    "405b.ranks-3-seconds-apart": Debatable(
        what="init_start is stamped 2.9 seconds before cache_clear of another rank.",
        rules=(),
        why="Clocks of ranks differ as much in accepted logs. But one rank cleared its cache after another had begun.",
    ),
    "8b.block-ends-before-it-starts": Debatable(
        what="A block ends a minute before it starts.",
        rules=("clock.monotone",),
        why="One time is wrong, but it is neither the start nor the stop of the run.",
    ),
    "8b.accuracy-last-one-low": Debatable(
        what="Only the last eval_accuracy counts one batch less.",
        rules=(),
        why="Each value follows one of two known conventions, but one log mixes them.",
    ),
    "8b.every-1024": Debatable(
        what="Evaluations every 1024 samples, twelve times as often.",
        rules=("eval.cadence",),
        why="The rule is broken. Published logs break it less, and the advantage grows with how far it is broken.",
    ),
    "8b.every-196608": Debatable(
        what="One evaluation in sixteen, every 196608 samples.",
        rules=("eval.cadence",),
        why="The rule is broken. Published logs break it less; the only advantage is the time of the evaluations.",
    ),
    "405b.first-evaluation-of-reference": Debatable(
        what="The first evaluation is one interval early, as in the reference code.",
        rules=("eval.cadence",),
        why="The text skips one evaluation more than the reference implementation (start_eval_at) does.",
    ),
    "405b.old-cadence": Debatable(
        what="A log of 5.0.0 judged by 5.1.0, with evaluations every 46080 samples from the start.",
        rules=("eval.cadence",),
        why="An old log may be submitted again (Nebius, v5.1), a new run must not do so. Nothing tells them apart.",
    ),
    "tree.claims-success": Debatable(
        what="One run of three ended above the target, but its status is success.",
        rules=(),
        why="One run that did not converge may be dropped. But the log of this one claims that it did.",
    ),
    "tree.seed-of-other-line": Debatable(
        what="Two runs have the same seed, from different lines of the code.",
        rules=("result.seeds",),
        why="The text only forbids the same line. But logging the seed elsewhere does not make a run independent.",
    ),
    "tree.other-parallelism": Debatable(
        what="One run of three has another tensor parallelism.",
        rules=("result.same_configuration",),
        why="System and framework are the same. No text says whether the layout is part of the implementation.",
    ),
    "tree.all-of-5.0": Debatable(
        what="All runs have the cadence of 5.0.0, judged by 5.1.0.",
        rules=("eval.cadence",),
        why="Allowed for old logs submitted again (Nebius, v5.1), wrong for new runs. Nothing tells them apart.",
    ),
    "tree.deeper-copy": Debatable(
        what="A copy of the runs lies in another folder of the result.",
        rules=("package.distinct", "result.layout"),
        why="The result is where it must be. No text says what else may lie there, and the tool warns.",
    ),
    "tree.within-itself": Debatable(
        what="The submission has a copy of itself in one of its folders.",
        rules=(),
        why="The tools never see the copy. No text says whether a submission may hold another.",
    ),
    "tree.no-benchmarks": Debatable(
        what="The submission has no benchmarks/.",
        rules=(),
        why="Code must be submitted. But no tool looks for it, and published logs are passed on without it.",
    ),
    "tree.no-code-of-one": Debatable(
        what="The submission has no code for one benchmark.",
        rules=(),
        why="Code must be submitted, but no tool looks for it.",
    ),
    "tree.no-readme": Debatable(
        what="An implementation without README.md.",
        rules=(),
        why="The text asks for that file in a place that no published submission uses.",
    ),
    "tree.power-nodes-differ": Debatable(
        what="One run has power logs of one node, the others of two.",
        rules=(),
        why="The tool tolerates one run that does not comply. But its power is that of one node of two.",
    ),
    "tree.scaling-too-little": Debatable(
        what="The factor in scaling.json is 1.0; the runs give 1.0625.",
        rules=("package.scaling",),
        why="The factor is wrong. But the package checker, which MLCommons runs, overwrites it.",
    ),
    "tree.scaling-broken": Debatable(
        what="scaling.json is not JSON.",
        rules=("package.scaling",),
        why="The summarizer crashes unless the package checker, run before it, has deleted the file.",
    ),
    "tree.description-field-twice": Debatable(
        what="A description has a field twice.",
        rules=("system.unreadable",),
        why="Python takes the last one. The standard of JSON does not say which one holds.",
    ),
    "tree.division-capital": Debatable(
        what='division is "Closed".',
        rules=("system.division",),
        why="The text's own example has it. But the tools then check neither seeds nor convergence.",
    ),
}
"""Name of the mutation -> how it is judged."""
