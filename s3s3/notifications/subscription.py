"""Redis subscription with a loopback ping that detects dead connections."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis

from ..errors import RedisUnavailable, SubscriptionStale
from ..queue.connection import subscriber
from ..queue.lease import boottime_s
from ..queue.redis_calls import INITIAL_BACKOFF_S, MAX_BACKOFF_S, translate_errors
from ..tasks import run_with_background

log = logging.getLogger(__name__)

#: Time between two pings, in s.
PING_INTERVAL_S = 2.0

#: A subscription that has not received a ping for this long is replaced, in s.
STALE_AFTER_S = 10.0


class Subscription:
    """Subscribes to a channel, and again whenever the connection is lost.

    A ping is published at an interval, over another connection, as producers publish. It must return on the
    subscription. This detects a half-open connection, and one to a server that has lost its role as the master.

    Args:
        subscriber_client: a client for the subscription that returns bytes.
        client: any client, for the pings.
        on_subscribed: called when a new connection is subscribed. Messages before that may be lost.
        on_message: called with each message.
        on_ping: called with the time (`boottime_s`) at which a returned ping was sent. Every message published before
            has been received.
        checkpoint_channel: a second channel; `on_checkpoint` gets its messages, in order with those of the first.

    Attributes:
        alive: whether the last ping returned in time.
    """

    def __init__(
        self,
        subscriber_client: Redis,
        client: Redis,
        channel: str,
        *,
        on_subscribed: Callable[[], None],
        on_message: Callable[[bytes], None],
        on_ping: Callable[[float], None],
        checkpoint_channel: str,
        on_checkpoint: Callable[[bytes], None],
    ) -> None:
        self._subscriber_client = subscriber_client
        self._client = client
        self._channel = channel
        self._ping_channel = f"s3s3:ping:{secrets.token_hex(8)}"
        self._checkpoint_channel = checkpoint_channel
        self._on_subscribed = on_subscribed
        self._on_message = on_message
        self._on_ping = on_ping
        self._on_checkpoint = on_checkpoint
        self._last_ping_s = 0.0
        self.alive = False

    async def run(self) -> None:
        """Stay subscribed; never returns."""
        backoff_s = INITIAL_BACKOFF_S
        while True:
            try:
                await run_with_background(self._receive(), self._ping_loop())
            except RedisUnavailable as error:
                if self.alive or backoff_s == INITIAL_BACKOFF_S:
                    log.warning("channel %s: %s; subscribing again", self._channel, error)
                backoff_s = INITIAL_BACKOFF_S if self.alive else min(backoff_s * 2, MAX_BACKOFF_S)
                self.alive = False
            await asyncio.sleep(backoff_s)

    async def _receive(self) -> None:
        async with subscriber(self._subscriber_client) as pubsub:
            with translate_errors():
                await pubsub.subscribe(self._channel, self._ping_channel, self._checkpoint_channel)
                while True:
                    self._dispatch(await pubsub.parse_response(block=True))

    def _dispatch(self, reply: list[Any]) -> None:
        kind, channel, text = reply[:3]
        if kind == b"message" and channel == self._ping_channel.encode():
            if not self.alive:
                self.alive = True
                log.info("channel %s: subscribed", self._channel)
            self._last_ping_s = time.monotonic()
            self._on_ping(float(text))
        elif kind == b"message" and channel == self._checkpoint_channel.encode():
            self._on_checkpoint(text)
        elif kind == b"message":
            self._on_message(text)
        elif kind == b"subscribe" and channel == self._channel.encode():
            self._on_subscribed()

    async def ping(self) -> None:
        """Publish a ping. Raises RedisUnavailable."""
        with translate_errors():
            await self._client.publish(self._ping_channel, repr(boottime_s()))

    async def _ping_loop(self) -> None:
        self._last_ping_s = time.monotonic()
        while time.monotonic() - self._last_ping_s < STALE_AFTER_S:
            with contextlib.suppress(RedisUnavailable):  # the missing ping is detected below
                await self.ping()
            await asyncio.sleep(PING_INTERVAL_S)
        raise SubscriptionStale(f"no ping returned for {STALE_AFTER_S:g} s")
