"""What a run measured: printed (`pytest -s` shows it), and kept as JSON lines in FAULT_RESULTS where that is set."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path


def report(what: str, **figures: object) -> None:
    """Print a measurement. Times and rates depend on this machine and its other load."""
    figure_lines = [f"    {name.replace('_', ' ')}: {figure}" for name, figure in figures.items()]
    print("\n".join(["", what, *figure_lines]))  # noqa: T201
    if named := os.environ.get("FAULT_RESULTS"):
        line = {"measured": what, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **figures}
        with Path(named).open("a") as lines:
            lines.write(json.dumps(line) + "\n")
