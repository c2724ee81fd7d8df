"""Runs: real ones on this machine or in a job, and rehearsed ones."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from benchmark.arguments import SETTINGS, PathArgument
from benchmark.checkout import IS_CHECKOUT
from benchmark.config import describe, resolve, resolve_for_nodes
from benchmark.errors import RefusedError
from harness.arguments import CONFIG_FILE, STEP_SECONDS


def require_checkout(verb: str) -> None:
    """Refuse a verb that needs the repository's scripts, if only the packages are installed."""
    if not IS_CHECKOUT:
        raise RefusedError(
            f"`llama31 {verb}` needs a checkout of the repository, but this llama31 is installed in {sys.prefix}; in a "
            f"checkout: `bash setup.sh`, then `.venv/bin/llama31 {verb}`"
        )


@click.command(context_settings=SETTINGS)
@CONFIG_FILE
def run(file: Path | None) -> None:
    """Run the configuration of FILE, or of the environment, NEXP times on this machine, and check the results.

    Exit status: 0 a valid result, 1 no valid result, 75 to be continued, 128 + n stopped by signal n.

    \b
    llama31 run config_tiny.sh
    NEXP=3 SEED_BASE=7 llama31 run config_tiny.sh
    """
    require_checkout("run")
    from harness.launch.experiments import run_experiments
    from harness.launch.local import Local

    resolved = resolve(file)
    # The ranks find them there, as they would after `source FILE`.
    os.environ.update(resolved.libraries)
    sys.exit(run_experiments(resolved, Local(resolved.config)))


@click.command(context_settings=SETTINGS)
@click.option("--id", "number", required=True, metavar="$SLURM_JOB_ID")
@click.option("--nodes", "node_list", required=True, metavar="$SLURM_JOB_NODELIST")
@click.option("--restarts", type=int, default=0, metavar="$SLURM_RESTART_COUNT")
def job(number: str, node_list: str, restarts: int) -> None:
    """Run the configuration of the environment NEXP times on the nodes of this Slurm job. run.sub calls this.

    Exit status: as `llama31 run`.

    \b
    source configs/config_<SYSTEM>.sh && sbatch -N "$DGXNNODES" -t "$WALLTIME" run.sub
    """
    require_checkout("job")
    from harness.launch.experiments import run_experiments
    from harness.launch.slurm import Slurm, SlurmJob

    nodes = SlurmJob.find(number, node_list, restarts)
    resolved = resolve_for_nodes(len(nodes.nodes))
    click.echo(describe(resolved))
    sys.exit(run_experiments(resolved, Slurm(resolved.config, nodes)))


@click.command(context_settings=SETTINGS)
@CONFIG_FILE
@click.option("--out", type=PathArgument(), help="Folder for the logs; if not given, one below results/simulated.")
@click.option("--step-seconds", type=STEP_SECONDS, help="Step time to use, instead of the planner's.")
def simulate(file: Path | None, out: Path | None, step_seconds: float | None) -> None:
    """Rehearse the configuration of FILE, or of the environment: the real loop in virtual time, training nothing.

    Its logs go to a folder of their own and are marked as simulated. Every verb that shows them says so.

    \b
    llama31 simulate config_DGX.sh --step-seconds 12
    NEXP=3 llama31 simulate config_DGX.sh --out rehearsal
    """
    from harness.simulate import rehearse

    sys.exit(rehearse(resolve(file), out, step_seconds=step_seconds))
