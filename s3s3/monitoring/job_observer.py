"""What a process says of its jobs: a line in the log and the figures for Prometheus."""

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
    """Counts and logs what becomes of one route's jobs.

    Args:
        failed: told of the outcomes of a job that failed somewhere.
    """

    def __init__(self, route: str, metrics: Metrics, failed: Callable[[Sequence[Outcome]], None] | None = None) -> None:
        self._route = route
        self._metrics = metrics
        self._failed = failed

    def on_job_end(self, job: Job, outcomes: Sequence[Outcome], duration_s: float) -> None:
        """Tell of a job that the queue knows to be done."""
        failed = []
        for outcome in outcomes:
            if isinstance(outcome.error, JobReleased):
                continue  # nothing was tried
            if isinstance(outcome.error, DestinationTooSlow):
                self._tell_waiting(job, outcome)  # its own job will say what becomes of it
                continue
            self._metrics.count_outcome(self._route, outcome, duration_s)
            if outcome.result is Result.COPIED and job.lane is Lane.FRESH:
                waited_s = max(time.time() - job.notified_ms / 1000, 0.0)
                self._metrics.notification_to_copy_seconds[self._route, outcome.destination].observe(waited_s)
            if outcome.result is Result.FAILED:
                failed.append(outcome)
                self._metrics.retries[self._route, outcome.destination] += getattr(outcome.error, "retriable", False)
            elif log.isEnabledFor(logging.DEBUG):
                log.debug("%s: %r to %s: %s %s", self._route, job.key, outcome.destination, outcome.result.value,
                          outcome.reason, extra=log_fields(self._route, job.key, destination=outcome.destination,
                                                      outcome=outcome.result.value))  # fmt: skip
        if failed:
            self._tell_failed(job, failed)

    def _tell_waiting(self, job: Job, outcome: Outcome) -> None:
        same = self._route, outcome.destination, outcome.plain_reason
        log.warning("%s: %r to %s waits: %s", self._route, job.key, outcome.destination, outcome.reason,
                    extra=log_fields(self._route, job.key, same, destination=outcome.destination))  # fmt: skip

    def _tell_failed(self, job: Job, failed: Sequence[Outcome]) -> None:
        """Tell of a job's failures in one line, and only once a minute of those that many objects share."""
        told = "; to ".join(f"{outcome.destination} failed: {outcome.reason}" for outcome in failed)
        same = self._route, tuple((outcome.destination, outcome.plain_reason) for outcome in failed)
        names = [outcome.destination for outcome in failed]
        log.warning("%s: %r to %s", self._route, job.key, told, extra=log_fields(
            self._route, job.key, same, destinations=names, outcome=Result.FAILED.value, notified_ms=job.notified_ms,
            attempts={name: job.attempts.get(name, 0) + 1 for name in names},
        ))  # fmt: skip
        if self._failed is not None:
            self._failed(failed)

    def on_notification(self, kind: str) -> None:
        """Count a notice."""
        self._metrics.notifications[self._route, kind] += 1

    def measure(self, counts: QueueStats, running: int) -> None:
        """Show how full the queue is."""
        metrics, route = self._metrics, self._route
        states = {"fresh": counts.fresh, "bulk": counts.bulk, "waiting": counts.retrying,
                  "parked": sum(counts.parked.values())}  # fmt: skip
        for state, number in states.items():
            metrics.pending_jobs[route, state] = number
        metrics.running_jobs[route] = running
        metrics.oldest_pending_seconds[route] = counts.oldest_s
        for destination, number in counts.dead_letters.items():
            metrics.dead_letters[route, destination] = number
        for store in counts.parked:
            metrics.circuit_open[route, store] = store in counts.circuits
