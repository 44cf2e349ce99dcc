"""Track the outcomes of jobs that this process enqueued."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..model import Lane, Result
from .base import JobRequest
from .redis_queue import RedisJobQueue

#: How long `poll` waits for the first outcome, in s.
POLL_TIMEOUT_S = 1.0

#: Jobs are enqueued again after this time without any outcome, in s, in case Redis lost them.
RESUBMIT_AFTER_S = 30.0

#: How long a reconcile waits while a store works for no key, in s. Its keys count as failed then.
MAX_OUTAGE_S = 120.0

#: Takes the fields of a report line.
OnOutcome = Callable[[dict[str, Any]], None]


class OutcomeTracker:
    """Enqueues jobs, and reports the outcome of each at each destination once. Its `len` is the number of pending keys.

    Args:
        on_outcome: called with each outcome.
        on_retry: called with each failure that the queue will retry. None: such a failure is an outcome, unless the key
            waits for a store that is down.
        max_outage_s: without `on_retry`, how long a key waits for a store that works for no other key either; then the
            key has failed, as far as the tracker is concerned. The queue keeps it.
        unconditional: copy without comparing first; None: as usual in that lane.
        resubmit: enqueue jobs again after `RESUBMIT_AFTER_S`.
    """

    def __init__(
        self,
        jobs: RedisJobQueue,
        on_outcome: OnOutcome,
        *,
        on_retry: OnOutcome | None = None,
        max_outage_s: float = 0.0,
        lane: Lane = Lane.BULK,
        unconditional: bool | None = None,
        resubmit: bool = True,
    ) -> None:
        self._jobs = jobs
        self._on_outcome = on_outcome
        self._on_retry = on_retry
        self._max_outage_s = max_outage_s
        self._waiting: dict[str, dict[str, dict[str, Any]]] = {}
        self._outage_since_s: dict[str, float] = {}
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

    def _wait(self, fields: dict[str, Any]) -> None:
        """Keep the last failure of a key that waits for a store."""
        destination = fields["destination"]
        self._waiting.setdefault(destination, {})[fields["key"]] = fields

    def _end_long_outages(self) -> None:
        """Report the keys that wait for a destination for too long as failed."""
        now_s = time.monotonic()
        for destination, waiting in self._waiting.items():
            if waiting and now_s - self._outage_since_s.setdefault(destination, now_s) >= self._max_outage_s:
                for fields in list(waiting.values()):
                    self._report(fields)

    def _report(self, fields: dict[str, Any]) -> None:
        key, destination = fields["key"], fields["destination"]
        self._waiting.get(destination, {}).pop(key, None)
        destinations = self.pending[key]
        destinations.remove(destination)
        if not destinations:
            del self.pending[key]
        self._on_outcome(fields)

    def forget(self, key: str) -> None:
        """Stop tracking a key; its job remains."""
        self.pending.pop(key, None)
        for waiting in self._waiting.values():
            waiting.pop(key, None)

    async def poll_all(self) -> None:
        """Report all outcomes that have arrived. Raises RedisUnavailable."""
        while await self.poll(0):
            pass

    async def poll(self, timeout_s: float = POLL_TIMEOUT_S) -> bool:
        """Report the outcomes that have arrived, waiting for the first; return whether there were any.

        Raises RedisUnavailable.
        """
        events = await self._jobs.poll_outcomes(self._id, timeout_s)
        for event in events:
            fields = json.loads(event)
            is_final, is_waiting = fields.pop("final"), fields.pop("waiting", False)
            key, destination = fields["key"], fields["destination"]
            if fields["outcome"] != Result.FAILED.value:
                self._outage_since_s.pop(destination, None)
            if destination not in self.pending.get(key, ()):
                continue  # a duplicate, or a destination that another process enqueued
            if not is_final and self._on_retry is not None:
                self._on_retry(fields)
            elif is_waiting:
                self._wait(fields)
            else:
                self._report(fields)
        self._end_long_outages()
        if events or not self.pending:
            self._quiet_since_s = time.monotonic()
        elif self._resubmit and self.quiet_s > RESUBMIT_AFTER_S:
            self._quiet_since_s = time.monotonic()
            await self.enqueue_again()
        return bool(events)
