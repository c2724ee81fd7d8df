"""Reads what a config file exports. bash sources it, so that it means the same here as in a user's own shell."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from benchmark.checkout import ROOT
from benchmark.config.run_config import NAMES, WINDOWS_LINES, ConfigError, unknown_names


def config_files(checkout: Path = ROOT) -> list[Path]:
    """Return the configs of a checkout, one for each system, without the files that they share."""
    found = (path for folder in (checkout, checkout / "configs") for path in folder.glob("config_*.sh"))
    return sorted(path for path in found if path.name != "config_common.sh")


def sourced_file(environment: Mapping[str, str]) -> Path | None:
    """Return the config of this checkout that was sourced into an environment, known by the names it exports."""
    name = environment.get("CONFIG_FILENAME") or f"config_{environment.get('DGXSYSTEM')}.sh"
    return next((path for path in config_files() if path.name == name), None)


def source_config(path: Path, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that `source path` exports on top of `environment`: new ones and changed ones.

    A variable of ours that it unsets, because another config had set it, is returned empty, which means the same.

    Raises:
        ConfigError: the file is missing, fails, or ends the shell.
    """
    if not path.is_file():
        known = ", ".join(str(config.relative_to(ROOT)) for config in config_files())
        raise ConfigError([f"config file {path} does not exist; in {ROOT}: {known}"])
    if b"\r" in path.read_bytes():
        raise ConfigError([f"{path} has {WINDOWS_LINES}"])
    before = {name: value for name, value in environment.items() if not name.startswith("BASH_FUNC_")}
    # env -0 after the file, so that values with newlines and quotes survive.
    script = 'set -euo pipefail; set -a; source "$1"; exec env -0'
    # Lines on standard output of the file itself would corrupt the list: send them to standard error.
    done = subprocess.run(
        ["bash", "-c", f"exec 3>&1 1>&2; {script} >&3", "bash", str(path.resolve())],
        env=before,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )
    if done.returncode != 0:
        raise ConfigError([f"sourcing {path} failed with status {done.returncode}: {done.stderr.strip()}"])
    if not done.stdout:
        raise ConfigError([f"{path} ends the shell that sources it; expected a file that only exports variables"])
    after = dict(entry.split("=", 1) for entry in done.stdout.split("\0") if "=" in entry)
    shell_noise = {"_", "SHLVL", "PWD", "OLDPWD"}
    changed = {name: value for name, value in after.items() if name not in shell_noise and before.get(name) != value}
    return changed | {name: "" for name in NAMES if before.get(name) and name not in after}


def unknown_exports(path: Path, exported: Mapping[str, str]) -> list[str]:
    """Return a fault for each name that a config file exports and nothing reads."""
    return [f"{path.name}: {fault}" for fault in unknown_names(exported, complete=True)]
