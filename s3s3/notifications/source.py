"""The contract of every source of notices that serves all routes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from ..model import Notification
from ..queue.lease import boottime_s
from .message import BadMessage

log = logging.getLogger(__name__)

NO_ROUTE = "no route"
REFUSED = "refused"


class Deliver(Protocol):
    """What a source gives its notices to: see `s3s3.notifications.routing.Routing`."""

    async def deliver(self, notices: Sequence[Notification], kind: str) -> int:
        """Put notices on the queues; return how many no route is about. May raise RedisUnavailable."""

    async def bury(self, message: str, reason: str, bucket: str | None = None) -> None:
        """Keep a message that names no possible key as a dead letter. May raise RedisUnavailable."""


class NotificationSource(Protocol):
    """Where notices come from.

    It lets go of a notice (acknowledges, deletes, answers 2xx) only once `Deliver.deliver` has returned: whatever
    dies before that, the notice comes again. It outlives a Redis, and a service of its own, that are away.

    Attributes:
        kind: one word for it, by which its notices are counted.
    """

    @property
    def kind(self) -> str: ...

    def __str__(self) -> str:
        """Return which one it is, in words."""

    async def run(self, stop: asyncio.Event) -> None:
        """Take notices and have them delivered until `stop` is set; finish what was taken by then, or give it back."""

    def health_problem(self) -> str:
        """Return why no notices come from it, or "" while they can."""

    async def readiness_problems(self) -> list[str]:
        """Return what it needs and cannot reach, a line each."""


class SourceHealth:
    """Whether a source answers, as health shows it, and what its messages are counted as.

    Args:
        name: the source in words, as messages begin with it.
        silent_s: how long it may be silent and be well.
        count: called with the kind of what was wrong with a message.
    """

    def __init__(self, name: str, silent_s: float, count: Callable[[str], None]) -> None:
        self._name = name
        self._silent_s = silent_s
        self._count = count
        self._answered_at_s = boottime_s()
        self._told: set[str] = set()
        self._begun = self._told_wrong = False
        self.wrong = ""
        """Why it does not work, "" while it does."""

    def answered(self) -> None:
        """It has just answered."""
        if not self._begun:
            log.info("%s: takes notices", self._name)
        self._begun = True
        self._answered_at_s = boottime_s()
        if self._told_wrong:
            log.warning("%s: works again", self._name)
        self.wrong, self._told_wrong = "", False

    def failed(self, reason: str) -> None:
        """It does not work. People are told when the reason changes."""
        if reason != self.wrong:
            log.warning("%s: %s; trying again until it works", self._name, reason)
        self.wrong, self._told_wrong = reason, True

    def bad(self, bad: BadMessage, shown: str, becomes: str) -> None:
        """Count a message that names no object; the first of each kind is told, and what becomes of such."""
        self._count(bad.kind)
        if bad.kind not in self._told:
            self._told.add(bad.kind)
            log.warning("%s: a message that names no object (%s): %r; it and others like it %s",
                        self._name, bad, shown[:80], becomes)  # fmt: skip

    def refused(self) -> None:
        """Count a message whose sender did not say who it is."""
        self._count(REFUSED)
        if REFUSED not in self._told:
            self._told.add(REFUSED)
            log.warning("%s: a message without the token is refused; others are only counted", self._name)

    def unrouted(self, number: int) -> None:
        """Count notices that no route is about."""
        for _ in range(number):
            self._count(NO_ROUTE)
        if number and NO_ROUTE not in self._told:
            self._told.add(NO_ROUTE)
            log.warning("%s: a notice of a bucket or key that no route is about; such are let go, and counted as %r",
                        self._name, NO_ROUTE)  # fmt: skip

    def health_problem(self) -> str:
        """Return why nothing comes, or ""."""
        silent_s = boottime_s() - self._answered_at_s
        if silent_s <= self._silent_s:
            return ""
        return f"{self._name}: no answer for {silent_s:.0f} s" + (f": {self.wrong}" if self.wrong else "")

    def readiness_problems(self) -> list[str]:
        """Return why it does not work, in a line, or none."""
        return [f"{self._name}: {self.wrong}"] if self.wrong else []
