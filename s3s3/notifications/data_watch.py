"""Detect that Redis has lost a route's data, for routes without a channel.

With a channel, `s3s3.notifications.pubsub` does it. The keys are the same: one listener is elected and advances the
watermark, and a gap is recorded, which `s3s3.notifications.gap_backfill` heals. One more key, under the route's prefix:

    server          the id of the Redis server's run at the last advance of the watermark
"""

from __future__ import annotations

import asyncio
import logging

from ..events import FIRST_START, GAP_DETECTED, log_event
from ..queue.redis_calls import LuaScripts, RedisRetry
from ..queue.redis_queue import RedisJobQueue
from .leader_election import LEASE_S
from .seen_data import SeenData

log = logging.getLogger(__name__)


class DataWatch:
    """Watches the data of one route in Redis.

    Attributes:
        is_leader: whether this listener was the elected one at its last renewal.
    """

    def __init__(self, route: str, jobs: RedisJobQueue) -> None:
        self._route = route
        self._jobs = jobs
        self._scripts = LuaScripts(jobs.client, __package__, jobs.prefix, folder="lua")
        self._seen = SeenData(self._scripts)
        self.is_leader = False

    async def run(self) -> None:
        """Take part in elections, and advance the watermark while elected; never returns."""
        retry = RedisRetry()
        while True:
            await retry.run(self._renew)
            await asyncio.sleep(LEASE_S / 4)

    async def resign(self) -> None:
        """Let another listener be elected without waiting for the lease to expire. Raises RedisUnavailable."""
        if self.is_leader:
            await self._scripts.run("resign", self._jobs.consumer)

    async def _renew(self) -> None:
        listener, token = self._jobs.consumer, self._jobs.route_token
        seen = self._seen
        reply = await self._scripts.run("elect", listener, int(LEASE_S * 1000), "", 0, 1, token)
        state, watermark_ms, _, data_id = reply
        if await seen.see(str(data_id), int(watermark_ms)):
            self._log("data_loss")
        if state == "leader":
            result, _, watermark_ms, data_id = await self._scripts.run(
                "advance", listener, "", "", "", seen.watermark_ms, token, seen.data_id
            )
            await seen.see(str(data_id), int(watermark_ms))
            self._log(str(result))
        self.is_leader = state == "leader"

    def _log(self, result: str) -> None:
        if result == "first":
            text = "what the source holds already is not copied. Run `s3s3 bucket` once now, even if you ran it before"
            log_event(log, FIRST_START, text, route=self._route)
        elif result == "data_loss":
            log_event(log, GAP_DETECTED, "Redis has lost data; some objects may not be copied yet", route=self._route)
        elif result == "restart":
            text = "Redis was restarted or replaced; its last jobs may be lost"
            log_event(log, GAP_DETECTED, text, route=self._route)
