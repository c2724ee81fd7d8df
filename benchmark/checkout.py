"""Where this code lies: in a checkout of the repository, or where pip has installed it without one."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the packages."""

IS_CHECKOUT = (ROOT / "run_and_time.sh").is_file()
"""Whether the scripts, the configs and the submission's own code lie beside the packages."""

CONFIGS = ROOT / "configs" if IS_CHECKOUT else Path()
"""Where the configs of systems are, and a new one goes."""

RESULTS = ROOT / "results" if IS_CHECKOUT else Path("results")
"""Where results go: beside the code, or below the folder that one works in."""
