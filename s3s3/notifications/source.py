"""The NotificationSource contract and its health state."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from ..model import Notification
from .message import BadMessage

log = logging.getLogger(__name__)

#: Labels of `s3s3_notifications_total`, besides those of `BadMessage`.
NO_ROUTE = "no_route"
UNAUTHORIZED = "unauthorized"


class Deliver(Protocol):
    """What a source delivers its notifications to; `s3s3.notifications.routing.Routing` implements it."""

    async def deliver(self, notifications: Sequence[Notification], kind: str) -> int:
        """Enqueue notifications; return how many match no route. Raises RedisUnavailable."""

    async def dead_letter(self, message: str, reason: str, bucket: str | None = None) -> None:
        """Keep a message without a usable key as a dead letter. Raises RedisUnavailable."""


class NotificationSource(Protocol):
    """A source of notifications that serves all routes.

    It acknowledges a notification (XACK, DeleteMessage, 200) only after `Deliver.deliver` has returned; until then the
    sender keeps it. It survives times when Redis or its own service is unavailable.

    Attributes:
        kind: label of its notifications in `s3s3_notifications_total`.
    """

    @property
    def kind(self) -> str: ...

    def __str__(self) -> str:
        """Return what it is called in messages: "stream s3s3:notifications"."""

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver notifications until `stop` is set; then finish or release those already received."""

    def health_problem(self) -> str:
        """Return why it receives nothing, or ""."""

    async def readiness_problems(self) -> list[str]:
        """Return what it needs and cannot reach, one item each."""


class SourceHealth:
    """The health of a source, and the counts and warnings about its unusable messages.

    Args:
        name: of the source, in messages.
        max_silence_s: how long a healthy source may be silent.
        count: called with the label of each unusable message.

    Attributes:
        problem: why the source does not work, or "".
    """

    def __init__(self, name: str, max_silence_s: float, count: Callable[[str], None]) -> None:
        self._name = name
        self._max_silence_s = max_silence_s
        self._count = count
        self._last_success_s = time.monotonic()
        self._logged: set[str] = set()
        self._has_worked = self._has_logged_problem = False
        self.problem = ""

    def record_success(self) -> None:
        """Record that the source has answered."""
        if not self._has_worked:
            log.info("%s: receiving notifications", self._name)
        if self._has_logged_problem:
            log.warning("%s: works again", self._name)
        self._has_worked, self._has_logged_problem = True, False
        self._last_success_s = time.monotonic()
        self.problem = ""

    def record_failure(self, reason: str) -> None:
        """Record that the source does not work; log it if the reason is new."""
        if reason != self.problem:
            log.warning("%s: retrying until it works: %s", self._name, reason)
        self.problem, self._has_logged_problem = reason, True

    def count_bad(self, bad: BadMessage, text: str, consequence: str) -> None:
        """Count a message without a usable key; log the first of each kind, and what happens to such messages."""
        self._count(bad.kind)
        self._log_first(
            bad.kind, f"unusable message, {consequence}; others like it are not logged ({bad}): {text[:80]!r}"
        )

    def count_unauthorized(self) -> None:
        """Count a message without the token."""
        self._count(UNAUTHORIZED)
        self._log_first(UNAUTHORIZED, "request without the token refused; others are only counted")

    def count_unrouted(self, number: int) -> None:
        """Count notifications that match no route."""
        for _ in range(number):
            self._count(NO_ROUTE)
        if number:
            self._log_first(NO_ROUTE, f"notification matches no route, ignored; others are only counted, as {NO_ROUTE}")

    def _log_first(self, kind: str, message: str) -> None:
        if kind not in self._logged:
            self._logged.add(kind)
            log.warning("%s: %s", self._name, message)

    def health_problem(self) -> str:
        """Return why the source receives nothing, or ""."""
        silent_s = time.monotonic() - self._last_success_s
        if silent_s <= self._max_silence_s:
            return ""
        return f"{self._name}: no answer for {silent_s:.0f} s" + (f": {self.problem}" if self.problem else "")

    def readiness_problems(self) -> list[str]:
        return [f"{self._name}: {self.problem}"] if self.problem else []
