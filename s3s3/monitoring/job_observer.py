"""Log and count the outcomes of jobs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from ..errors import DestinationTooSlow, JobReleased
from ..model import Job, Lane, Outcome, Result
from ..queue.base import QueueStats
from .log import log_fields
from .metrics import Metrics

log = logging.getLogger(__name__)


class JobObserver:
    """Logs and counts the jobs and notifications of one route.

    Args:
        on_failures: called with the failed outcomes of a job that has any.
    """

    def __init__(
        self, route: str, metrics: Metrics, on_failures: Callable[[Sequence[Outcome]], None] | None = None
    ) -> None:
        self._route = route
        self._metrics = metrics
        self._on_failures = on_failures

    def on_job_end(self, job: Job, outcomes: Sequence[Outcome], duration_s: float) -> None:
        """Log and count a job after its outcomes are recorded in the queue."""
        failed = []
        for outcome in outcomes:
            if isinstance(outcome.error, JobReleased):
                continue  # the copy was not attempted
            if isinstance(outcome.error, DestinationTooSlow):
                self._log_deferred(job, outcome)  # a job of its own will have the outcome
                continue
            self._metrics.count_outcome(self._route, outcome, duration_s)
            if outcome.result is Result.COPIED and job.lane is Lane.FRESH:
                lag_s = max(time.time() - job.notified_ms / 1000, 0.0)
                self._metrics.notification_to_copy_seconds[self._route, outcome.destination].observe(lag_s)
            if outcome.result is Result.FAILED:
                failed.append(outcome)
                self._metrics.retries[self._route, outcome.destination] += getattr(outcome.error, "retriable", False)
            elif log.isEnabledFor(logging.DEBUG):
                log.debug("%s: %r to %s: %s %s", self._route, job.key, outcome.destination, outcome.result.value,
                          outcome.reason, extra=log_fields(self._route, job.key, destination=outcome.destination,
                                                           outcome=outcome.result.value))  # fmt: skip
        if failed:
            self._log_failures(job, failed)
            if self._on_failures is not None:
                self._on_failures(failed)

    def _log_deferred(self, job: Job, outcome: Outcome) -> None:
        repeats = self._route, outcome.destination, outcome.plain_reason
        log.warning("%s: %r to %s deferred: %s", self._route, job.key, outcome.destination, outcome.reason,
                    extra=log_fields(self._route, job.key, repeats, destination=outcome.destination))  # fmt: skip

    def _log_failures(self, job: Job, failed: Sequence[Outcome]) -> None:
        """Log all failures of a job in one line; failures that many objects share repeat once a minute."""
        reasons = "; to ".join(f"{outcome.destination} failed: {outcome.reason}" for outcome in failed)
        repeats = self._route, tuple((outcome.destination, outcome.plain_reason) for outcome in failed)
        names = [outcome.destination for outcome in failed]
        log.warning("%s: %r to %s", self._route, job.key, reasons, extra=log_fields(
            self._route, job.key, repeats, destinations=names, outcome=Result.FAILED.value, notified_ms=job.notified_ms,
            attempts={name: job.attempts.get(name, 0) + 1 for name in names},
        ))  # fmt: skip

    def on_notification(self, kind: str) -> None:
        """Count a notification by its source, or by why it was rejected."""
        self._metrics.notifications[self._route, kind] += 1

    def measure(self, stats: QueueStats, running: int) -> None:
        """Update the gauges of the queue."""
        metrics, route = self._metrics, self._route
        states = {"fresh": stats.fresh, "bulk": stats.bulk, "retrying": stats.retrying,
                  "parked": sum(stats.parked.values())}  # fmt: skip
        for state, number in states.items():
            metrics.pending_jobs[route, state] = number
        metrics.running_jobs[route] = running
        metrics.oldest_pending_seconds[route] = stats.oldest_s
        for destination, number in stats.dead_letters.items():
            metrics.dead_letters[route, destination] = number
        for store in stats.parked:
            metrics.circuit_open[route, store] = store in stats.circuits
