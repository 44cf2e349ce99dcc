"""Limits of destinations, held by all processes together: so many requests, or bytes sent, a second.

Each unit (requests, bytes) of a destination has a schedule in Redis: whoever wants to send reserves the next stretch of
it and waits for its beginning (the generic cell rate algorithm). So turns go round in the order in which processes ask,
nobody has to ask twice, and a round trip reserves about a tenth of a second of work.

Key, under the route's prefix:

    limit:DEST:UNIT     hash: due, where the free part of the schedule begins (Redis's clock, us), and ID, when each
                        process asked last, which tells among how many the rate is shared

While Redis is away each process keeps the share that it had last. Without Redis a process has the whole rate.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from redis.asyncio import Redis

from ..errors import JobReleased, RedisUnavailable
from ..model import Endpoint, Route, Window
from ..monitoring.metrics import Metrics
from ..queue.keyspace import keyspace
from ..queue.lease import boottime_s
from ..queue.lua_scripts import LuaScripts
from ..s3 import Priority

log = logging.getLogger(__name__)

BURST_S = 1.0
"""What was not used is kept for so long."""

RESERVED_S = 0.1
MIN_BYTES = 16 * 1024
"""What is reserved at once: a tenth of a second's worth, but never less than one request or 16 KiB."""

AWAY_S = 5.0
"""How long a Redis that does not answer is left alone: meanwhile it is the last share that counts."""

SLOW_STREAM_BYTES_PER_S = 32 * 1024
"""A store drops a PUT or a GET that hardly moves, so rather than many slow ones there are a few."""

INITIAL_MEAN_BYTES = 256 * 1024


class Reservation(NamedTuple):
    """What a reservation brought: how long to wait for it, how much of the schedule is unused, who shares it."""

    wait_s: float
    credit_s: float
    sharers: int


Ask = Callable[[float], Awaitable[Reservation]]


def rate_limiters(route: Route, client: Redis | None, metrics: Metrics) -> dict[str, DestinationRateLimiter]:
    """Return the limits of a route's destinations by name; those that have none are not in it.

    `client` None: nobody shares them.
    """
    return {
        there.name: DestinationRateLimiter(route.name, there, client, metrics)
        for there in route.destinations
        if there.max_requests_per_s or there.max_bytes_per_s
    }


class DestinationRateLimiter:
    """The limits of one destination: the gate of its `Store`."""

    def __init__(self, route: str, endpoint: Endpoint, client: Redis | None, metrics: Metrics) -> None:
        def waited(seconds: float) -> None:
            metrics.limit_wait_seconds[route, endpoint.name] += seconds

        def meter(unit: str, windows: Sequence[Window], least: int) -> GcraLimiter | None:
            key = f"{keyspace(route)}limit:{endpoint.name}:{unit}"
            ask = RedisGcra(client, key).reserve if client else None
            return GcraLimiter(windows, least, ask, waited) if windows else None

        self._requests = meter("requests", endpoint.max_requests_per_s, 1)
        self._bytes = meter("bytes", endpoint.max_bytes_per_s, MIN_BYTES)
        self._mean_bytes = float(INITIAL_MEAN_BYTES)

    async def admit(self, size_bytes: int, *, streamed: bool, priority: Priority = Priority.NORMAL) -> None:
        """Wait until a request may be sent, with its body where that is not streamed.

        Args:
            urgent: before what this process sends else; a listing, which speaks for a thousand keys.
            begun: it belongs to something that has begun, and is let through after `give_up`, too.

        Raises:
            HandedBack: it would have had to wait, and this process is about to end.
        """
        if self._requests:
            await self._requests.take(1, priority is Priority.URGENT, priority is not Priority.NORMAL)
        if self._bytes and size_bytes:
            self._mean_bytes += (size_bytes - self._mean_bytes) / 16
            if not streamed:
                await self._bytes.take(size_bytes, begun=priority is not Priority.NORMAL)

    def stop_admitting(self) -> None:
        """Let nothing wait to begin any more, since this process is about to end."""
        for meter in (self._requests, self._bytes):
            if meter:
                meter.gave_up = True

    async def admit_chunk(self, size_bytes: int) -> None:
        """Wait until so much of a stream may be sent."""
        if self._bytes:
            await self._bytes.take(size_bytes, begun=True)

    @property
    def chunk_bytes(self) -> int:
        """How much of a stream to send at once."""
        return self._bytes.piece if self._bytes else 1 << 62

    def slots(self, share: int) -> int | None:
        """Return how many jobs may be under way to it, given its share of a process's slots; None: any number.

        What is at hand may go out at once; more would only stand there and wait, in the way of other destinations.
        """
        found = []
        if self._requests and self._requests.per_s:
            found.append(share + int(self._requests.at_hand))
        if self._bytes and (per_s := self._bytes.per_s):
            mean_bytes = max(self._mean_bytes, 1.0)
            streams = per_s / max(mean_bytes, SLOW_STREAM_BYTES_PER_S)
            found.append(max(min(share, int(streams)), min(share, 2)) + int(self._bytes.at_hand / mean_bytes))
        return min(found) if found else None


class GcraLimiter:
    """One unit of one destination, as this process takes it, in the order in which it is asked for.

    Args:
        windows: the rates by hours of the day (local time).
        least: reserve no less at once.
        ask: reserves so many seconds of the common schedule; None: there is none but this process's own.
        waited: told of every wait.

    Attributes:
        gave_up: what would have to wait is refused, but for what has begun.
    """

    def __init__(self, windows: Sequence[Window], least: int, ask: Ask | None, waited: Callable[[float], None]) -> None:
        self._windows = windows
        self._least = least
        self._ask = ask
        self._waited = waited
        self._turn = asyncio.Lock()
        self._reserved = 0.0
        self._told = Reservation(0.0, 0.0, 1)
        self._told_at_s = boottime_s()
        self._own_due_s = 0.0
        self._ask_again_at_s = 0.0
        self.gave_up = False

    @property
    def per_s(self) -> float | None:
        """The rate that holds now; None: no limit."""
        now = time.localtime()
        minute = now.tm_hour * 60 + now.tm_min
        return next((window.per_s for window in self._windows if window.covers(minute)), None)

    @property
    def piece(self) -> int:
        """What is reserved at once."""
        return max(self._least, int((self.per_s or 0) * RESERVED_S)) if self.per_s else 1 << 62

    @property
    def at_hand(self) -> float:
        """How much can be taken without waiting, as far as is known here."""
        credit_s = min(self._told.credit_s + boottime_s() - self._told_at_s, BURST_S)
        return self._reserved + max(credit_s, 0.0) * (self.per_s or 0.0) / self._told.sharers

    async def take(self, amount: int, urgent: bool = False, begun: bool = False) -> None:
        """Wait until so much may go out. Raises HandedBack where it gave up."""
        if self.per_s is None:
            return
        if urgent:
            await self._reserve(amount)
            return
        if self._reserved >= amount and not self._turn.locked():
            self._reserved -= amount
            return
        async with self._turn:
            left = float(amount)
            while left > 0:
                if self.gave_up and not begun:
                    raise JobReleased("it waited for its turn when this process was told to stop: others go on with it")
                if self._reserved <= 0:
                    piece = self.piece
                    if not await self._reserve(piece):
                        return
                    self._reserved = piece
                part = min(left, self._reserved)
                self._reserved -= part
                left -= part

    async def _reserve(self, amount: int) -> bool:
        """Reserve, and wait for the turn. Return False where there is no limit any more."""
        per_s = self.per_s
        if per_s is None:
            return False
        wait_s = await self._wait_s(amount / per_s)
        if wait_s > 0:
            self._waited(wait_s)
            await asyncio.sleep(wait_s)
        return True

    async def _wait_s(self, span_s: float) -> float:
        now_s = boottime_s()
        if self._ask is not None and now_s >= self._ask_again_at_s:
            try:
                self._told = await self._ask(span_s)
            except RedisUnavailable as error:
                log.warning("a limit cannot be shared out, so this process keeps its last share of it: %s", error)
                self._ask_again_at_s = boottime_s() + AWAY_S
            else:
                self._told_at_s = now_s
                return self._told.wait_s
        burst_s = BURST_S if self._ask is None else 0.0
        now_s = boottime_s()
        due_s = max(self._own_due_s, now_s - burst_s)
        self._own_due_s = due_s + span_s * self._told.sharers
        self._told = Reservation(0.0, now_s - self._own_due_s, self._told.sharers)
        self._told_at_s = now_s
        return max(due_s - now_s, 0.0)


class RedisGcra:
    """The schedule of one unit in Redis."""

    def __init__(self, client: Redis, key: str) -> None:
        self._id = secrets.token_hex(6)
        self._scripts = LuaScripts(client, __package__, key)

    async def reserve(self, span_s: float) -> Reservation:
        """Reserve so many seconds. Raises RedisUnavailable."""
        wait_us, credit_us, sharers = await self._scripts.run(
            "rate_limiter", self._id, round(span_s * 1e6), round(BURST_S * 1e6)
        )
        return Reservation(wait_us / 1e6, credit_us / 1e6, sharers)
