"""How long the attacks go on: briefly in `make test`, for about FAULT_MINUTES in `make faults`.

What can go on has a share of the run: the soak half of it, two sicknesses a third, everything in any order a fifth, and
all the others a twentieth. What has an end of its own takes its time whatever is asked, some eight minutes altogether.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from itertools import count


def minutes() -> float:
    """The long form's length; 0 in the short form."""
    return float(os.environ.get("FAULT_MINUTES") or 0)


def duration_s(short_s: float, share: float) -> float:
    """How long a test that can go on for ever is to go on: `share` of the long form."""
    return max(short_s, 60 * minutes() * share)


def rounds(share: float, at_least: int = 1) -> Iterator[int]:
    """Number the rounds that a test is to make: as many as begin within `share` of the long form."""
    end_s = time.monotonic() + duration_s(0, share)
    for number in count():
        if number >= at_least and time.monotonic() >= end_s:
            return
        yield number


def amount(short: int, each_minute: int, most: int) -> int:
    """How many a test is to send of what it sends at once: more the longer the run, up to what it is about."""
    return min(max(short, int(each_minute * minutes())), most)
