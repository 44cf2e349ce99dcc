"""The jobs that a run over a bucket has put on the queue, and what becomes of them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from ..model import Lane
from .base import JobQueue, JobRequest
from .lease import boottime_s

WAIT_S = 1.0
QUIET_S = 30.0
"""After so long without an outcome, what is outstanding is put again: a Redis that lost it would never tell."""


class OutcomeTracker:
    """Puts jobs in the bulk lane and takes their outcomes.

    Args:
        unseen: they are copied without a look at the destinations.
        tell: takes the fields of each outcome's report line.
    """

    def __init__(self, jobs: JobQueue, *, unconditional: bool, tell: Callable[[dict[str, Any]], None]) -> None:
        self._jobs = jobs
        self._unconditional = unconditional
        self._tell = tell
        self._run = secrets.token_hex(8)
        self._waited: dict[str, set[str]] = {}
        self._heard_at_s = boottime_s()

    def __len__(self) -> int:
        return len(self._waited)

    async def put(self, puts: Sequence[JobRequest]) -> None:
        """Put jobs on the queue."""
        for put in puts:
            self._waited.setdefault(put.key, set()).update(put.destinations)
        await self._jobs.enqueue(puts, Lane.BULK, self._run, unconditional=self._unconditional)

    async def take(self) -> None:
        """Take the outcomes that have come; wait a moment for the first."""
        events = await self._jobs.poll_outcomes(self._run, WAIT_S)
        for event in events:
            self._take(event)
        now_s = boottime_s()
        if events:
            self._heard_at_s = now_s
        elif now_s - self._heard_at_s > QUIET_S:
            self._heard_at_s = now_s
            await self.put([JobRequest(key, tuple(names)) for key, names in self._waited.items()])

    def _take(self, event: str) -> None:
        """Take an outcome. One that says the job waits for another try counts as failed; the queue goes on with it."""
        fields = json.loads(event)
        fields.pop("final")
        waited = self._waited.get(fields["key"], set())
        if fields["destination"] not in waited:
            return  # told twice, or of a destination that somebody else asked for
        waited.remove(fields["destination"])
        if not waited:
            del self._waited[fields["key"]]
        self._tell(fields)
