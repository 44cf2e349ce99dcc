"""Log and count the outcomes of jobs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Sequence

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
        """Log and count a job after its outcomes are recorded in the queue.

        All failures of a job are one line; failures that many objects share repeat once a minute.
        """
        route, metrics = self._route, self._metrics
        failed = []
        for outcome in outcomes:
            name, result = outcome.destination, outcome.result
            if isinstance(outcome.error, JobReleased):
                continue  # the copy was not attempted
            if isinstance(outcome.error, DestinationTooSlow):  # a job of its own will have the outcome
                repeats: Hashable = (route, name, outcome.plain_reason)
                log.warning("%s: %r to %s deferred: %s", route, job.key, name, outcome.reason,
                            extra=log_fields(route, job.key, repeats, destination=name))  # fmt: skip
                continue
            metrics.count_outcome(route, outcome, duration_s)
            if result is Result.COPIED and job.lane is Lane.FRESH:
                lag_s = max(time.time() - job.notified_ms / 1000, 0.0)
                metrics.notification_to_copy_seconds[route, name].observe(lag_s)
            if result is Result.FAILED:
                failed.append(outcome)
                metrics.retries[route, name] += getattr(outcome.error, "retriable", False)
            elif log.isEnabledFor(logging.DEBUG):
                log.debug("%s: %r to %s: %s %s", route, job.key, name, result.value, outcome.reason,
                          extra=log_fields(route, job.key, destination=name, outcome=result.value))  # fmt: skip
        if failed:
            reasons = "; to ".join(f"{outcome.destination} failed: {outcome.reason}" for outcome in failed)
            repeats = route, tuple((outcome.destination, outcome.plain_reason) for outcome in failed)
            names = [outcome.destination for outcome in failed]
            log.warning("%s: %r to %s", route, job.key, reasons, extra=log_fields(
                route, job.key, repeats, destinations=names, outcome=Result.FAILED.value, notified_ms=job.notified_ms,
                attempts={name: job.attempts.get(name, 0) + 1 for name in names},
            ))  # fmt: skip
            if self._on_failures is not None:
                self._on_failures(failed)

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
