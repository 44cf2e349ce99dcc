"""A subscription that notices when it has gone deaf."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis

from ..errors import RedisUnavailable, SubscriptionStale
from ..queue.connection import subscriber
from ..queue.lease import boottime_s
from ..queue.redis_errors import translate_errors
from ..queue.redis_retry import INITIAL_BACKOFF_S, MAX_BACKOFF_S
from ..tasks import run_with_background

log = logging.getLogger(__name__)

PING_EVERY_S = 2.0
DEAF_AFTER_S = 10.0


class Subscription:
    """Hears a channel for ever, over as many connections as it takes.

    A ping of its own is published every two seconds, by another connection, the way producers publish, and has to
    come back in the band of the subscription: so a half-open connection, or one to a server that is nobody's
    master any more, is noticed and replaced.

    Args:
        hearing: a client that does not decode, for the subscription.
        speaking: any client, for the pings.
        subscribed: called each time when a new connection starts to hear; what came before may be lost.
        heard: called with each message.
        pinged: called when a ping came back, with the time it was sent (on the lease's clock): all that was
            published before it has been heard.
        mark_channel: another channel, of which `marked` is told in the order in which things came.
    """

    def __init__(
        self,
        subscriber: Redis,
        speaking: Redis,
        channel: str,
        *,
        subscribed: Callable[[], None],
        heard: Callable[[bytes], None],
        pinged: Callable[[float], None],
        mark_channel: str,
        marked: Callable[[bytes], None],
        ping_every_s: float | None = None,
        deaf_after_s: float | None = None,
    ) -> None:
        self._hearing = subscriber
        self._speaking = speaking
        self._channel = channel
        self._ping_channel = f"s3s3:ping:{secrets.token_hex(8)}"
        self._subscribed = subscribed
        self._heard = heard
        self._pinged = pinged
        self._mark_channel = mark_channel
        self._marked = marked
        self._ping_every_s = ping_every_s or PING_EVERY_S
        self._deaf_after_s = deaf_after_s or DEAF_AFTER_S
        self._pinged_at_s = 0.0
        self.alive = False
        """Whether the last ping came back in time."""

    async def run(self) -> None:
        """Hear for ever."""
        pause_s = INITIAL_BACKOFF_S
        while True:
            try:
                await run_with_background(self._hear(), self._keep_pinging())
            except RedisUnavailable as error:
                if self.alive or pause_s == INITIAL_BACKOFF_S:
                    log.warning("channel %s: %s; subscribing again", self._channel, error)
                pause_s = INITIAL_BACKOFF_S if self.alive else min(pause_s * 2, MAX_BACKOFF_S)
                self.alive = False
            await asyncio.sleep(pause_s)

    async def _hear(self) -> None:
        async with subscriber(self._hearing) as pubsub:
            with translate_errors():
                await pubsub.subscribe(self._channel, self._ping_channel, self._mark_channel)
                while True:
                    self._take(await pubsub.parse_response(block=True))

    def _take(self, answer: list[Any]) -> None:
        kind, channel, text = answer[:3]
        if kind == b"message" and channel == self._ping_channel.encode():
            if not self.alive:
                self.alive = True
                log.info("channel %s: subscribed", self._channel)
            self._pinged_at_s = boottime_s()
            self._pinged(float(text))
        elif kind == b"message" and channel == self._mark_channel.encode():
            self._marked(text)
        elif kind == b"message":
            self._heard(text)
        elif kind == b"subscribe" and channel == self._channel.encode():
            self._subscribed()

    async def ping(self) -> None:
        """Publish a ping. Raises RedisUnavailable."""
        with translate_errors():
            await self._speaking.publish(self._ping_channel, repr(boottime_s()))

    async def _keep_pinging(self) -> None:
        self._pinged_at_s = boottime_s()
        while boottime_s() - self._pinged_at_s < self._deaf_after_s:
            with contextlib.suppress(RedisUnavailable):  # silence is what tells
                await self.ping()
            await asyncio.sleep(self._ping_every_s)
        raise SubscriptionStale(f"no ping came back for {self._deaf_after_s:g} s")
