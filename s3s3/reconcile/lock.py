"""One comparison of a whole route at a time, in all the fleet: two would list the same buckets and do the same work.

Key, under the route's prefix:

    comparing       hash: id, host, pid, since_ms (by Redis's clock) of the run under way; gone `LEASE_S` after the last
                    sign of life of a run that was killed
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..errors import ReconcileInProgress, RedisUnavailable
from ..queue.admin import utc_text
from ..queue.lease import boottime_s
from ..queue.lua_scripts import LuaScripts
from ..queue.redis_queue import RedisJobQueue
from ..tasks import run_with_background, wait_with_timeout

log = logging.getLogger(__name__)

LEASE_S = 30.0
LOOK_EVERY_S = 2.0

Answer = TypeVar("Answer")


async def run_exclusive(
    route: str,
    jobs: RedisJobQueue | None,
    run: Callable[[], Awaitable[Answer]],
    *,
    wait_for_lock: bool = False,
    stop: asyncio.Event | None = None,
) -> Answer:
    """Run while no other process compares this route. A queue in memory is nobody else's, so nothing is asked there.

    Args:
        waits: for the end of a run that is under way, however long that takes, or until `stop`.

    Raises:
        RunUnderWay: another run is under way, and `waits` is not set; or this one was silent for so long that another
            has begun.
        RedisUnavailable: it could not be asked.
    """
    if jobs is None:
        return await run()
    lock = _ReconcileLock(route, jobs)
    await lock.take(wait_for_lock, stop or asyncio.Event())
    try:
        return await run_with_background(_awaited(run), lock.keep())
    finally:
        await lock.give_up()


async def run_shared(
    route: str,
    jobs: RedisJobQueue,
    run_id: str,
    run: Callable[[], Awaitable[Answer | None]],
    *,
    wait_for_lock: bool = False,
    stop: asyncio.Event | None = None,
) -> Answer | None:
    """Run as one of the processes that share the run of this id, while nobody else compares this route.

    It is given up where `run` returns anything but None, for then the whole run has ended. Raises as `run_exclusive`.
    """
    lock = _ReconcileLock(route, jobs, run_id)
    await lock.take(wait_for_lock, stop or asyncio.Event())
    answer = await run_with_background(_awaited(run), lock.keep())
    if answer is not None:
        await lock.give_up()
    return answer


async def _awaited(run: Callable[[], Awaitable[Answer]]) -> Answer:
    return await run()


class _ReconcileLock:
    """The right to compare one route. Held under a lease."""

    def __init__(self, route: str, jobs: RedisJobQueue, run_id: str = "") -> None:
        self._route = route
        self._scripts = LuaScripts(jobs.client, __package__, jobs.prefix + "comparing")
        self._id = run_id or secrets.token_hex(8)
        self._until_s = 0.0

    async def take(self, wait_for_lock: bool, stop: asyncio.Event) -> None:
        """Take it. Raises RunUnderWay where it is somebody else's and is not to be waited for."""
        told = ""
        while holder := await self._take():
            if not wait_for_lock or stop.is_set():
                raise ReconcileInProgress(f"{holder}; `s3s3 bucket --wait-for-lock` waits for its end")
            if holder != told:
                log.warning("%s; waiting for its end", holder)
                told = holder
            await wait_with_timeout(stop, LOOK_EVERY_S)

    async def keep(self) -> None:
        """Keep it, for ever.

        Raises:
            RunUnderWay: it was lost, and another run has begun.
            RedisUnavailable: for longer than the lease.
        """
        while True:
            await asyncio.sleep(LEASE_S / 3)
            try:
                holder = await self._take()
            except RedisUnavailable:
                if boottime_s() >= self._until_s:
                    raise
            else:
                if holder:
                    raise ReconcileInProgress(
                        f"{holder}, as this run gave no sign of life for {LEASE_S:g} s; it has ended"
                    )

    async def give_up(self) -> None:
        """Let others run. A Redis that is away forgets by itself."""
        try:
            await self._scripts.run("lock", "give", self._id)
        except RedisUnavailable as error:
            log.warning("route %s: the next comparison may have to wait for %g s: %s", self._route, LEASE_S, error)

    async def _take(self) -> str:
        """Take it or keep it; return who else has it, in words, or ""."""
        asked_s = boottime_s()
        held = await self._scripts.run("lock", "take", self._id, socket.gethostname(), os.getpid(), int(LEASE_S * 1000))
        if not held:
            self._until_s = asked_s + LEASE_S
            return ""
        host, pid, since_ms = held
        return f"route {self._route} is being compared by process {pid} on {host} since {utc_text(int(since_ms))}"
