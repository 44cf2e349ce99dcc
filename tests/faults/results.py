"""What a long run measured: printed, and kept as JSON lines in FAULT_RESULTS where that names a file."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path


def report(what: str, **figures: object) -> None:
    """Say what was measured. Times and rates are of this machine, and of whatever else it did meanwhile."""
    line = json.dumps({"measured": what, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **figures})
    print(line)  # noqa: T201
    if named := os.environ.get("FAULT_RESULTS"):
        with Path(named).open("a") as lines:
            lines.write(line + "\n")
