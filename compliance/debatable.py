"""What the rules' texts leave open, how it is judged here, and why: each is a mutation of the tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Debatable:
    """A change of a valid log or submission of which the sources disagree, or say nothing."""

    what: str
    rules: tuple[str, ...]
    """Those of which it is an ERROR; none if it passes."""
    why: str
    """What speaks for it and what against."""


DEBATABLE: dict[str, Debatable] = {
    "8b.evaluates-after-run-stop": Debatable(
        what="An evaluation more after run_stop.",
        rules=("eval.cadence", "eval.stop_at_target", "event.after_stop", "event.sequence"),
        why="What a system does when its clock has stopped breaks no rule; but a run is complete when it stops.",
    ),
    "8b.two-stats-on-a-line": Debatable(
        what="tracked_stats and the next event are on one line.",
        rules=(),
        why="Nothing that a rule asks for is lost, but the log is damaged.",
    ),
    "8b.first-loss-far": Debatable(
        what="The first training loss is 40.",
        rules=(),
        why="No reference initialisation gives it; but it helps nobody, and the text names no number.",
    ),
    "405b.target-lower": Debatable(
        what="target_accuracy is 5.0, though the run stops at 5.6.",
        rules=("hyperparameter.target_accuracy",),
        why="No rule asks for target_accuracy; it contradicts the benchmark's, but the run reached that one.",
    ),
    "8b.cache-cleared-long-ago": Debatable(
        what="The caches were cleared 40 minutes before init_start.",
        rules=(),
        why="The limit counts from when the model begins to be built, which no log shows; published logs have 20 s.",
    ),
    "405b.ranks-50-ms-apart": Debatable(
        what="One event of the run is stamped 50 ms before the one above it.",
        rules=("clock.monotone",),
        why="Published ranks disagree by as much before init_stop only; behind it the score's times are in doubt.",
    ),
    "8b.ranks-50-ms-apart": Debatable(
        what="One event of the run is stamped 50 ms before the one above it.",
        rules=("clock.monotone",),
        why="Published ranks disagree by as much before init_stop only; behind it the score's times are in doubt.",
    ),
    "405b.ranks-3-seconds-apart": Debatable(
        what="init_start is stamped 2.9 seconds before cache_clear of another rank.",
        rules=(),
        why="Ranks' clocks differ so much in accepted logs, but one rank cleared its cache when another had begun.",
    ),
    "8b.block-ends-before-it-starts": Debatable(
        what="A block ends a minute before it starts.",
        rules=("clock.monotone",),
        why="One stamp is wrong, but neither start nor stop of the clock.",
    ),
    "8b.accuracy-last-one-low": Debatable(
        what="The last eval_accuracy alone counts one batch less.",
        rules=(),
        why="Each value is one of two conventions, but one log has both.",
    ),
    "8b.every-1024": Debatable(
        what="Evaluations every 1024 sequences, twelve times as often.",
        rules=("eval.cadence",),
        why="The rule is broken; published logs break it, but not so far, and the advantage grows.",
    ),
    "8b.every-196608": Debatable(
        what="One evaluation in sixteen, every 196608 sequences.",
        rules=("eval.cadence",),
        why="The rule is broken; published logs break it, but not so far; it helps only as evaluations take time.",
    ),
    "405b.first-evaluation-of-reference": Debatable(
        what="The first evaluation is an interval early, as in the reference code.",
        rules=("eval.cadence",),
        why="The text skips one more than the reference implementation (start_eval_at) does.",
    ),
    "405b.old-cadence": Debatable(
        what="A log of 5.0.0 judged by 5.1.0, with evaluations every 46080 sequences from the start.",
        rules=("eval.cadence",),
        why="An unchanged log may be resubmitted (Nebius did), a new one must not look so; nothing tells which.",
    ),
    "tree.claims-success": Debatable(
        what="One run of three ended above the target, and says success.",
        rules=(),
        why="It did not converge, and one such run may be dropped; but its log claims what is not so.",
    ),
    "tree.seed-of-other-line": Debatable(
        what="Two runs have the same seed, from different lines of the code.",
        rules=("result.seeds",),
        why="The words forbid the same line alone; but a moved line makes no run independent.",
    ),
    "tree.other-parallelism": Debatable(
        what="One of three runs has another tensor parallelism.",
        rules=("result.same_configuration",),
        why="The same system and framework; whether a layout is part of the implementation is not said.",
    ),
    "tree.all-of-5.0": Debatable(
        what="All runs have the cadence of 5.0.0, judged by 5.1.0.",
        rules=("eval.cadence",),
        why="Permitted as an unchanged resubmission (Nebius v5.1), wrong as new runs; nothing tells which it is.",
    ),
    "tree.deeper-copy": Debatable(
        what="A copy of the runs lies in a folder beside them.",
        rules=("package.distinct", "result.layout"),
        why="The result itself is where it must be; what else may lie there is not said, and the tool warns.",
    ),
    "tree.within-itself": Debatable(
        what="The whole submission lies in a folder of itself again.",
        rules=(),
        why="The tools never see it; whether a submission may hold another is not said.",
    ),
    "tree.no-benchmarks": Debatable(
        what="No benchmarks/ at all.",
        rules=(),
        why="Code must be submitted, but published logs are passed on without it, and no tool looks.",
    ),
    "tree.no-code-of-one": Debatable(
        what="No code of one benchmark.",
        rules=(),
        why="Code must be submitted, but no tool looks.",
    ),
    "tree.no-readme": Debatable(
        what="An implementation without README.md.",
        rules=(),
        why="The text asks for it in a place that no published submission uses.",
    ),
    "tree.power-nodes-differ": Debatable(
        what="Power logs of one node in one run, of two in the others.",
        rules=(),
        why="One run does not comply, and the tool lets one go; but its power is that of one node of two.",
    ),
    "tree.scaling-too-little": Debatable(
        what="scaling.json says 1.0, where 1.0625 is due.",
        rules=("package.scaling",),
        why="The factor is wrong, but the package checker writes its own, and MLCommons runs it.",
    ),
    "tree.scaling-broken": Debatable(
        what="scaling.json is no JSON.",
        rules=("package.scaling",),
        why="The summarizer crashes, unless the package checker ran before it and deleted the file.",
    ),
    "tree.description-field-twice": Debatable(
        what="A description has a field twice.",
        rules=("system.unreadable",),
        why="Python takes the last one; JSON leaves open which holds.",
    ),
    "tree.division-capital": Debatable(
        what='division is "Closed".',
        rules=("system.division",),
        why="The text's own example; but the tools then check neither seeds nor convergence.",
    ),
}
"""By the name of the mutation."""
