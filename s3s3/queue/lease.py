"""Lease clock and write permission for a claimed job."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

from ..errors import LeaseLost

#: Return a monotonic time for lease deadlines, in s. On Linux it includes the time in suspend (clock_gettime(2)).
boottime_s = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(slots=True, eq=False)
class Lease:
    """The lease of a claimed job, checked before each write by calling it.

    `until_s` is when it expires, by `boottime_s`; a renewal changes it.
    """

    until_s: float

    def __call__(self) -> None:
        """Return if a write is permitted now. Raises LeaseLost if the lease expired or another worker owns the job."""
        if boottime_s() >= self.until_s:
            raise LeaseLost("lease expired: another worker may own this job now")

    def lose(self) -> None:
        """Permit no more writes: another worker owns the job."""
        self.until_s = 0.0
