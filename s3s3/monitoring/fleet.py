"""The state of all routes, read from Redis at most every few seconds for any number of clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import RedisUnavailable
from .formatting import time_text
from .snapshot import RouteSnapshotReader, RouteView

#: How often clients get updates, in seconds. Redis is read at most that often.
UPDATE_INTERVAL_S = 2.0


@dataclass(frozen=True)
class FleetState:
    """The state of the routes.

    Attributes:
        read_ms: when it was read (Unix time); 0: never.
        error: why Redis did not answer since; "" if this is the current state.
        failures: what failed in this process after an operator had started it.
    """

    views: Sequence[RouteView] = ()
    read_ms: int = 0
    error: str = ""
    failures: Sequence[str] = ()

    def problems(self) -> list[str]:
        """Return what needs attention, and what to do."""
        problems = [*self.failures, *(line for view in self.views for line in view.problems())]
        if not self.error:
            return problems
        known = f"the last known state, of {time_text(self.read_ms)}, is shown" if self.read_ms else "nothing is known"
        return [f"{self.error.rstrip('.')}; {known}", *problems]

    def warnings(self) -> list[str]:
        """Return what should be looked at some time."""
        return [line for view in self.views for line in view.warnings()]


class Fleet:
    """The state of some routes.

    Attributes:
        failures: what failed in this process after an operator had started it, by route.
    """

    def __init__(self, readers: Sequence[RouteSnapshotReader]) -> None:
        self.readers = readers
        self.failures: dict[str, str] = {}
        self._state = FleetState()
        self._expires_at_s = 0.0
        self._reading = asyncio.Lock()

    async def state(self) -> FleetState:
        """Return the state, read within the last `UPDATE_INTERVAL_S`; without Redis, the last known one."""
        async with self._reading:
            if time.monotonic() >= self._expires_at_s:
                known = self._state
                try:
                    views = [await reader.read() for reader in self.readers]
                except RedisUnavailable as error:
                    self._state = FleetState(known.views, known.read_ms, str(error))
                else:
                    self._state = FleetState(views, int(time.time() * 1000))
                self._expires_at_s = time.monotonic() + UPDATE_INTERVAL_S * 0.9
            return replace(self._state, failures=tuple(self.failures.values()))

    def expire(self) -> None:
        """Read Redis at the next call, since something was changed."""
        self._expires_at_s = 0.0
