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
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterError,
    ConnectionError,
    InvalidResponse,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from .addresses import redacted, redis_url_advice
from .errors import ConfigError, RedisTooOld, RedisUnavailable
from .tasks import wait_at_most, within

__all__ = ["Patience", "answered", "check_version", "connect", "connected", "hearing", "redacted", "translated"]

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

ANSWER_TIMEOUT_S = 10.0
"""How long Redis may take to answer. Blocking reads ask for less than this."""

CONNECT_TIMEOUT_S = 5.0
SENTINEL_PORT = 26379
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0

_NOT_NOW = re.compile(
    r"\b(LOADING|READONLY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|BUSY|MISCONF|NOREPLICAS|UNBLOCKED|UNKILLABLE)\b"
)
"""Said by a server that is loading, failing over (UNBLOCKED: to blocking reads), or cannot write to its disk; in
the middle of the text where a script met it (Redis 6.2)."""

_LOST_IN_UVLOOP = "the handler is closed"
"""Said by uvloop (`UVHandle._ensure_alive`) to whoever writes on a connection that was reset a moment before; asyncio's
own loop has a ConnectionResetError for it."""

_CLUSTER_MOVES = (RedisClusterException, ClusterError, AskError, TryAgainError, NoScriptError)
"""What is left to say when a cluster's client has followed slots for as often as it does. It loads a script at the
masters that it knows of, and the call that follows may be led to another one."""

_FULL = re.compile(r"\bOOM\b")
"""How a script's error says it; of a plain command, redis-py makes an OutOfMemoryError."""

_MAY_NOT = re.compile(r"\b(NOPERM|ACL failure|no permissions to|can't (run|access) )")
"""What an ACL says to a user, by itself and from within a script (Redis 6.2 and 7.0)."""

_NO_DATABASE = re.compile(r"DB index|SELECT is not allowed")

OLDEST_VERSION = (6, 2)
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
        raise ConfigError([f"[pubsub] url = {redacted(url)!r}: {advice}"]) from None


class _Cluster(RedisCluster):
    """A cluster's client that can reach one of its nodes alone."""

    reach: Callable[[str, int], Redis]


def _node(url: str, options: dict[str, Any], host: str, port: int) -> Redis:
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Redis.from_url(urlunsplit(parts._replace(netloc=login + at + address)), **options)


@asynccontextmanager
async def hearing(client: Redis) -> AsyncIterator[Any]:
    """Yield a redis-py `PubSub`, and close it at the end.

    In a cluster it hears one of the nodes that are masters now, for each has every message (redis.io, "Redis cluster
    specification", "Publish/Subscribe"); another time another one, as the last may have died.

    Raises:
        RedisUnavailable: no node of the cluster answers.
    """
    node = None
    if isinstance(client, _Cluster):
        with translated():
            await client.aclose()  # and forget which nodes there were
            await client.initialize()
        chosen = random.choice(client.get_primaries())
        node = client.reach(chosen.host, int(chosen.port))
    pubsub: Any = (node or client).pubsub()
    try:
        yield pubsub
    finally:
        with suppress(Exception):  # it is given up; whether it can still say goodbye does not matter
            async with within(1.0):
                await pubsub.aclose()
            if node is not None:
                async with within(1.0):
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


@contextmanager
def translated() -> Iterator[None]:
    """Turn what redis-py raises into RedisUnavailable where another try, or somebody who looks after Redis, can help.

    An error of another kind (a script that is wrong, a key of the wrong type) passes: it is a defect.
    """
    try:
        yield
    except AuthenticationError as error:
        raise RedisUnavailable(f"Redis refuses the password ({error}): look at [pubsub] url") from error
    except OutOfMemoryError as error:
        raise _full() from error
    except (ConnectionError, TimeoutError, ReadOnlyError, *_CLUSTER_MOVES, OSError) as error:
        where = "; look at [pubsub] url" if "connecting to" in str(error) else ""
        raise RedisUnavailable(f"Redis cannot be reached: {str(error).removesuffix('.')}{where}") from error
    except InvalidResponse as error:
        raise RedisUnavailable(f"what answers is no Redis ({error}): look at [pubsub] url") from error
    except RuntimeError as error:
        if _LOST_IN_UVLOOP not in str(error):
            raise
        raise RedisUnavailable("Redis cannot be reached: the connection was lost") from error
    except ResponseError as error:
        if _FULL.search(str(error)):
            raise _full() from error
        if _NOT_NOW.search(str(error)):
            raise RedisUnavailable(f"Redis refuses work for now: {error}") from error
        if _MAY_NOT.search(str(error)):
            raise RedisUnavailable(
                f"Redis says that its user may not do what s3s3 needs ({error}): look at the user in [pubsub] url, and "
                "at its ACL"
            ) from error
        if _NO_DATABASE.search(str(error)):
            raise RedisUnavailable(f"Redis has no such database ({error}): look at [pubsub] url") from error
        raise


def _full() -> RedisUnavailable:
    return RedisUnavailable("Redis is full (maxmemory): give it more memory, or drop dead letters")


class Patience:
    """Asks Redis until it answers, for ever: a daemon outlives its Redis.

    Whatever asks at the same time shares one, so that people are told once that it is away, and once that it is back.
    """

    def __init__(self) -> None:
        self._is_away = False

    async def answered(self, ask: Callable[[], Awaitable[Answer]], stop: asyncio.Event | None = None) -> Answer:
        """Ask until Redis answers.

        Raises:
            RedisUnavailable: it does not answer, and `stop` is set.
        """
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                answer = await ask()
            except RedisUnavailable as error:
                self._say_away(error)
                if await self._pause(pause_s, stop):
                    raise
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            else:
                self._say_back()
                return answer

    async def _pause(self, longest_s: float, stop: asyncio.Event | None) -> bool:
        """Wait before asking again; return whether a stop came."""
        pause_s = random.uniform(longest_s / 2, longest_s)
        if stop is not None:
            return await wait_at_most(stop, pause_s)
        await asyncio.sleep(pause_s)
        return False

    def _say_away(self, error: RedisUnavailable) -> None:
        if not self._is_away:
            log.warning("%s; trying again until it answers", error)
        self._is_away = True

    def _say_back(self) -> None:
        if self._is_away:
            log.warning("Redis answers again")
        self._is_away = False


async def answered(ask: Callable[[], Awaitable[Answer]], stop: asyncio.Event | None = None) -> Answer:
    """Ask with a patience of one's own. Raises what `Patience.answered` raises."""
    return await Patience().answered(ask, stop)


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
