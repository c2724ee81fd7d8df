"""llama31 <verb>: the front door.

Exit status of every verb: 0 done or passed, 1 a check failed, 2 wrong usage or something that cannot be used.
"""

from __future__ import annotations

import sys

from harness.early import end_on_signals

if sys.argv[1:2] in (["run"], ["job"]):
    # Before all else: what is imported below takes half a second, in which Ctrl-C would be a traceback.
    end_on_signals()

from dataclasses import dataclass
from importlib import import_module

import click

from benchmark import __version__
from benchmark.arguments import SETTINGS, Verbs


@dataclass(frozen=True)
class Verb:
    """Names the module of a verb, which is imported only when somebody types the verb, and its help in one line."""

    module: str
    name: str
    help: str


VERBS = {
    "run": Verb("harness.verbs.runs", "run", "Run a configuration on this machine, and check the results."),
    "job": Verb("harness.verbs.runs", "job", "Run it on the nodes of this Slurm job: what run.sub calls."),
    "show": Verb("harness.verbs.configs", "show", "Print a configuration: each value, its origin, what follows."),
    "variables": Verb("harness.verbs.configs", "variables", "Print a variable of a configuration, or all, in words."),
    "config": Verb("harness.verbs.configs", "config", "Write the config of a system."),
    "plan": Verb("harness.plan.command", "plan", "Does it fit, how long is a step, how long to the target?"),
    "dryrun": Verb("harness.verbs.dryrun", "dryrun", "Run the GPU code of any rank on a null device: does it fit?"),
    "simulate": Verb("harness.verbs.runs", "simulate", "Rehearse a configuration in virtual time, training nothing."),
    "preflight": Verb("harness.verbs.review", "preflight", "Check a configuration before it runs."),
    "submission": Verb("harness.verbs.submission", "submission", "Say who submits, and on what system."),
    "check": Verb("compliance.__main__", "check", "Check logs against the rules; exit 1 if one is broken."),
    "score": Verb("harness.verbs.review", "score", "Minutes to the target, raw and normalised."),
    "rcp": Verb("harness.verbs.review", "rcp", "Convergence against the reference."),
    "official": Verb("harness.verbs.review", "official", "Ask the official mlperf_logging tools, on a copy."),
    "report": Verb("harness.verbs.results", "report", "Write a page of results: verdicts, scores, curves, speed."),
    "diff": Verb("harness.verbs.results", "diff", "Two results side by side: what differs, first."),
    "curves": Verb("harness.verbs.results", "curves", "Write curves as CSV, or for TensorBoard."),
    "watch": Verb("harness.verbs.results", "watch", "Follow a log as it grows."),
    "package": Verb("harness.verbs.results", "package", "Choose the runs that count, and write a submission's tree."),
    "rules": Verb("harness.verbs.review", "rules", "Print a rule, or all of them, in words."),
    "data": Verb("harness.verbs.data", "data", "Datasets: prepare, download, verify, inspect, index."),
    "checkpoint": Verb("harness.verbs.checkpoint", "checkpoint", "Initial weights: inspect, convert, export, verify."),
    "doctor": Verb("harness.verbs.doctor", "doctor", "Print what a bug report needs, and what is missing here."),
}


class FrontDoor(Verbs):
    """Knows its verbs without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        verb = VERBS.get(cmd_name)
        return None if verb is None else getattr(import_module(verb.module), verb.name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Verbs"):
            formatter.write_dl([(name, verb.help) for name, verb in VERBS.items()])


@click.group(cls=FrontDoor, context_settings=SETTINGS)
@click.version_option(__version__, "-V", "--version", prog_name="llama31")
def main() -> None:
    """MLPerf Llama 3.1 pretraining: run it, judge it, plan it, submit it.

    \b
    llama31 run config_tiny.sh
    llama31 check results/
    llama31 plan --gpu GB300 --gpus 512 --precision nvfp4
    llama31 VERB -h          what a verb does, with examples
    """


if __name__ == "__main__":
    main(prog_name="llama31")
