"""What a process tells the fleet of itself, for people to see: a sign of life, and what its figures grew by."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from . import __version__
from .errors import RedisUnavailable
from .fleet import SIGN_EVERY_S, Fleet, Member
from .history import Growth, History
from .jobs.redis import RedisJobs
from .metrics import Metrics
from .model import Outcome, Route

log = logging.getLogger(__name__)


class State(NamedTuple):
    """How a process does: jobs that it works on, whether it puts the notices on the queue, and what ails it."""

    running: int
    leads: bool
    ailment: str


class Presence:
    """A process's presence in one route's fleet. `keep` runs beside its work.

    Args:
        command: what it is: listen, mirror or bucket.
    """

    def __init__(
        self,
        route: Route,
        jobs: RedisJobs,
        metrics: Metrics,
        state: Callable[[], State],
        command: str = "listen",
    ) -> None:
        self._jobs = jobs
        self._fleet = Fleet(jobs.client, jobs.prefix)
        self._history = History(jobs.client, jobs.prefix)
        self._growth = Growth(route, metrics)
        self._state = state
        self._member = Member(
            jobs.consumer, socket.gethostname(), os.getpid(), __version__, command, int(time.time() * 1000)
        )
        self.failed: Callable[[Sequence[Outcome]], None] = self._growth.failed

    async def keep(self) -> None:
        """Tell, for ever."""
        while True:
            try:
                await self.tell()
            except RedisUnavailable as error:  # who does the work says that, and waits; the next time tells it all
                log.debug("no sign of life: %s", error)
            await asyncio.sleep(SIGN_EVERY_S)

    async def tell(self) -> None:
        """Give a sign of life, and tell what the figures grew by. Raises RedisUnavailable."""
        running, leads, ailment = self._state()
        await self._fleet.sign(replace(self._member, running=running, leads=leads, ailment=ailment))
        await self._growth.tell(self._history)

    async def sign_off(self) -> None:
        """Leave the queue, tell the rest, and that this process goes. Raises RedisUnavailable."""
        await self._jobs.leave()
        await self._growth.tell(self._history)
        await self._fleet.sign_off(self._member.id)
