"""Track the outcomes of jobs that this process enqueued."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..model import Lane
from .base import JobRequest
from .redis_queue import RedisJobQueue

#: How long `poll` waits for the first outcome, in s.
POLL_TIMEOUT_S = 1.0

#: Jobs are enqueued again after this time without any outcome, in s, in case Redis lost them.
RESUBMIT_AFTER_S = 30.0

#: Takes the fields of a report line.
OnOutcome = Callable[[dict[str, Any]], None]


class OutcomeTracker:
    """Enqueues jobs, and reports the outcome of each at each destination once. Its `len` is the number of pending keys.

    Args:
        on_outcome: called with each outcome.
        on_retry: called with each failure that the queue will retry. None: such a failure is an outcome.
        unconditional: copy without comparing first; None: as usual in that lane.
        resubmit: enqueue jobs again after `RESUBMIT_AFTER_S`.
    """

    def __init__(
        self,
        jobs: RedisJobQueue,
        on_outcome: OnOutcome,
        *,
        on_retry: OnOutcome | None = None,
        lane: Lane = Lane.BULK,
        unconditional: bool | None = None,
        resubmit: bool = True,
    ) -> None:
        self._jobs = jobs
        self._on_outcome = on_outcome
        self._on_retry = on_retry
        self._lane = lane
        self._unconditional = unconditional
        self._resubmit = resubmit
        self._id = secrets.token_hex(8)
        #: The destinations without an outcome, by key.
        self.pending: dict[str, set[str]] = {}
        self._quiet_since_s = time.monotonic()

    def __len__(self) -> int:
        return len(self.pending)

    @property
    def quiet_s(self) -> float:
        """How long outcomes have been pending, in s, and none has arrived."""
        return time.monotonic() - self._quiet_since_s

    async def enqueue(self, requests: Sequence[JobRequest], lane: Lane | None = None) -> None:
        """Enqueue and track jobs. They are tracked even if this raises RedisUnavailable."""
        for request in requests:
            self.pending.setdefault(request.key, set()).update(request.destinations)
        await self._jobs.enqueue(requests, lane or self._lane, self._id, self._unconditional)

    async def enqueue_again(self, lane: Lane | None = None) -> None:
        """Enqueue all pending jobs again. Raises RedisUnavailable."""
        await self.enqueue([JobRequest(key, tuple(destinations)) for key, destinations in self.pending.items()], lane)

    def forget(self, key: str) -> None:
        """Stop tracking a key; its job remains."""
        self.pending.pop(key, None)

    async def poll(self, timeout_s: float = POLL_TIMEOUT_S) -> None:
        """Report the outcomes that have arrived, waiting for the first. Raises RedisUnavailable."""
        events = await self._jobs.poll_outcomes(self._id, timeout_s)
        for event in events:
            fields = json.loads(event)
            is_final = fields.pop("final")
            key, destination = fields["key"], fields["destination"]
            destinations = self.pending.get(key, set())
            if destination not in destinations:
                continue  # a duplicate, or a destination that another process enqueued
            if not is_final and self._on_retry is not None:
                self._on_retry(fields)
                continue
            destinations.remove(destination)
            if not destinations:
                del self.pending[key]
            self._on_outcome(fields)
        if events or not self.pending:
            self._quiet_since_s = time.monotonic()
        elif self._resubmit and self.quiet_s > RESUBMIT_AFTER_S:
            self._quiet_since_s = time.monotonic()
            await self.enqueue_again()
