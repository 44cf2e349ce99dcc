"""Consume a Redis Stream with a consumer group.

    XADD s3s3:notifications * key images/1.fits               (and "bucket", if several routes need it)

Unlike a channel, a stream keeps notifications while no listener runs. All listeners are consumers of one group. An
entry is acknowledged once its jobs are on the queue, and claimed by another listener if that does not happen. The
producers trim the stream.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ..errors import RedisUnavailable
from ..model import Notification
from ..queue.redis_calls import LuaScripts, RedisRetry, is_no_group, translate_errors
from .message import BadMessage, parse_message, printable_message
from .routing import Routing
from .source import NotificationSource, SourceHealth

log = logging.getLogger(__name__)

READ_BATCH = 500
CLAIM_BATCH = 100
START_CURSOR = b"0-0"

#: How long a read blocks, in s. A stop waits for the read to end: entries of a cancelled one would stay pending.
READ_BLOCK_S = 1.0

MAX_SILENCE_S = 30.0

#: Consumers without pending entries that have been idle for this long are deleted, in s.
IDLE_CONSUMER_S = 86_400.0

#: An entry id before 2001 is not a time; the producer has chosen it (redis.io, "XADD").
MIN_TIME_MS = 10**12

Entry = tuple[bytes, Mapping[bytes, bytes]]


class RedisStreamSource(NotificationSource):
    """Receives notifications from a stream.

    Args:
        client: one that returns bytes; keys may not be valid UTF-8.
        consumer: unique name of this process in the group.
        lease_s: another consumer claims an entry that was read and not acknowledged for this long.
    """

    kind = "stream"

    def __init__(
        self,
        client: Redis,
        name: str,
        group: str,
        consumer: str,
        routing: Routing,
        *,
        lease_s: float = 60.0,
        count: Callable[[str], None] = lambda kind: None,
    ) -> None:
        self._client = client
        self._name = name
        self._group = group
        self._consumer = consumer
        self._routing = routing
        self._lease_s = lease_s
        self._health = SourceHealth(str(self), MAX_SILENCE_S, count)
        self._scripts = LuaScripts(client, __package__, name, folder="lua", on_no_group=self._create_group)
        self._has_pending = False  # this consumer has read entries and not acknowledged them
        self._last_claim_s = float("-inf")
        self._cursor = START_CURSOR

    def __str__(self) -> str:
        return f"stream {self._name}"

    async def run(self, stop: asyncio.Event) -> None:
        retry = RedisRetry()
        try:
            while not stop.is_set():
                await retry.run(self._receive, stop)
            await retry.run(partial(self._prune_consumers, self._consumer), stop)
        except RedisUnavailable as error:
            log.warning("%s: cannot leave the consumer group: %s", self, error)

    async def _receive(self) -> None:
        """Deliver the next entries, or wait for some. After a failure, pending entries are read again."""
        try:
            with translate_errors():
                if time.monotonic() - self._last_claim_s >= self._lease_s / 4:
                    await self._claim_stale()
                await self._deliver(await self._read())
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            self._health.problem = f"[stream] name: {self._name!r} is not a stream in Redis; choose another name"
            raise RedisUnavailable(self._health.problem) from error
        except RedisUnavailable as error:
            self._has_pending = True
            self._health.problem = str(error)
            raise
        except Exception:
            self._has_pending = True
            raise
        self._health.record_success()

    async def _read(self) -> list[Entry]:
        after = "0" if self._has_pending else ">"
        try:
            reply: Any = await self._client.xreadgroup(
                self._group, self._consumer, {self._name: after}, count=READ_BATCH, block=int(READ_BLOCK_S * 1000)
            )
        except ResponseError as error:
            if not is_no_group(error):
                raise
            await self._create_group()
            return []
        entries = [entry for _, entries in reply or () for entry in entries]
        self._has_pending = self._has_pending and bool(entries)
        return entries

    async def _create_group(self) -> None:
        """Create the group at the start of the stream: entries added before belong to it."""
        try:
            await self._client.xgroup_create(self._name, self._group, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def _deliver(self, entries: Sequence[Entry]) -> None:
        """Deliver and acknowledge entries. One without fields has been trimmed."""
        notifications = []
        for entry_id, fields in entries:
            if not fields:
                continue
            bucket = fields[b"bucket"].decode("utf-8", "backslashreplace") if b"bucket" in fields else None
            added_ms = int(entry_id.partition(b"-")[0])
            try:
                key = _key(fields)
            except BadMessage as bad:
                text = printable_message(fields.get(b"key", b" ".join(b"%s=%s" % pair for pair in fields.items())))
                await self._routing.dead_letter(text, str(bad), bucket)
                self._health.count_bad(bad, text, "kept as a dead letter of (message)")
            else:
                notified_ms = added_ms if added_ms >= MIN_TIME_MS else None
                notifications.append(Notification(key, bucket, notified_ms=notified_ms))
        if notifications:
            unrouted = await self._routing.deliver(notifications, self.kind)
            self._health.count_unrouted(unrouted, self._routing)
        if entries:
            await self._client.xack(self._name, self._group, *(entry_id for entry_id, _ in entries))

    async def _claim_stale(self) -> None:
        """Claim and deliver some entries that another consumer has not acknowledged within its lease."""
        lease_ms = int(self._lease_s * 1000)
        cursor, claimed = await self._scripts.run(
            "claim_stale", self._group, self._consumer, lease_ms, self._cursor, CLAIM_BATCH
        )
        if claimed:
            log.info("%s: claimed %d entries that another listener had not acknowledged", self, len(claimed))
        await self._deliver([(entry, dict(zip(fields[::2], fields[1::2], strict=True))) for entry, fields in claimed])
        self._cursor = cursor
        if cursor == START_CURSOR:
            self._last_claim_s = time.monotonic()
            await self._prune_consumers("")

    async def _prune_consumers(self, leaving: str) -> None:
        """Delete idle consumers, and the leaving one, from the group, unless they have pending entries."""
        try:
            await self._scripts.run("prune_consumers", self._group, leaving, int(IDLE_CONSUMER_S * 1000))
        except ResponseError as error:
            if "no such key" not in str(error):
                raise


def _key(fields: Mapping[bytes, bytes]) -> str:
    if b"key" not in fields:
        raise BadMessage("no_key", 'entry without a field "key"')
    return parse_message(fields[b"key"])
