"""Whether this code runs from a checkout of the repository, or was installed by pip without one."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the packages."""

IS_CHECKOUT = (ROOT / "run_and_time.sh").is_file()
"""True where the scripts and the configs are in the same folder as the packages."""

CONFIGS = ROOT / "configs" if IS_CHECKOUT else Path()
"""The folder of the system configs. New configs are written here, too."""

RESULTS = ROOT / "results" if IS_CHECKOUT else Path("results")
"""Results are written here: into the checkout, or without one into the current folder."""
