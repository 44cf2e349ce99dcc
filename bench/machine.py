"""Describe the machine and the time of a measurement."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path


def description() -> str:
    """Return date, processors, memory, system and Python in a line."""
    models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
              if line.startswith("model name")]  # fmt: skip
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    processor = models[0] if models else platform.machine()
    return (
        f"{time.strftime('%Y-%m-%d', time.gmtime())}, {os.cpu_count()} x {processor}, "
        f"{memory_gib:.0f} GiB, Linux {platform.release().partition('-')[0]}, Python {platform.python_version()}"
    )


def load() -> float:
    """Return the load average of the last minute; a high load makes figures less reliable."""
    return os.getloadavg()[0]
