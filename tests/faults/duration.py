"""Duration of the fault tests: short in `make test ARGS=--long`, about FAULT_MINUTES in `make faults`.

Each open-ended test has a share of the run: the soak half of it, two failing destinations a third, the state machine a
fifth, and each other one a twentieth. Tests of fixed length take about eight minutes in all.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from functools import cache
from itertools import count


def minutes() -> float:
    """The long form's length; 0 in the short form."""
    return float(os.environ.get("FAULT_MINUTES") or 0)


@cache
def first_seed() -> int:
    """The seed of the first round: FAULT_SEED, or else 0 in the short form and a random one in the long form."""
    named = os.environ.get("FAULT_SEED")
    return int(named) if named else random.randrange(10**6) if minutes() else 0


def duration_s(short_s: float, share: float) -> float:
    """The duration of an open-ended test: `share` of the long form."""
    return max(short_s, 60 * minutes() * share)


def rounds(share: float, at_least: int = 1) -> Iterator[int]:
    """Number the rounds that a test is to make: as many as begin within `share` of the long form."""
    end_s = time.monotonic() + duration_s(0, share)
    for number in count():
        if number >= at_least and time.monotonic() >= end_s:
            return
        yield number


def amount(short: int, per_minute: int, largest: int) -> int:
    """The number of items that a test sends: more in longer runs, up to `largest`."""
    return min(max(short, int(per_minute * minutes())), largest)
