"""Per-destination rate limits shared through Redis (GCRA).

Each unit (requests, bytes) of a destination has a schedule in Redis. A process reserves the next free stretch of it and
waits until that stretch begins: the generic cell rate algorithm. So processes are served in the order of their
requests, each asks once, and one round trip reserves a tenth of a second of work. While Redis is unavailable each
process uses its last share of the rate; without Redis a process has the whole rate.

    KEY                  TYPE, MEANING
        field                EXAMPLE                  MEANING

    limit:DEST:UNIT      hash: schedule of a limit; UNIT is requests or bytes; expires after 11 minutes without use
        due                  1767225600123456         where the free part of the schedule begins (us, Redis's clock)
        ID                   1767225600012345         last reservation of process ID (us); those of 10 s share the rate
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from redis.asyncio import Redis

from ..errors import JobReleased, RedisUnavailable
from ..model import Endpoint, Route, Window
from ..monitoring.metrics import Metrics
from ..queue.redis_calls import LuaScripts, keyspace
from ..s3 import Priority

log = logging.getLogger(__name__)

#: How long an unused part of the rate can still be used.
BURST_S = 1.0

#: Work reserved by one call, in seconds of the rate; at least one request or MIN_RESERVED_BYTES.
RESERVED_S = 0.1
MIN_RESERVED_BYTES = 16 * 1024

#: How long Redis is not called after it was unavailable.
REDIS_RETRY_S = 5.0

#: Slower than this, a store drops the connection of a stream.
MIN_STREAM_BYTES_PER_S = 32 * 1024

INITIAL_MEAN_BYTES = 256 * 1024

_UNLIMITED = 1 << 62


class Reservation(NamedTuple):
    """A reserved stretch of a schedule.

    Attributes:
        wait_s: until it begins.
        credit_s: time that is still unreserved; negative if the schedule is reserved ahead.
        sharers: processes that share the rate.
    """

    wait_s: float
    credit_s: float
    sharers: int


class LocalGcra:
    """The schedule of one process, which has one `sharers`th of the rate."""

    def __init__(self, burst_s: float) -> None:
        self.sharers = 1
        self._burst_s = burst_s
        self._due_s = 0.0

    async def reserve(self, seconds: float) -> Reservation:
        """Reserve the next free stretch of this length."""
        now_s = time.monotonic()
        start_s = max(self._due_s, now_s - self._burst_s)
        self._due_s = start_s + seconds * self.sharers
        return Reservation(max(start_s - now_s, 0.0), now_s - self._due_s, self.sharers)


class RedisGcra:
    """A schedule shared through Redis; while that is unavailable, this process's last share of the rate."""

    def __init__(self, client: Redis, key: str) -> None:
        self._id = secrets.token_hex(6)
        self._scripts = LuaScripts(client, __package__, key)
        self._fallback = LocalGcra(burst_s=0.0)
        self._retry_at_s = 0.0

    async def reserve(self, seconds: float) -> Reservation:
        """Reserve the next free stretch of this length."""
        if time.monotonic() >= self._retry_at_s:
            try:
                wait_us, credit_us, sharers = await self._scripts.run(
                    "rate_limiter", self._id, round(seconds * 1e6), round(BURST_S * 1e6)
                )
            except RedisUnavailable as error:
                log.warning("cannot share a rate limit, using this process's last share: %s", error)
                self._retry_at_s = time.monotonic() + REDIS_RETRY_S
            else:
                self._fallback.sharers = sharers
                return Reservation(wait_us / 1e6, credit_us / 1e6, sharers)
        return await self._fallback.reserve(seconds)


class UnitLimiter:
    """Limits one unit (requests or bytes) of one destination, in FIFO order within this process.

    Args:
        windows: the rates by hours of the day, in local time.
        min_amount: reserve no less at a time.
        on_wait: called with the seconds of every wait.

    Attributes:
        is_stopping: refuse requests of NORMAL priority that have to wait.
    """

    def __init__(
        self, windows: Sequence[Window], min_amount: int, gcra: LocalGcra | RedisGcra, on_wait: Callable[[float], None]
    ) -> None:
        self._windows = windows
        self._min_amount = min_amount
        self._gcra = gcra
        self._on_wait = on_wait
        self._turn = asyncio.Lock()
        self._reserved = 0.0
        self._last = Reservation(0.0, 0.0, 1)
        self._last_at_s = time.monotonic()
        self.is_stopping = False

    @property
    def per_s(self) -> float | None:
        """The rate at this time of day; None: unlimited."""
        now = time.localtime()
        minute = now.tm_hour * 60 + now.tm_min
        return next((window.per_s for window in self._windows if window.covers(minute)), None)

    @property
    def quantum(self) -> int:
        """The amount that is reserved at a time."""
        per_s = self.per_s
        return max(self._min_amount, int(per_s * RESERVED_S)) if per_s else _UNLIMITED

    @property
    def available(self) -> float:
        """Estimate the amount that this process can acquire without waiting."""
        credit_s = min(self._last.credit_s + time.monotonic() - self._last_at_s, BURST_S)
        return self._reserved + max(credit_s, 0.0) * (self.per_s or 0.0) / self._last.sharers

    async def acquire(self, amount: int, priority: Priority) -> None:
        """Wait until `amount` may be sent. Raises JobReleased; see `is_stopping`."""
        if self.per_s is None:
            return
        if priority is Priority.URGENT:
            await self._reserve(amount)
            return
        if self._reserved >= amount and not self._turn.locked():
            self._reserved -= amount
            return
        async with self._turn:
            missing = float(amount)
            while missing > 0:
                if self.is_stopping and priority is Priority.NORMAL:
                    raise JobReleased("stopped while waiting for the rate limit: another process continues the job")
                if self._reserved <= 0:
                    quantum = self.quantum
                    if not await self._reserve(quantum):
                        return
                    self._reserved = quantum
                part = min(missing, self._reserved)
                self._reserved -= part
                missing -= part

    async def _reserve(self, amount: int) -> bool:
        """Reserve, and wait until the reserved stretch begins. Return False if the limit has ended."""
        per_s = self.per_s
        if per_s is None:
            return False
        self._last, self._last_at_s = await self._gcra.reserve(amount / per_s), time.monotonic()
        if self._last.wait_s > 0:
            self._on_wait(self._last.wait_s)
            await asyncio.sleep(self._last.wait_s)
        return True


class DestinationRateLimiter:
    """The rate limits of one destination; implements `s3.RateLimiter`."""

    def __init__(self, route: Route, endpoint: Endpoint, client: Redis | None, metrics: Metrics) -> None:
        def on_wait(seconds: float) -> None:
            metrics.limit_wait_seconds[route.name, endpoint.name] += seconds

        def limiter(unit: str, windows: Sequence[Window], min_amount: int) -> UnitLimiter | None:
            if not windows:
                return None
            key = f"{keyspace(route.namespace, route.name)}limit:{endpoint.name}:{unit}"
            gcra = LocalGcra(BURST_S) if client is None else RedisGcra(client, key)
            return UnitLimiter(windows, min_amount, gcra, on_wait)

        self._requests = limiter("requests", endpoint.max_requests_per_s, 1)
        self._bytes = limiter("bytes", endpoint.max_bytes_per_s, MIN_RESERVED_BYTES)
        self._mean_bytes = float(INITIAL_MEAN_BYTES)

    async def admit(self, size_bytes: int, *, streamed: bool, priority: Priority = Priority.NORMAL) -> None:
        if self._requests:
            await self._requests.acquire(1, priority)
        if self._bytes and size_bytes:
            self._mean_bytes += (size_bytes - self._mean_bytes) / 16
            if not streamed:
                await self._bytes.acquire(size_bytes, priority)

    def stop_admitting(self) -> None:
        for limiter in (self._requests, self._bytes):
            if limiter:
                limiter.is_stopping = True

    async def admit_chunk(self, size_bytes: int) -> None:
        if self._bytes:
            await self._bytes.acquire(size_bytes, Priority.STARTED)

    @property
    def chunk_bytes(self) -> int:
        return self._bytes.quantum if self._bytes else _UNLIMITED

    def slots(self, share: int) -> int | None:
        """Return how many jobs may run for the destination, given its share of the slots; None: any number.

        A job beyond that would only wait for the limit. Example: a share of 16, `max_bytes_per_s` 1 MiB, objects of
        256 KiB on average. With the rate exhausted 4 jobs run, as each second lets 4 objects pass. With half a second
        of unused rate 2 more objects pass without waiting, so 6 jobs run. Objects of 4 MiB would leave no job at all:
        2 always run. Objects of 1 KiB would allow 1,024, each too slow for the store: 1 MiB/s is enough for 32
        streams of MIN_STREAM_BYTES_PER_S, so the share of 16 counts.
        """
        counts = []
        if self._requests and self._requests.per_s:
            counts.append(share + int(self._requests.available))
        if self._bytes and (per_s := self._bytes.per_s):
            mean_bytes = max(self._mean_bytes, 1.0)
            streams = int(per_s / max(mean_bytes, MIN_STREAM_BYTES_PER_S))
            counts.append(min(share, max(streams, 2)) + int(self._bytes.available / mean_bytes))
        return min(counts) if counts else None


def rate_limiters(route: Route, client: Redis | None, metrics: Metrics) -> dict[str, DestinationRateLimiter]:
    """Return the rate limiters of a route's destinations by name, without those that have no limit.

    `client` None: the limits are not shared with other processes.
    """
    return {
        destination.name: DestinationRateLimiter(route, destination, client, metrics)
        for destination in route.destinations
        if destination.max_requests_per_s or destination.max_bytes_per_s
    }
