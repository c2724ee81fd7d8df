"""llama31 <verb>: the entry point of every command.

Exit status of every verb: 0 done or passed, 1 a check failed, 2 wrong usage or unusable input.
"""

from __future__ import annotations

import sys

from harness.early import end_on_signals

if sys.argv[1:2] in (["run"], ["job"]):
    # First of all: the imports below take half a second, in which Ctrl-C would print a traceback.
    end_on_signals()

from dataclasses import dataclass
from importlib import import_module

import click

from benchmark import __version__
from benchmark.arguments import SETTINGS, Verbs


@dataclass(frozen=True)
class Verb:
    """Names the module of a verb, which is imported only when the verb is used, and its help in one line."""

    module: str
    name: str
    help: str


VERBS = {
    "run": Verb("harness.verbs.runs", "run", "Run a configuration on this machine, and check the results."),
    "job": Verb("harness.verbs.runs", "job", "Run a configuration in a Slurm job; run.sub calls this."),
    "show": Verb("harness.verbs.configs", "show", "Print a configuration: values, origins, what follows."),
    "variables": Verb("harness.verbs.configs", "variables", "Explain one variable of a configuration, or all."),
    "config": Verb("harness.verbs.configs", "config", "Write the config of a system."),
    "plan": Verb("harness.plan.command", "plan", "Predict memory, step time and minutes to the target."),
    "dryrun": Verb("harness.verbs.dryrun", "dryrun", "Run the GPU code of any rank without a GPU: does it fit?"),
    "simulate": Verb("harness.verbs.runs", "simulate", "Rehearse a configuration in virtual time, training nothing."),
    "preflight": Verb("harness.verbs.review", "preflight", "Check a configuration before it runs."),
    "submission": Verb("harness.verbs.submission", "submission", "Name the submitter and the system."),
    "check": Verb("compliance.__main__", "check", "Check logs against the rules; exit 1 if one is broken."),
    "score": Verb("harness.verbs.review", "score", "Print minutes to the target, raw and normalised."),
    "rcp": Verb("harness.verbs.review", "rcp", "Compare convergence with the reference."),
    "official": Verb("harness.verbs.review", "official", "Run the official mlperf_logging tools on a copy."),
    "report": Verb("harness.verbs.results", "report", "Write a page of results: verdicts, scores, curves, speed."),
    "diff": Verb("harness.verbs.results", "diff", "Compare two results or logs; differences come first."),
    "curves": Verb("harness.verbs.results", "curves", "Write curves as CSV, or for TensorBoard."),
    "watch": Verb("harness.verbs.results", "watch", "Follow a log as it grows."),
    "package": Verb("harness.verbs.results", "package", "Choose the runs that count and write a submission."),
    "rules": Verb("harness.verbs.review", "rules", "Explain one rule, or all of them."),
    "data": Verb("harness.verbs.data", "data", "Download, make, check and index datasets."),
    "checkpoint": Verb("harness.verbs.checkpoint", "checkpoint", "Inspect, convert and verify initial weights."),
    "doctor": Verb("harness.verbs.doctor", "doctor", "Print what a bug report needs and what is missing."),
}


class FrontDoor(Verbs):
    """Lists its verbs without importing them."""

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
