"""Elect the one listener that enqueues a channel."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from functools import partial

from ..events import ELECTED_LEADER, LOST_LEADERSHIP, log_event
from ..queue.redis_calls import LuaScripts, RedisRetry
from ..tasks import wait_with_timeout
from .subscription import MessageBuffer
from .watermark import Watermark

log = logging.getLogger(__name__)

#: How long a leader stays elected after its last renewal, in s. It renews four times as often.
LEASE_S = 10.0

#: Elections, a quarter of a lease apart, in which a listener that lacks messages defers to other candidates.
MAX_DEFERRALS = 2


class LeaderElection:
    """Takes and renews the leadership of a channel. Each renewal publishes a checkpoint to all listeners.

    Args:
        listener: id of this listener.
        buffer: when elected, it skips what the previous leader has enqueued.
        watermark: converts times to Redis's clock.
        route_token: returns the token of the route's fingerprint; "" is not checked.
        route: its name, for the log.

    Attributes:
        is_leader: whether this listener was the leader at its last renewal.
    """

    def __init__(
        self, scripts: LuaScripts, channel: str, listener: str, buffer: MessageBuffer, watermark: Watermark,
        route_token: Callable[[], str] = str, *, route: str = "",
    ) -> None:  # fmt: skip
        self._route = route
        self._route_token = route_token
        self._scripts = scripts
        self._channel = channel
        self._listener = listener
        self._buffer = buffer
        self._watermark = watermark
        self._retry = RedisRetry()
        self._is_resigning = False
        self.is_leader = False

    async def run(self) -> None:
        """Take part in elections until resignation; never returns."""
        deferrals = 0
        while not self._is_resigning:
            state, enqueued_checkpoint = await self._retry.run(
                partial(self._elect, _new_checkpoint(), deferrals >= MAX_DEFERRALS)
            )
            deferrals = deferrals + 1 if state == "deferred" else 0
            if state == "leader" and not self.is_leader:
                log_event(log, ELECTED_LEADER, route=self._route, channel=self._channel)
                self.is_leader = True
                self._buffer.skip_to(enqueued_checkpoint)
            elif state != "leader" and self.is_leader:
                log_event(log, LOST_LEADERSHIP, route=self._route, channel=self._channel)
                self.is_leader = False
            await wait_with_timeout(self._buffer.leader_resigned, LEASE_S / 4)
            self._buffer.leader_resigned.clear()
        await asyncio.Event().wait()

    async def _elect(self, checkpoint: bytes, may_leave_gap: bool) -> tuple[str, bytes]:
        """Run elect.lua; return the state, and the last checkpoint before which everything is enqueued."""
        subscribed_s = self._buffer.subscribed_s
        complete_from_s = self._buffer.complete_from_s(subscribed_s)
        complete_from_ms = await self._watermark.redis_time_ms(complete_from_s, subscribed_s)
        state, watermark_ms, enqueued_checkpoint, data_id = await self._scripts.run(
            "elect",
            self._listener,
            int(LEASE_S * 1000),
            checkpoint,
            complete_from_ms,
            int(may_leave_gap),
            self._route_token(),
        )
        await self._watermark.see(str(data_id), int(watermark_ms))
        return str(state), str(enqueued_checkpoint).encode()

    async def publish_last_checkpoint(self) -> bytes:
        """Renew the lease a last time; return the published checkpoint. Raises RedisUnavailable."""
        self._is_resigning = True
        checkpoint = _new_checkpoint()
        await self._elect(checkpoint, False)
        return checkpoint

    async def resign(self) -> None:
        """Release the lease. Raises RedisUnavailable."""
        await self._scripts.run("resign", self._listener)


def _new_checkpoint() -> bytes:
    return secrets.token_hex(8).encode()
