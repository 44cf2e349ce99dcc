"""The lease's clock, and whether a job is still ours."""

from __future__ import annotations

import time

from ..errors import LeaseLost

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime_s() -> float:
    """Return seconds on a clock that never jumps and, on Linux, goes on while the machine sleeps (clock_gettime(2))."""
    return time.clock_gettime(_CLOCK)


class Lease:
    """A claim's lease in its own process. Calling it permits a write now, or raises LeaseLost."""

    __slots__ = ("until_s",)

    def __init__(self, until_s: float) -> None:
        self.until_s = until_s

    def __call__(self) -> None:
        """Permit a write now.

        Raises:
            LeaseLost: the lease is over, or somebody else has the job.
        """
        if boottime_s() >= self.until_s:
            raise LeaseLost("the lease on this job is over: it is somebody else's now")

    def lose(self) -> None:
        """Somebody else has the job: nothing more is permitted."""
        self.until_s = 0.0
