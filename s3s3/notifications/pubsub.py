"""Consume a pub/sub channel into the queue.

Every listener receives every message; only the elected leader enqueues it. The others buffer messages for longer than
the leader's lease; one that becomes the leader enqueues them. The leader publishes a checkpoint with each renewal, and
records the last one before which everything is enqueued: its successor skips what precedes it.

Redis drops messages that no listener receives. Such a gap is recorded, and `s3s3.notifications.gap_backfill` closes it.

Keys, under the route's prefix:

    leader          id of the listener that enqueues the channel; expires `LEASE_S` after its last renewal
    watermark       time by Redis's clock (ms) up to which every published message is on the queue
    checkpoint      last checkpoint before which every message is on the queue; the channel of the same name
                    distributes checkpoints
    data            id of the route's data, made with the first watermark: with another one, Redis has lost the data
    gap             hash: from_ms, where the oldest gap that is not healed yet begins (by Redis's clock; 0: unknown, as
                    Redis has lost data); generation, which grows with each gap and outlives them; healed, the
                    destinations at which it is healed, with a space between them; lost, the id of the data that were
                    recorded as lost last
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from redis.asyncio import Redis

from ..model import Lane, Route, matcher
from ..queue.base import JobRequest
from ..queue.redis_calls import LuaScripts, RedisRetry
from ..queue.redis_queue import RedisJobQueue
from ..tasks import Restarts, run_with_background, wait_with_timeout
from .leader_election import LEASE_S, LeaderElection
from .message import BadMessage, log_enqueued, parse_message, printable_message
from .source import SourceHealth
from .subscription import BufferedMessage, MessageBuffer, Subscription
from .watermark import Watermark

#: How long a listener that does not lead keeps messages, in s; more than enough to be elected after a leader's death.
KEPT_S = 3 * LEASE_S

#: How long a leader that resigns waits for its last checkpoint to be recorded, in s.
RESIGN_TIMEOUT_S = 1.0

MAX_BATCH = 500


class PubSubSource:
    """Receives a route's channel, and enqueues its messages while this listener is the leader.

    Args:
        subscriber_client: a client for the subscription that returns bytes; messages may not be valid UTF-8.
        count: called with "pubsub" for each enqueued message, or with the kind of an unusable one.
        restarts: the route's; restarts what fails with an internal error.

    Attributes:
        subscription: its `alive` is whether the connection works.
    """

    def __init__(
        self,
        route: Route,
        channel: str,
        jobs: RedisJobQueue,
        subscriber_client: Redis,
        *,
        count: Callable[[str], None] = lambda kind: None,
        restarts: Restarts | None = None,
    ) -> None:
        self._restarts = restarts or Restarts(f"route {route.name}")
        self._route = route.name
        self._destinations = route.destination_names
        self._channel = channel
        self._jobs = jobs
        self._matches = matcher(route)
        self._count = count
        self._checkpoint = b""  # the last one before which this listener has enqueued everything
        self._last_checkpoint: bytes | None = None
        self._last_checkpoint_recorded = asyncio.Event()
        self._health = SourceHealth(f"channel {channel}", 0, count)
        self._retry = RedisRetry()
        scripts = LuaScripts(jobs.client, __package__, jobs.prefix, folder="lua")
        self._buffer = MessageBuffer(channel, is_leader=lambda: self.is_leader)

        def route_token() -> str:
            return jobs.route_token

        self.watermark = Watermark(scripts, channel, jobs.consumer, route_token, route=route.name)
        self._election = LeaderElection(
            scripts, channel, jobs.consumer, self._buffer, self.watermark, route_token, route=route.name
        )
        self.subscription = Subscription(subscriber_client, jobs.client, channel, jobs.prefix, self._buffer)

    @property
    def is_leader(self) -> bool:
        return self._election.is_leader

    @property
    def lag_s(self) -> float:
        """How long ago the oldest message was received that this listener, as the leader, has yet to enqueue."""
        return self._buffer.oldest_age_s if self.is_leader else 0.0

    async def run(self) -> None:
        """Receive, and enqueue while this listener is the leader; never returns."""
        enqueueing, receiving, electing = (
            self._restarts.run(activity, task)
            for activity, task in (
                ("enqueueing messages", self._enqueue_received),
                (f"receiving channel {self._channel}", self.subscription.run),
                ("electing a leader", self._election.run),
            )
        )
        await run_with_background(enqueueing, receiving, electing)

    async def resign(self) -> None:
        """Record what is enqueued, and let another listener be elected without waiting for the lease to expire.

        Raises:
            RedisUnavailable: another listener takes over when the lease expires.
        """
        if self.is_leader:
            self._last_checkpoint = await self._election.publish_last_checkpoint()
            await self.subscription.ping()
            await wait_with_timeout(self._last_checkpoint_recorded, RESIGN_TIMEOUT_S)
            await self._election.resign()

    # -- enqueueing

    async def _enqueue_received(self) -> None:
        while True:
            await self._buffer.changed.wait()
            if self.is_leader:
                await self._enqueue_batch()
            else:
                self._buffer.changed.clear()
                self._buffer.discard_older_than(KEPT_S)

    async def _enqueue_batch(self) -> None:
        """Enqueue messages in order. At a returned ping everything before it is on the queue: advance the watermark."""
        batch: list[BufferedMessage] = []
        try:
            while self._buffer.messages and len(batch) < MAX_BATCH:
                message = self._buffer.pop()
                batch.append(message)
                if message.text is not None:
                    continue
                await self._enqueue(batch)
                batch = []
                if message.checkpoint is not None:
                    self._checkpoint = message.checkpoint
                    continue
                complete_from_s = self._buffer.complete_from_s(message.subscribed_s)
                await self._retry.run(
                    partial(
                        self.watermark.advance, complete_from_s, message.at_s, message.subscribed_s, self._checkpoint
                    )
                )
                if self._checkpoint == self._last_checkpoint:
                    self._last_checkpoint_recorded.set()
            await self._enqueue(batch)
        except BaseException:
            self._buffer.put_back(batch)  # an internal error, or a cancellation: the next call enqueues them
            raise
        if not self._buffer.messages:
            self._buffer.changed.clear()

    async def _enqueue(self, batch: Sequence[BufferedMessage]) -> None:
        requests = []
        for message in batch:
            if message.text is None:
                continue
            try:
                key = parse_message(message.text, message.size_bytes)
            except BadMessage as bad:
                printable = printable_message(message.text, message.size_bytes)
                self._health.count_bad(bad, printable, "kept as a dead letter of (message)")
                await self._retry.run(partial(self._jobs.dead_letter_message, printable, str(bad)))
                continue
            if self._matches(key):
                requests.append(JobRequest(key, self._destinations))
                self._count("pubsub")
        if requests:
            await self._retry.run(partial(self._jobs.enqueue, requests, Lane.FRESH))
            log_enqueued(self._route, [request.key for request in requests], f"channel {self._channel}")
