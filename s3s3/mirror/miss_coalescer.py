"""Waiting for a copy: a miss goes on the queue, and whoever waits for it is woken through Redis."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from ..errors import RedisUnavailable
from ..model import Lane, Result
from ..monitoring.log import log_fields
from ..queue.base import JobQueue, JobRequest
from ..queue.lease import boottime_s
from ..queue.redis_retry import RedisRetry

log = logging.getLogger(__name__)

HEARD_FOR_S = 2.0
ASKED_AGAIN_AFTER_S = 15.0
"""A Redis that lost its data has lost the job, too. To ask for what is on the queue already costs a HEAD."""


class MissResult(NamedTuple):
    """What became of a miss. `is_there`: the copy can be had now. `outcome` and `reason` are a report line's."""

    is_there: bool
    outcome: str
    reason: str


@dataclass
class _Awaited:
    """A key that is waited for: how many do, what they wait for, and when it was last asked for."""

    settled: asyncio.Future[MissResult | None]
    waiting: int
    asked_s: float
    asking: asyncio.Future[None] | None = None


class MissCoalescer:
    """The misses of one front and one destination. `run` has to run beside it."""

    def __init__(
        self, jobs: JobQueue, route: str, destination: str, *, asked_again_after_s: float = ASKED_AGAIN_AFTER_S
    ) -> None:
        self._jobs = jobs
        self._route = route
        self._destination = destination
        self._asked_again_after_s = asked_again_after_s
        self._run = secrets.token_hex(8)
        self._awaited: dict[str, _Awaited] = {}
        self._patience = RedisRetry()
        self._gave_up = False

    @property
    def waiting(self) -> int:
        """How many requests wait now."""
        return sum(awaited.waiting for awaited in self._awaited.values())

    async def settle(self, key: str, wait_s: float) -> MissResult | None:
        """Have a key copied. Return what became of it, None where that is not known within `wait_s`.

        The copy goes on however long it takes.

        Raises:
            RedisUnavailable: it could not be put on the queue.
        """
        awaited = self._awaited.get(key)
        if awaited is None:
            awaited = _Awaited(asyncio.get_running_loop().create_future(), 0, boottime_s())
            self._awaited[key] = awaited
            awaited.asking = asyncio.ensure_future(self._put(key))
            awaited.asking.add_done_callback(partial(self._asked, key, awaited))
        awaited.waiting += 1
        try:
            if not self._gave_up:
                await asyncio.wait([awaited.settled], timeout=wait_s)
            return awaited.settled.result() if awaited.settled.done() else None
        finally:
            awaited.waiting -= 1
            if not awaited.waiting and self._awaited.get(key) is awaited:
                del self._awaited[key]

    def give_up(self) -> None:
        """Let nobody wait any more: the process is about to end."""
        self._gave_up = True
        for awaited in self._awaited.values():
            if not awaited.settled.done():
                awaited.settled.set_result(None)

    async def run(self) -> None:
        """Hear what becomes of misses, for ever."""
        while True:
            events = await self._patience.run(partial(self._jobs.poll_outcomes, self._run, HEARD_FOR_S))
            for event in events:
                self._heard(json.loads(event))
            await self._ask_again()

    async def _put(self, key: str) -> None:
        await self._jobs.enqueue([JobRequest(key, (self._destination,))], Lane.FRESH, self._run)

    def _asked(self, key: str, awaited: _Awaited, asking: asyncio.Future[None]) -> None:
        error = None if asking.cancelled() else asking.exception()
        if error is not None and not awaited.settled.done():
            awaited.settled.set_exception(error)
            awaited.settled.exception()  # it may be that nobody waits any more
            self._forget(key, awaited)

    def _heard(self, fields: dict[str, Any]) -> None:
        awaited = self._awaited.get(fields["key"])
        if awaited is None or awaited.settled.done():
            return
        is_there = fields["outcome"] in (Result.COPIED.value, Result.SAME.value)
        awaited.settled.set_result(MissResult(is_there, fields["outcome"], fields["reason"]))
        self._forget(fields["key"], awaited)

    def _forget(self, key: str, awaited: _Awaited) -> None:
        """Let the next request for the key ask anew."""
        if self._awaited.get(key) is awaited:
            del self._awaited[key]

    async def _ask_again(self) -> None:
        now_s = boottime_s()
        for key, awaited in list(self._awaited.items()):
            if now_s - awaited.asked_s > self._asked_again_after_s:
                awaited.asked_s = now_s
                try:
                    await self._put(key)
                except RedisUnavailable as error:
                    log.warning("%s: %s; those who wait for %r go on waiting", self._route, error, key,
                                extra=log_fields(self._route, key))  # fmt: skip
                    return
