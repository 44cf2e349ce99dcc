"""The ear of a route: every listener hears every message, and one of them puts the notices on the queue.

The others keep what they hear for longer than the ear's lease, and put that when they take over: but for what came
before the last mark, which who leads publishes to all of them every few seconds, and notes when everything before it is
on the queue. Without this three listeners copy everything nearly twice. What nobody heard is a gap;
`s3s3.notifications.gap_backfill` sees
to it.

Keys, under the route's prefix:

    ear             who puts the notices, for `LEASE_S`
    watermark       time by Redis's clock (ms) up to which everything published is on the queue
    marked          the last mark before which everything is on the queue; the channel `mark`, with the same prefix,
                    brings marks
    gap             hash: from_ms, where the oldest gap that is not healed yet begins (by Redis's clock; 0: nothing
                    is known), and generation, which grows with each gap and outlives them

A subscription's beginning is asked of Redis's clock once, and all later times are reckoned from it on this process's
own: so neither clock's corrections look like a gap. The source's clock comes in when a gap is healed.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from redis.asyncio import Redis

from ..model import Lane, Route
from ..queue.base import JobRequest
from ..queue.keyspace import keyspace
from ..queue.lease import boottime_s
from ..queue.lua_scripts import LuaScripts
from ..queue.redis_queue import RedisJobQueue
from ..queue.redis_retry import RedisRetry
from ..tasks import run_with_background, wait_with_timeout
from .message import BadMessage, parse_message, printable_message, tell_noticed
from .subscription import Subscription

log = logging.getLogger(__name__)

LEASE_S = 10.0
KEPT_S = 3 * LEASE_S
"""How long a listener that does not lead keeps what it hears: until it takes over, with room to spare."""

AGREE_WITHIN_S = 0.5
"""In a cluster two listeners may hear a mark and a message in another order, if one came right after the other."""

TURNS_LEFT_TO_OTHERS = 2
"""So often, a quarter of a lease apart, a listener that would leave a gap lets others take the ear, who may not."""

SIGN_OFF_WITHIN_S = 1.0

FREE = b""
"""On the channel of marks: who led has left, and does not lead any more."""

MAX_KEPT = 500_000
"""Notices kept while Redis takes none. More are dropped, which leaves a gap, which is healed."""

PUT_AT_ONCE = 500


class BufferedMessage(NamedTuple):
    """A message (`text`), a mark, or, with neither, a ping, over a connection that has heard everything since."""

    at_s: float
    text: bytes | None
    since_s: float
    mark: bytes | None = None


class PubSubSource:
    """Hears a route's channel and sees to it that what is heard gets on the queue.

    Args:
        source_time_ms: now, by the source's clock: what changed during a gap, its modification times tell.
        matches: whether the route is about this key.
        count: called with "pubsub" for each notice that goes on the queue, or with the kind of a bad message.
    """

    def __init__(
        self,
        route: Route,
        channel: str,
        jobs: RedisJobQueue,
        hearing: Redis,
        *,
        source_time_ms: Callable[[], int],
        matches: Callable[[str], bool] = lambda key: True,
        count: Callable[[str], None] = lambda kind: None,
    ) -> None:
        self._route = route.name
        self._all = route.destination_names
        self._channel = channel
        self._jobs = jobs
        self._id = jobs.consumer
        self._prefix = keyspace(route.name)
        self._source_time_ms = source_time_ms
        self._matches = matches
        self._count = count
        self._scripts = LuaScripts(jobs.client, __package__, self._prefix)
        self._heard: deque[BufferedMessage] = deque()
        self._something = asyncio.Event()
        self._subscribed_s = self._dropped_to_s = boottime_s()
        self._base = (0.0, 0)  # the beginning of a subscription, on this process's clock and on Redis's
        self._seen_watermark = False
        self._mark = b""  # the last one before which this listener has put everything
        self._last_mark = b""
        self._signed_off = asyncio.Event()
        self._is_free = asyncio.Event()
        self._bad_kinds: set[str] = set()
        self.leads = False
        self.subscription = Subscription(
            hearing, jobs.client, channel, subscribed=self._subscribed, heard=self._hear, pinged=self._pinged,
            mark_channel=f"{self._prefix}mark", marked=self._marked,
        )  # fmt: skip

    async def run(self) -> None:
        """Hear and put, for ever."""
        await run_with_background(self._keep_putting(), self.subscription.run(), self._keep_leading())

    @property
    def late_s(self) -> float:
        """How long ago the oldest message was heard that this listener has to put on the queue, and has not yet."""
        return boottime_s() - self._heard[0].at_s if self.leads and self._heard else 0.0

    async def _keep_putting(self) -> None:
        while True:
            await self._something.wait()
            if self.leads:
                await self._put_heard()
            else:
                self._something.clear()
                self._forget(older_than_s=KEPT_S)

    # -- hearing

    def _subscribed(self) -> None:
        self._subscribed_s = boottime_s()

    def _hear(self, text: bytes) -> None:
        self._heard.append(BufferedMessage(boottime_s(), text, self._subscribed_s))
        if len(self._heard) > MAX_KEPT:
            log.error("channel %s: over %d notices wait for Redis; they are let go and healed later",
                      self._channel, MAX_KEPT)  # fmt: skip
            self._heard.clear()
            self._dropped_to_s = boottime_s()
        self._something.set()

    def _pinged(self, sent_s: float) -> None:
        # It may have been sent a moment before the subscription stood that brought it.
        self._heard.append(BufferedMessage(max(sent_s, self._subscribed_s), None, self._subscribed_s))
        self._something.set()

    def _marked(self, mark: bytes) -> None:
        if mark == FREE:
            self._is_free.set()
            return
        self._heard.append(BufferedMessage(boottime_s(), None, self._subscribed_s, mark))
        self._something.set()

    def _forget(self, older_than_s: float) -> None:
        oldest_s = boottime_s() - older_than_s
        while self._heard and self._heard[0].at_s < oldest_s:
            self._heard.popleft()
        self._dropped_to_s = max(self._dropped_to_s, oldest_s)

    # -- leading

    async def _keep_leading(self) -> None:
        turns_left_to_others = 0
        while not self._last_mark:
            insists = turns_left_to_others >= TURNS_LEFT_TO_OTHERS
            answer, was_heard = await RedisRetry().run(partial(self._lead, secrets.token_hex(8), insists))
            self._seen_watermark = self._seen_watermark or bool(was_heard)
            turns_left_to_others = turns_left_to_others + 1 if answer < 0 else 0
            leads = answer > 0
            if leads != self.leads:
                if leads:
                    self._skip_to(str(await RedisRetry().run(partial(self._call, "marked"))).encode())
                log.info("channel %s: this listener %s the notices on the queue", self._channel,
                         "puts" if leads else "no longer puts")  # fmt: skip
                self.leads = leads
                self._something.set()
            await wait_with_timeout(self._is_free, LEASE_S / 4)
            self._is_free.clear()
        await asyncio.Event().wait()  # others lead from now on

    async def _lead(self, mark: str, insists: bool) -> Any:
        """Take or keep the ear, with a new mark for all listeners if it is this one's. See `lead` in the script."""
        covered_from_ms = await self._redis_time_ms(max(self._subscribed_s, self._dropped_to_s), self._subscribed_s)
        return await self._call("lead", int(LEASE_S * 1000), mark, covered_from_ms, int(insists))

    def _skip_to(self, mark: bytes) -> None:
        """Forget what came before this mark: who led has put it."""
        marked_s = next((heard.at_s for heard in self._heard if heard.mark == mark), None)
        while marked_s is not None and self._heard[0].at_s < marked_s - AGREE_WITHIN_S:
            self._heard.popleft()

    async def resign(self) -> None:
        """Let another listener lead at once, and know what this one, which stops, has put."""
        if self.leads:
            mark = secrets.token_hex(8)
            self._last_mark = mark.encode()
            await self._lead(mark, False)
            await self.subscription.ping()
            await wait_with_timeout(self._signed_off, SIGN_OFF_WITHIN_S)
            await self._call("leave")

    async def _put_heard(self) -> None:
        """Put what was heard, in order. A ping that is reached moves the watermark: all before it is on the queue."""
        texts: list[bytes] = []
        while self._heard and len(texts) < PUT_AT_ONCE:
            heard = self._heard.popleft()
            if heard.text is not None:
                texts.append(heard.text)
                continue
            await self._put(texts)
            texts = []
            if heard.mark is not None:
                self._mark = heard.mark
            else:
                await RedisRetry().run(partial(self._move_watermark, heard))
                if self._last_mark and self._mark == self._last_mark:
                    self._signed_off.set()
        await self._put(texts)
        if not self._heard:
            self._something.clear()

    async def _put(self, texts: Sequence[bytes]) -> None:
        puts = []
        for text in texts:
            try:
                key = parse_message(text)
            except BadMessage as bad:
                await RedisRetry().run(partial(self._bury, text, bad))
                continue
            if self._matches(key):
                puts.append(JobRequest(key, self._all))
                self._count("pubsub")
        if puts:
            await RedisRetry().run(partial(self._jobs.enqueue, puts, Lane.FRESH))
            tell_noticed(self._route, [put.key for put in puts], f"channel {self._channel}")

    async def _bury(self, text: bytes, bad: BadMessage) -> None:
        self._count(bad.kind)
        if bad.kind not in self._bad_kinds:
            self._bad_kinds.add(bad.kind)
            log.warning("channel %s: a message that names no object (%s): %r; it and others like it are kept as dead "
                        "letters of %s", self._channel, bad, printable_message(text)[:80], "(message)")  # fmt: skip
        await self._jobs.dead_letter_message(printable_message(text), str(bad))

    async def _move_watermark(self, ping: BufferedMessage) -> None:
        covered_from_ms = await self._redis_time_ms(max(ping.since_s, self._dropped_to_s), ping.since_s)
        heard_to_ms = await self._redis_time_ms(ping.at_s, ping.since_s)
        said = await self._call("heard", covered_from_ms, heard_to_ms, int(self._seen_watermark), self._mark)
        self._seen_watermark = True
        if said == "first":
            log.warning("channel %s: heard for the first time; what was published before now nobody heard: run "
                        "`s3s3 bucket` once, even if it ran before", self._channel)  # fmt: skip
        elif said == "gap":
            log.warning("channel %s: nobody listened for a while; what changed meanwhile will be looked at",
                        self._channel)  # fmt: skip

    async def _redis_time_ms(self, at_s: float, since_s: float) -> int:
        """Return a time of this process's clock on Redis's, by way of the subscription's beginning `since_s`."""
        if self._base[0] != since_s:
            now_ms = int(await self._call("time"))
            self._base = (since_s, now_ms - round(1000 * (boottime_s() - since_s)))
        return self._base[1] + round(1000 * (at_s - since_s))

    async def gap(self) -> tuple[int, str] | None:
        """Return where the gap that is to be healed begins (ms, by the source's clock) and its generation, or None.

        0 means that nothing is known of what came before.
        """
        found = await self._call("gap")
        if not found:
            return None
        age_ms, generation = int(found[0]), str(found[1])
        return (0 if age_ms < 0 else self._source_time_ms() - age_ms), generation

    async def healed(self, generation: str) -> None:
        """Say that the gap of this generation is healed."""
        await self._call("healed", generation)

    async def _call(self, word: str, *args: str | bytes | int) -> Any:
        return await self._scripts.run("watermark", word, self._id, *args)
