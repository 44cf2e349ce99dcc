"""Lease clock and write permission for a claimed job."""

from __future__ import annotations

import time

from ..errors import LeaseLost

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime_s() -> float:
    """Return a monotonic time for lease deadlines. On Linux it includes the time in suspend (clock_gettime(2))."""
    return time.clock_gettime(_CLOCK)


class Lease:
    """The lease of a claimed job, checked before each write by calling it.

    Args:
        until_s: when it expires, by `boottime_s`; a renewal changes it.
    """

    __slots__ = ("until_s",)

    def __init__(self, until_s: float) -> None:
        self.until_s = until_s

    def __call__(self) -> None:
        """Return if a write is permitted now.

        Raises:
            LeaseLost: the lease has expired, or another worker owns the job.
        """
        if boottime_s() >= self.until_s:
            raise LeaseLost("lease expired: another worker may own this job now")

    def lose(self) -> None:
        """Permit no more writes: another worker owns the job."""
        self.until_s = 0.0
