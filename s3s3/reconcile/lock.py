"""Allow one whole-bucket reconcile per route at a time.

Key, under the route's prefix:

    reconcile-lock  hash: id, host, pid, since_ms (by Redis's clock) of the reconcile in progress, and its progress
                    (JSON: compared, the objects listed; outcomes, the number of each); expires 30 s after its last
                    renewal
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import socket
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from ..errors import ReconcileInProgress, RedisUnavailable
from ..monitoring.formatting import time_text
from ..queue.admin import RECONCILE_LOCK
from ..queue.base import boottime_s
from ..queue.redis_calls import LuaScripts
from ..queue.redis_queue import RedisJobQueue
from ..tasks import run_with_background, wait_with_timeout

log = logging.getLogger(__name__)

#: The lock expires this long after its last renewal, in seconds.
LEASE_S = 30.0

#: How often a waiting process tries to acquire the lock, in seconds.
POLL_INTERVAL_S = 2.0

#: How often the progress of a reconcile is recorded, in seconds.
PROGRESS_INTERVAL_S = 2.0

Result = TypeVar("Result")


async def run_exclusive(
    route: str,
    jobs: RedisJobQueue | None,
    run: Callable[[], Coroutine[Any, Any, Result]],
    *,
    run_id: str = "",
    wait_for_lock: bool = False,
    stop: asyncio.Event | None = None,
    progress: Callable[[], Mapping[str, Any]] | None = None,
) -> Result:
    """Await `run()` while holding the route's lock, if there is a queue.

    Args:
        run_id: of a distributed reconcile, whose processes share the lock. It is released only if `run()` returns
            something other than None: the whole reconcile has ended then.
        wait_for_lock: wait until another reconcile has ended, or until `stop` is set.
        progress: returns what the status page shows of the reconcile while it runs: `ReconcileSummary.progress`.

    Raises:
        ReconcileInProgress: another reconcile has the lock and `wait_for_lock` is False, or took it over because this
            one did not renew it.
        RedisUnavailable: Redis did not respond, for longer than the lease if `run()` had started.
    """
    if jobs is None:
        return await run()
    lock = _ReconcileLock(route, jobs, run_id, progress)
    await lock.acquire(wait_for_lock, stop or asyncio.Event())
    result: Result | None = None
    try:
        result = await run_with_background(run(), lock.maintain())
        return result
    finally:
        if result is not None or not run_id:
            await lock.release()


class _ReconcileLock:
    """The lock of one route, leased to the processes of one reconcile."""

    def __init__(
        self, route: str, jobs: RedisJobQueue, run_id: str, progress: Callable[[], Mapping[str, Any]] | None
    ) -> None:
        self._route = route
        self._scripts = LuaScripts(jobs.client, __package__, jobs.prefix + RECONCILE_LOCK)
        self._id = run_id or secrets.token_hex(8)
        self._until_s = 0.0
        self._progress = progress

    async def acquire(self, wait_for_lock: bool, stop: asyncio.Event) -> None:
        """Acquire the lock. Raises ReconcileInProgress."""
        logged = ""
        while holder := await self._acquire_or_renew():
            if not wait_for_lock or stop.is_set():
                raise ReconcileInProgress(f"{holder}; to wait for its end: s3s3 bucket --wait-for-lock")
            if holder != logged:
                log.warning("%s; waiting for its end", holder)
                logged = holder
            await wait_with_timeout(stop, POLL_INTERVAL_S)

    async def maintain(self) -> None:
        """Renew the lock; never returns.

        Raises:
            ReconcileInProgress: another reconcile has taken over the lock.
            RedisUnavailable: Redis did not respond for longer than the lease.
        """
        while True:
            await asyncio.sleep(min(LEASE_S / 3, PROGRESS_INTERVAL_S) if self._progress else LEASE_S / 3)
            try:
                holder = await self._acquire_or_renew()
            except RedisUnavailable:
                if boottime_s() >= self._until_s:
                    raise
            else:
                if holder:
                    raise ReconcileInProgress(
                        f"{holder}; this one was stopped, because it had not renewed its lock for {LEASE_S:g} s"
                    )

    async def release(self) -> None:
        """Release the lock, or log a warning and let it expire."""
        try:
            await self._scripts.run("lock", "release", self._id)
        except RedisUnavailable as error:
            log.warning("route %s: could not release the reconcile lock, which expires in %g s: %s",
                        self._route, LEASE_S, error)  # fmt: skip

    async def _acquire_or_renew(self) -> str:
        """Return "", or a description of the reconcile that has the lock."""
        requested_s = boottime_s()
        holder = await self._scripts.run(
            "lock", "acquire", self._id, socket.gethostname(), os.getpid(), int(LEASE_S * 1000),
            json.dumps(self._progress()) if self._progress else "",
        )  # fmt: skip
        if not holder:
            self._until_s = requested_s + LEASE_S
            return ""
        host, pid, since_ms = holder
        return f"route {self._route} is being reconciled by process {pid} on {host} since {time_text(int(since_ms))}"
