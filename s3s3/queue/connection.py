"""The connection to Redis (or Valkey), and its errors translated once.

URLs: `redis://`, `rediss://` and `unix://` as redis-py reads them;
`redis+sentinel://[:password@]host:port[,host:port...]/SERVICE[/DB]`;
`redis+cluster://host:port`. `rediss+...` for TLS.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import (
    RedisError,
)

from ..config.addresses import redacted_url, redis_url_advice
from ..errors import ConfigError, RedisTooOld
from ..tasks import timeout
from .redis_errors import translate_errors
from .redis_retry import RedisRetry, retry_until_available

__all__ = [
    "RedisRetry",
    "check_version",
    "connect",
    "connected",
    "redacted_url",
    "retry_until_available",
    "subscriber",
    "translate_errors",
]

log = logging.getLogger(__name__)


ANSWER_TIMEOUT_S = 10.0
"""How long Redis may take to answer. Blocking reads ask for less than this."""

CONNECT_TIMEOUT_S = 5.0
SENTINEL_PORT = 26379


MIN_VERSION = (6, 2)
"""XAUTOCLAIM and ZADD GT came with Redis 6.2 (redis.io command pages)."""


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
        "retry": _no_retry(),
        "protocol": 2,
    }
    try:
        scheme, _, kind = url.partition("://")[0].partition("+")
        if kind == "sentinel":
            return _sentinel_master(url, {**options, "ssl": scheme == "rediss"})
        if kind == "cluster":
            # The cluster's client needs its own retry to follow slots that move during a failover.
            del options["retry"]
            plain_url = url.replace("+cluster", "", 1)
            cluster: Any = _Cluster.from_url(plain_url, **options)
            cluster.reach = partial(_node, plain_url, {**options, "retry": _no_retry()})
            return cluster  # type: ignore[no-any-return]
        return Redis.from_url(url, **options)
    except (ValueError, RedisError):
        # What the error says may quote a part of the URL that belongs to its password.
        advice = redis_url_advice(url) or "it cannot be understood"
        raise ConfigError([f"[pubsub] url = {redacted_url(url)!r}: {advice}"]) from None


class _Cluster(RedisCluster):
    """A cluster's client that can reach one of its nodes alone."""

    reach: Callable[[str, int], Redis]


def _node(url: str, options: dict[str, Any], host: str, port: int) -> Redis:
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Redis.from_url(urlunsplit(parts._replace(netloc=login + at + address)), **options)


@asynccontextmanager
async def subscriber(client: Redis) -> AsyncIterator[Any]:
    """Yield a redis-py `PubSub`, and close it at the end.

    In a cluster it hears one of the nodes that are masters now, for each has every message (redis.io, "Redis cluster
    specification", "Publish/Subscribe"); another time another one, as the last may have died.

    Raises:
        RedisUnavailable: no node of the cluster answers.
    """
    node = None
    if isinstance(client, _Cluster):
        with translate_errors():
            await client.aclose()  # and forget which nodes there were
            await client.initialize()
        chosen = random.choice(client.get_primaries())
        node = client.reach(chosen.host, int(chosen.port))
    pubsub: Any = (node or client).pubsub()
    try:
        yield pubsub
    finally:
        with suppress(Exception):  # it is given up; whether it can still say goodbye does not matter
            async with timeout(1.0):
                await pubsub.aclose()
            if node is not None:
                async with timeout(1.0):
                    await node.aclose()


def _no_retry() -> Retry:
    return Retry(NoBackoff(), 0)


def _sentinel_master(url: str, options: dict[str, Any]) -> Redis:
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2]
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("no service")
    addresses = [urlsplit(f"//{address}") for address in hosts.split(",")]
    sentinels = [(address.hostname, address.port or SENTINEL_PORT) for address in addresses]
    make_sentinel: Any = Sentinel
    # A sentinel that is away costs no more than one try: the next one is asked.
    asking = {"socket_timeout": CONNECT_TIMEOUT_S, "socket_connect_timeout": CONNECT_TIMEOUT_S, "retry": _no_retry()}
    watch = make_sentinel(sentinels, sentinel_kwargs=asking, **options)
    master: Redis = watch.master_for(
        service,
        db=int(database or 0),
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
    )
    return master


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
        RedisTooOld: it is older than `MIN_VERSION`.
    """
    with translate_errors():
        server: Any = await client.info("server")
    if "redis_version" not in server:  # a cluster answers by node
        server = next(iter(server.values()))
    version = str(server["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < MIN_VERSION:
        raise RedisTooOld(f"Redis {version} is too old: s3s3 needs Redis 6.2 or Valkey, for XAUTOCLAIM")
    return version
