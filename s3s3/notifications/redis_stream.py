"""A Redis Stream that producers XADD to: the way to notify that loses nothing, whoever is away.

    XADD s3s3:notifications * key images/1.fits               (and "bucket", where several routes need it)

All listeners of a fleet are consumers of one group. An entry is acknowledged once its jobs are on the queue; the stream
itself is the producers', who trim it. What a dead listener had read and not acknowledged, another one claims.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ..errors import RedisUnavailable
from ..model import Notification
from ..queue.lease import boottime_s
from ..queue.lua_scripts import LuaScripts
from ..queue.redis_errors import is_no_group, translate_errors
from ..queue.redis_retry import RedisRetry
from .message import BadMessage, parse_message, printable_message
from .source import Deliver, SourceHealth

log = logging.getLogger(__name__)

READ_AT_ONCE = 500
LAPSED_AT_ONCE = 100
FROM_THE_START = b"0-0"
WAIT_S = 1.0
"""How long a read waits; a listener that is told to stop is let go after this. What a read that is cut off had brought
would wait for its lease."""

SILENT_S = 30.0
FORGOTTEN_AFTER_S = 86_400.0
FIRST_REAL_MS = 10**12
"""An id with a time before 2001 is one that a producer has chosen, and no time (redis.io, "XADD")."""

Entry = tuple[bytes, Mapping[bytes, bytes]]


class RedisStreamSource:
    """Takes notices from a stream.

    Args:
        client: one that does not decode: keys may be no UTF-8.
        consumer: this process's name in the group; no two have the same.
        lease_s: an entry that was read and not acknowledged for so long belongs to whoever claims it.
    """

    kind = "stream"

    def __init__(
        self,
        client: Redis,
        name: str,
        group: str,
        consumer: str,
        routing: Deliver,
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
        self._health = SourceHealth(str(self), SILENT_S, count)
        self._scripts = LuaScripts(client, __package__, name)
        self._owes = False  # some of what this process has read is not acknowledged
        self._looked_for_lapsed_at_s = 0.0
        self._cursor = FROM_THE_START

    def __str__(self) -> str:
        return f"stream {self._name}"

    async def run(self, stop: asyncio.Event) -> None:
        patience = RedisRetry()
        try:
            while not stop.is_set():
                await patience.run(self._take_some, stop)
            await patience.run(partial(self._leave, self._consumer), stop)
        except RedisUnavailable as error:
            log.warning("%s: could not sign off: %s", self, error)

    async def _take_some(self) -> None:
        """Take what is there, or wait for it. What is read and not acknowledged when this fails is read again."""
        try:
            with translate_errors():
                if boottime_s() - self._looked_for_lapsed_at_s >= self._lease_s / 4:
                    await self._take_lapsed()
                await self._take(await self._read())
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            self._health.wrong = f"[stream] name: {self._name!r} is no stream in Redis; give it another name"
            raise RedisUnavailable(self._health.wrong) from error
        except RedisUnavailable as error:
            self._owes = True
            self._health.wrong = str(error)
            raise
        self._health.answered()

    async def _read(self) -> list[Entry]:
        since = "0" if self._owes else ">"
        try:
            answer: Any = await self._client.xreadgroup(
                self._group, self._consumer, {self._name: since}, count=READ_AT_ONCE, block=int(WAIT_S * 1000)
            )
        except ResponseError as error:
            if not is_no_group(error):
                raise
            await self._make_group()
            return []
        entries = [entry for _, entries in answer or () for entry in entries]
        self._owes = self._owes and bool(entries)
        return entries

    async def _make_group(self) -> None:
        """Make the group, from the stream's start: what came before it is its own, too."""
        try:
            await self._client.xgroup_create(self._name, self._group, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def _take(self, entries: Iterable[Entry]) -> None:
        """Have entries delivered, and acknowledge them. One without fields has been trimmed away."""
        notices, ids = [], []
        for entry, fields in entries:
            ids.append(entry)
            try:
                if fields:
                    notices.append(_notice_of(entry, fields))
            except BadMessage as bad:
                text = _text_of(fields)
                await self._routing.bury(text, str(bad), _bucket_of(fields))
                self._health.bad(bad, text, "are kept as dead letters of (message)")
        if notices:
            self._health.unrouted(await self._routing.deliver(notices, self.kind))
        if ids:
            await self._client.xack(self._name, self._group, *ids)

    async def _take_lapsed(self) -> None:
        """Take some of what others have read and not acknowledged for longer than a lease."""
        lease_ms = int(self._lease_s * 1000)
        try:
            cursor, found = await self._scripts.run(
                "claim_stale", self._group, self._consumer, lease_ms, self._cursor, LAPSED_AT_ONCE
            )
        except ResponseError as error:
            if not is_no_group(error):
                raise
            await self._make_group()
            return
        if found:
            log.info("%s: %d entries of a listener that died are taken over", self, len(found))
        await self._take([(entry, dict(zip(fields[::2], fields[1::2], strict=True))) for entry, fields in found])
        self._cursor = cursor
        if cursor == FROM_THE_START:
            self._looked_for_lapsed_at_s = boottime_s()
            await self._leave("")

    async def _leave(self, consumer: str) -> None:
        """Take this consumer out of the group, unless it owes something, and those that were forgotten."""
        try:
            await self._scripts.run("prune_consumers", self._group, consumer, int(FORGOTTEN_AFTER_S * 1000))
        except ResponseError as error:
            if not is_no_group(error) and "no such key" not in str(error):
                raise

    def health_problem(self) -> str:
        return self._health.health_problem()

    async def readiness_problems(self) -> list[str]:
        return self._health.readiness_problems()


def _notice_of(entry: bytes, fields: Mapping[bytes, bytes]) -> Notification:
    if b"key" not in fields:
        raise BadMessage("no key", 'an entry without a field "key"')
    sent_ms = int(entry.partition(b"-")[0])
    return Notification(
        parse_message(fields[b"key"]), _bucket_of(fields), notified_ms=sent_ms if sent_ms >= FIRST_REAL_MS else None
    )


def _bucket_of(fields: Mapping[bytes, bytes]) -> str | None:
    return fields[b"bucket"].decode("utf-8", "backslashreplace") if b"bucket" in fields else None


def _text_of(fields: Mapping[bytes, bytes]) -> str:
    """Return an entry as people may be shown it: its key, or, where it has none, its fields."""
    if b"key" in fields:
        return printable_message(fields[b"key"])
    return printable_message(b" ".join(b"%s=%s" % pair for pair in fields.items()))
