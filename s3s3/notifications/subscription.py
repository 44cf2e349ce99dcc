"""Buffer what a Redis subscription receives; detect dead connections with a loopback ping."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis

from ..errors import RedisUnavailable, SubscriptionStale
from ..model import MAX_KEY_BYTES
from ..queue.base import boottime_s
from ..queue.connection import subscriber
from ..queue.redis_calls import INITIAL_BACKOFF_S, MAX_BACKOFF_S, translate_errors
from ..tasks import backoff_s, run_with_background

log = logging.getLogger(__name__)

#: Time between two pings, in s.
PING_INTERVAL_S = 2.0

#: A subscription that has not received a ping for this long is replaced, in s.
STALE_AFTER_S = 10.0

#: What is kept of messages that are not enqueued yet. Of more, the oldest are discarded; at a leader that leaves a gap
#: to backfill. With the usual keys of 40 bytes, these are 280,000 messages.
MAX_BUFFER_BYTES = 64 * 1024 * 1024

#: What a buffered message takes besides its text, in bytes (measured with CPython 3.11).
MESSAGE_OVERHEAD_BYTES = 200

#: What is kept of a message that is too long for a key.
MAX_TEXT_BYTES = MAX_KEY_BYTES + 1

#: Published on the checkpoint channel by a leader that has resigned.
NO_LEADER = b""

#: Two listeners of a Redis Cluster may receive a checkpoint and a message in different orders if they were published
#: less than this apart, in s.
MAX_REORDERING_S = 0.5


class BufferedMessage(NamedTuple):
    """A message (`text`), a checkpoint, or, with neither, a returned ping.

    Attributes:
        at_s: when it was received; for a ping, when it was sent. On the clock of `boottime_s`.
        subscribed_s: when the subscription that received it began. It has received every message since then.
        text: its first `MAX_TEXT_BYTES`.
        size_bytes: of the whole message.
    """

    at_s: float
    subscribed_s: float
    text: bytes | None = None
    checkpoint: bytes | None = None
    size_bytes: int = 0


class MessageBuffer:
    """What a subscription received and is not enqueued yet.

    Args:
        is_leader: whether this listener has to enqueue them.

    Attributes:
        messages: oldest first.
        size_bytes: what they take.
        subscribed_s: when the current subscription began, on the clock of `boottime_s`.
        changed: set when messages were received, or may be enqueued now.
        leader_resigned: set when the leader has resigned.
    """

    def __init__(self, channel: str, *, is_leader: Callable[[], bool] = lambda: True) -> None:
        self._channel = channel
        self._is_leader = is_leader
        self.size_bytes = 0
        self.messages: deque[BufferedMessage] = deque()
        self.subscribed_s = self._discarded_to_s = boottime_s()
        self.changed = asyncio.Event()
        self.leader_resigned = asyncio.Event()

    @property
    def oldest_age_s(self) -> float:
        """How long ago the oldest was received; 0 if there is none."""
        return boottime_s() - self.messages[0].at_s if self.messages else 0.0

    def complete_from_s(self, subscribed_s: float) -> float:
        """Return when this listener's messages of a subscription begin to be complete: none was discarded since."""
        return max(subscribed_s, self._discarded_to_s)

    def on_subscribed(self) -> None:
        self.subscribed_s = boottime_s()

    def on_message(self, text: bytes) -> None:
        if self.size_bytes >= MAX_BUFFER_BYTES:
            self._discard_half()
        size_bytes = len(text)
        self._append(BufferedMessage(boottime_s(), self.subscribed_s, text[:MAX_TEXT_BYTES], size_bytes=size_bytes))

    def _discard_half(self) -> None:
        count = 0
        while self.messages and self.size_bytes > MAX_BUFFER_BYTES // 2:
            self._discarded_to_s = max(self._discarded_to_s, self.pop().at_s)
            count += 1
        if self._is_leader():
            log.error("channel %s: Redis accepts no jobs and the buffer is full: %d messages discarded; they will be "
                      "backfilled", self._channel, count)  # fmt: skip

    def on_ping(self, sent_s: float) -> None:
        # The ping may have been sent a moment before the subscription began.
        self._append(BufferedMessage(max(sent_s, self.subscribed_s), self.subscribed_s))

    def on_checkpoint(self, checkpoint: bytes) -> None:
        if checkpoint == NO_LEADER:
            self.leader_resigned.set()
            return
        self._append(BufferedMessage(boottime_s(), self.subscribed_s, checkpoint=checkpoint))

    def _append(self, message: BufferedMessage) -> None:
        self.messages.append(message)
        self.size_bytes += _size_of(message)
        self.changed.set()

    def pop(self) -> BufferedMessage:
        """Remove the oldest message and return it."""
        message = self.messages.popleft()
        self.size_bytes -= _size_of(message)
        return message

    def put_back(self, messages: Sequence[BufferedMessage]) -> None:
        """Insert messages that were not enqueued before all others."""
        self.messages.extendleft(reversed(messages))
        self.size_bytes += sum(map(_size_of, messages))

    def discard_older_than(self, age_s: float) -> None:
        """Discard what was received longer ago than that."""
        oldest_s = boottime_s() - age_s
        while self.messages and self.messages[0].at_s < oldest_s:
            self.pop()
        self._discarded_to_s = max(self._discarded_to_s, oldest_s)

    def skip_to(self, checkpoint: bytes) -> None:
        """Drop what precedes a checkpoint, if it is here: the previous leader has enqueued it."""
        at_s = next((message.at_s for message in self.messages if message.checkpoint == checkpoint), None)
        while at_s is not None and self.messages[0].at_s < at_s - MAX_REORDERING_S:
            self.pop()
        self.changed.set()


def _size_of(message: BufferedMessage) -> int:
    return MESSAGE_OVERHEAD_BYTES + len(message.text or b"")


class Subscription:
    """Subscribes to a channel, and again whenever the connection is lost.

    A ping is published at an interval, over another connection, as producers publish. It must return on the
    subscription. This detects a half-open connection, and one to a server that has lost its role as the master.

    Args:
        subscriber_client: a client for the subscription that returns bytes.
        client: any client, for the pings.
        prefix: the prefix of the route's Redis keys, also of the channels for pings and checkpoints. Checkpoints are
            received in order with the messages of `channel`.
        buffer: gets what is received.

    Attributes:
        alive: whether the last ping returned in time.
    """

    def __init__(
        self,
        subscriber_client: Redis,
        client: Redis,
        channel: str,
        prefix: str,
        buffer: MessageBuffer,
    ) -> None:
        self._subscriber_client = subscriber_client
        self._client = client
        self._channel = channel
        self._ping_channel = f"{prefix}ping:{secrets.token_hex(8)}"
        self._checkpoint_channel = f"{prefix}checkpoint"
        self._buffer = buffer
        self._last_ping_s = 0.0
        self.alive = False

    async def run(self) -> None:
        """Stay subscribed; never returns."""
        failures = 0
        while True:
            try:
                await run_with_background(self._receive(), self._ping_loop())
            except RedisUnavailable as error:
                failures = 1 if self.alive else failures + 1
                if failures == 1:
                    log.warning("channel %s: %s; subscribing again", self._channel, error)
            finally:
                self.alive = False
            await asyncio.sleep(backoff_s(failures, INITIAL_BACKOFF_S, MAX_BACKOFF_S))

    async def _receive(self) -> None:
        channels = self._channel, self._ping_channel, self._checkpoint_channel
        own, ping, checkpoint = (channel.encode() for channel in channels)
        async with subscriber(self._subscriber_client) as pubsub:
            with translate_errors():
                await pubsub.subscribe(*channels)
                while True:
                    reply: Any = await pubsub.parse_response(block=True)
                    kind, channel, text = reply[:3]
                    if kind == b"subscribe" and channel == own:
                        self._buffer.on_subscribed()
                    elif kind == b"message" and channel == ping:
                        if not self.alive:
                            self.alive = True
                            log.info("channel %s: subscribed", self._channel)
                        self._last_ping_s = time.monotonic()
                        self._buffer.on_ping(float(text))
                    elif kind == b"message" and channel == checkpoint:
                        self._buffer.on_checkpoint(text)
                    elif kind == b"message":
                        self._buffer.on_message(text)

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
