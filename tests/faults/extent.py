"""How long the attacks go on: briefly in `make test`, for FAULT_MINUTES in `make faults`."""

from __future__ import annotations

import os


def minutes() -> float:
    """The long form's length; 0 in the short form."""
    return float(os.environ.get("FAULT_MINUTES") or 0)


def duration_s(short_s: float, share: float) -> float:
    """How long a test that can go on for ever is to go on: `share` of the long form."""
    return max(short_s, 60 * minutes() * share)


def examples(short: int, each_minute: int) -> int:
    """How many examples hypothesis is to try, or rounds a test is to make: more the longer the run."""
    return max(short, int(each_minute * minutes()))
