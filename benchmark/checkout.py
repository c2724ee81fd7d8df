"""The folders of this code, which runs from a checkout of the repository or was installed by pip without one."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the packages."""

IS_CHECKOUT = (ROOT / "run_and_time.sh").is_file()
"""Whether the scripts and configs lie in the same folder as the packages."""

CONFIGS = ROOT / "configs" if IS_CHECKOUT else Path()
"""The folder of the system configs, where new ones are written too."""

RESULTS = ROOT / "results" if IS_CHECKOUT else Path("results")
"""The folder where results are written: in the checkout or, without one, in the current folder."""
