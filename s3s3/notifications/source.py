"""The NotificationSource contract and its health state."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

from ..events import NOTIFICATIONS_FAILED, NOTIFICATIONS_RECOVERED, log_event
from ..model import Notification
from ..monitoring.formatting import duration_text
from ..tasks import Restarts
from .message import BadMessage
from .routing import Routing

log = logging.getLogger(__name__)

#: Label of notifications that match no route, in `s3s3_notifications_total`.
NO_ROUTE = "no_route"

#: Kinds of unusable messages and buckets without a route that are logged; senders can invent any number of buckets.
MAX_LOGGED = 200

#: Source buckets that a line about a notification without a route names.
MAX_SHOWN_BUCKETS = 20


class NotificationSource(ABC):
    """A source of notifications that serves all routes.

    It acknowledges a notification (XACK, DeleteMessage, 200) only after `Routing.deliver` has returned; until then the
    sender keeps it. It keeps running while Redis or its own service is unavailable.

    Attributes:
        kind: label of its notifications in `s3s3_notifications_total`.
    """

    kind: str
    _health: SourceHealth

    @abstractmethod
    def __str__(self) -> str:
        """Return what it is called in messages: "stream s3s3:notifications"."""

    @abstractmethod
    async def run(self, stop: asyncio.Event) -> None:
        """Deliver notifications until `stop` is set; then finish or release those already received."""

    async def run_until(self, stop: asyncio.Event) -> None:
        """Run, and after internal errors again, until `stop` is set."""
        await self._health.restarts.run("receiving notifications", partial(self.run, stop), stop)

    def health_problem(self) -> str:
        """Return why it receives nothing, or ""."""
        return self._health.silence_problem()

    async def readiness_problems(self) -> list[str]:
        """Return what it needs and cannot reach, one item each."""
        if self._health.problem:
            return [f"{self}: {self._health.problem}"]
        return [self._health.restarts.problem] if self._health.restarts.problem else []


class SourceHealth:
    """The health of a source, and the counts and warnings about its unusable messages.

    Args:
        name: of the source, in messages.
        max_silence_s: how long a healthy source may be silent.
        count: called with the label of each unusable message.

    Attributes:
        problem: why the source does not work, or "".
        restarts: restarts the source after internal errors.
    """

    def __init__(self, name: str, max_silence_s: float, count: Callable[[str], None]) -> None:
        self._name = name
        self._max_silence_s = max_silence_s
        self._count = count
        self._last_success_s = time.monotonic()
        self._logged: set[tuple[str, str | None]] = set()
        self._has_worked = self._has_logged_problem = False
        self.restarts = Restarts(name)
        self.problem = ""

    def record_success(self) -> None:
        """Record that the source has answered."""
        if not self._has_worked:
            log.info("%s: receiving notifications", self._name)
        if self._has_logged_problem:
            log_event(log, NOTIFICATIONS_RECOVERED, source=self._name)
        self._has_worked, self._has_logged_problem = True, False
        self._last_success_s = time.monotonic()
        self.problem = ""

    def record_failure(self, reason: str) -> None:
        """Record that the source does not work; log it if the reason is new."""
        if reason != self.problem:
            log_event(log, NOTIFICATIONS_FAILED, reason, source=self._name)
        self.problem, self._has_logged_problem = reason, True

    def count_bad(self, bad: BadMessage, text: str, consequence: str) -> None:
        """Count a message without a usable key; log the first of each kind, and what happens to such messages."""
        self.count(bad.kind, f"unusable message, {consequence}; others like it are not logged ({bad}): {text[:80]!r}")

    def count_unrouted(self, notifications: Sequence[Notification], routing: Routing) -> None:
        """Count notifications that match no route; log the first of each bucket, and what would match."""
        for notification in notifications:
            bucket, key = notification.bucket, notification.key[:80]
            if routing.buckets_meant(bucket):
                warning = f"no route takes the key {key!r}, see prefix, include and exclude"
            else:
                names = ", ".join(sorted(routing.buckets)[:MAX_SHOWN_BUCKETS])
                warning = f"no route has this source bucket, but: {names}"
            if bucket is not None:
                warning = f"bucket {bucket[:80]!r}: {warning}"
            self.count(NO_ROUTE, f"ignored a notification; others like it are only counted, as {NO_ROUTE}: {warning}",
                       bucket)  # fmt: skip

    def count(self, kind: str, warning: str, bucket: str | None = None) -> None:
        """Count a message with this label; log the warning for the first, of each bucket."""
        self._count(kind)
        if (kind, bucket) not in self._logged and len(self._logged) < MAX_LOGGED:
            self._logged.add((kind, bucket))
            log.warning("%s: %s", self._name, warning)

    def silence_problem(self) -> str:
        """Return how long the source has been silent if that is too long and its service did not fail; or ""."""
        silent_s = time.monotonic() - self._last_success_s
        if self.problem or silent_s <= self._max_silence_s:
            return ""
        return f"{self._name}: no answer for {duration_text(silent_s)}"
