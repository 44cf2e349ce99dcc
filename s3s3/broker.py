"""The connection to Redis (or Valkey), and its errors translated once.

URLs: `redis://`, `rediss://` and `unix://` as redis-py reads them;
`redis+sentinel://[:password@]host:port[,host:port...]/SERVICE[/DB]`;
`redis+cluster://host:port`. `rediss+...` for TLS.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,
)

from .errors import ConfigError, RedisTooOld, RedisUnavailable

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

ANSWER_TIMEOUT_S = 10.0
"""How long Redis may take to answer. Blocking reads ask for less than this."""

CONNECT_TIMEOUT_S = 5.0
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0

OLDEST_VERSION = (6, 2)
"""XAUTOCLAIM and ZADD GT came with Redis 6.2 (redis.io command pages)."""


def redacted(url: str) -> str:
    """Return the URL as it may be shown to people: without user and password."""
    return re.sub(r"//[^/@]*@", "//***@", url)


def connect(url: str, *, decode: bool = True) -> Redis:
    """Return a client for `url`. Nothing is sent before its first command.

    `decode`: answers are `str`, else `bytes`, as a channel needs whose messages may be no UTF-8.

    Retries belong to whoever owns the loop that asks, so the client itself has none.

    Raises:
        ConfigError: the URL cannot be understood.
    """
    options: dict[str, Any] = {
        "decode_responses": decode,
        "socket_timeout": ANSWER_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    try:
        scheme, _, kind = url.partition("://")[0].partition("+")
        if kind == "sentinel":
            return _sentinel_master(url, {**options, "ssl": scheme == "rediss"})
        if kind == "cluster":
            # The cluster's client needs its own retry to follow slots that move during a failover.
            del options["retry"]
            cluster: Any = RedisCluster.from_url(url.replace("+cluster", "", 1), **options)
            return cluster  # type: ignore[no-any-return]
        return Redis.from_url(url, **options)
    except (ValueError, RedisError) as error:
        raise ConfigError([f"[pubsub] url = {redacted(url)!r}: {error}"]) from error


def _sentinel_master(url: str, options: dict[str, Any]) -> Redis:
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2]
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("the path has to name the service that the sentinels watch, as in /mymaster")
    sentinels = []
    for address in hosts.split(","):
        host, _, port = address.rpartition(":")
        sentinels.append((host or address, int(port) if host else 26379))
    make_sentinel: Any = Sentinel
    watch = make_sentinel(sentinels, sentinel_kwargs={"socket_timeout": CONNECT_TIMEOUT_S}, **options)
    master: Redis = watch.master_for(
        service,
        db=int(database or 0),
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
    )
    return master


@contextmanager
def translated() -> Iterator[None]:
    """Turn what redis-py raises into RedisUnavailable where another try can help.

    An error of another kind (a script that is wrong, a key of the wrong type) passes: it is a defect.
    """
    try:
        yield
    except AuthenticationError as error:
        raise RedisUnavailable(f"Redis refuses the password ({error}): look at [pubsub] url") from error
    except OutOfMemoryError as error:
        raise RedisUnavailable("Redis is full (maxmemory): give it more memory, or drop dead letters") from error
    except (ConnectionError, TimeoutError, ReadOnlyError, RedisClusterException, OSError) as error:
        raise RedisUnavailable(f"Redis cannot be reached: {error}") from error
    except ResponseError as error:
        if _says_not_now(str(error)):
            raise RedisUnavailable(f"Redis refuses work for now: {error}") from error
        raise


def _says_not_now(text: str) -> bool:
    """Whether an error text is of a server that is loading, full, failing over or writing nothing to its disk."""
    return text.startswith(("LOADING", "OOM", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "MISCONF",
                            "NOREPLICAS", "UNKILLABLE")) or "OOM command not allowed" in text  # fmt: skip


async def answered(ask: Callable[[], Awaitable[Answer]], stop: asyncio.Event | None = None) -> Answer:
    """Ask until Redis answers, for ever: a daemon outlives its Redis. Says once that it is away, once that it is back.

    Raises:
        RedisUnavailable: it does not answer, and `stop` is set.
    """
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            answer = await ask()
        except RedisUnavailable as error:
            if stop is not None and stop.is_set():
                raise
            if pause_s == FIRST_PAUSE_S:
                log.warning("%s; trying again until it answers", error)
            await asyncio.sleep(random.uniform(pause_s / 2, pause_s))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        else:
            if pause_s > FIRST_PAUSE_S:
                log.warning("Redis answers again")
            return answer


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Redis]:
    """Yield a client that has been shown to work, and close it at the end.

    Raises:
        RedisUnavailable: it cannot be reached.
        RedisTooOld: it is older than 6.2.
    """
    client = connect(url)
    try:
        await check_version(client)
        yield client
    finally:
        await client.aclose()


async def check_version(client: Redis) -> str:
    """Return the server's version.

    Raises:
        RedisUnavailable: it cannot be reached.
        RedisTooOld: it is older than `OLDEST_VERSION`.
    """
    with translated():
        server: Any = await client.info("server")
    if "redis_version" not in server:  # a cluster answers by node
        server = next(iter(server.values()))
    version = str(server["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_VERSION:
        raise RedisTooOld(f"Redis {version} is too old: s3s3 needs Redis 6.2 or Valkey, for XAUTOCLAIM")
    return version
