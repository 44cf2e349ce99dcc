"""Track the outcomes of jobs that this process enqueued."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..model import Lane
from .base import JobQueue, JobRequest

POLL_TIMEOUT_S = 1.0

#: Unfinished jobs are enqueued again after this time without an outcome, in case Redis lost them.
RESUBMIT_AFTER_S = 30.0


class OutcomeTracker:
    """Enqueues jobs in the bulk lane and receives their outcomes. Its `len` is the number of unfinished keys.

    Args:
        unconditional: copy without comparing first.
        on_outcome: called with the fields of each outcome's report line.
    """

    def __init__(self, jobs: JobQueue, *, unconditional: bool, on_outcome: Callable[[dict[str, Any]], None]) -> None:
        self._jobs = jobs
        self._unconditional = unconditional
        self._on_outcome = on_outcome
        self._id = secrets.token_hex(8)
        self._unfinished: dict[str, set[str]] = {}
        self._last_outcome_at_s = time.monotonic()

    def __len__(self) -> int:
        return len(self._unfinished)

    async def enqueue(self, requests: Sequence[JobRequest]) -> None:
        """Enqueue jobs."""
        for request in requests:
            self._unfinished.setdefault(request.key, set()).update(request.destinations)
        await self._jobs.enqueue(requests, Lane.BULK, self._id, unconditional=self._unconditional)

    async def poll(self) -> None:
        """Receive the new outcomes, waiting up to `POLL_TIMEOUT_S` for the first."""
        events = await self._jobs.poll_outcomes(self._id, POLL_TIMEOUT_S)
        for event in events:
            self._record(event)
        now_s = time.monotonic()
        if events:
            self._last_outcome_at_s = now_s
        elif now_s - self._last_outcome_at_s > RESUBMIT_AFTER_S:
            self._last_outcome_at_s = now_s
            await self.enqueue([JobRequest(key, tuple(names)) for key, names in self._unfinished.items()])

    def _record(self, event: str) -> None:
        """Record an outcome. One that will be retried counts as failed; the queue continues with it."""
        fields = json.loads(event)
        fields.pop("final")
        unfinished = self._unfinished.get(fields["key"], set())
        if fields["destination"] not in unfinished:
            return  # a duplicate, or a destination that another process enqueued
        unfinished.remove(fields["destination"])
        if not unfinished:
            del self._unfinished[fields["key"]]
        self._on_outcome(fields)
