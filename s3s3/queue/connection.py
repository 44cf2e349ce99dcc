"""Connect to Redis or Valkey: standalone, Sentinel or Cluster.

URLs: `redis://`, `rediss://` (TLS) and `unix://` as in redis-py;
`redis+sentinel://[[user]:password@]host:port[,host:port...]/SERVICE[/DB]` and `redis+cluster://host:port`, or
`rediss+...` for TLS. Options follow a `?`, as in redis-py: `ssl_ca_certs=FILE`. User and password are those of the
servers; sentinels have their own: `?sentinel_username=...&sentinel_password=...`. With TLS they are reached by TLS too.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import cache, partial
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from ..config.addresses import redacted_url, redis_url_advice
from ..errors import ConfigError, RedisTooOld, RedisUnavailable
from ..model import Secret
from ..tasks import connect_socket, timeout
from .redis_calls import translate_errors

log = logging.getLogger(__name__)

#: Timeout of a response. Blocking reads wait for less than this.
RESPONSE_TIMEOUT_S = 10.0

CONNECT_TIMEOUT_S = 5.0
SENTINEL_PORT = 26379

#: XAUTOCLAIM and ZADD GT came with Redis 6.2 (redis.io command pages).
MIN_VERSION = (6, 2)


def connect(url: str | Secret, *, decode: bool = True) -> Redis:
    """Return a client that connects at its first command and does not retry (see `RedisRetry`).

    `decode`: return responses as `str`; False: as `bytes`, for messages that may not be UTF-8.
    Raises ConfigError if the URL is invalid.
    """
    if isinstance(url, Secret):
        url = url.get_secret_value()
    options: dict[str, Any] = {
        "decode_responses": decode,
        "socket_timeout": RESPONSE_TIMEOUT_S,
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
            # The cluster client needs its own retry to follow slots that move during a failover.
            del options["retry"]
            plain_url = url.replace("+cluster", "", 1)
            cluster: Any = _Cluster.from_url(plain_url, **options)
            _race_addresses_of_nodes(cluster)
            cluster.connect_node = partial(_connect_node, plain_url, {**options, "retry": Retry(NoBackoff(), 0)})
            return cluster  # type: ignore[no-any-return]
        if scheme == "unix":
            del options["socket_keepalive"]  # which a Unix socket does not have
        return _race_addresses(Redis.from_url(url, **options))
    except (ValueError, RedisError):
        # The exception's text may quote a part of the password.
        advice = redis_url_advice(url) or "invalid URL"
        raise ConfigError([f"[pubsub] url = {redacted_url(url)!r}: {advice}"]) from None


class _Cluster(RedisCluster):
    """A cluster client that can connect to a single node."""

    connect_node: Callable[[str, int], Redis]

    def publish(self, channel: Any, message: Any, **options: Any) -> Any:
        """Publish a message on some node; redis-py 6 lacks this for a cluster."""
        return self.execute_command("PUBLISH", channel, message, **options)


def _connect_node(url: str, options: dict[str, Any], host: str, port: int) -> Redis:
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return _race_addresses(Redis.from_url(urlunsplit(parts._replace(netloc=login + at + address)), **options))


class _RacingConnection(Connection):
    """Connects to the first address of its host that accepts (`connect_socket`)."""

    async def _connect(self) -> None:
        async with timeout(self.socket_connect_timeout):
            self._socket = await connect_socket(self.host, port=self.port)
        await super()._connect()  # type: ignore[no-untyped-call]

    def _connection_arguments(self) -> Mapping[str, Any]:
        arguments = dict(super()._connection_arguments())
        host, _ = arguments.pop("host"), arguments.pop("port")
        if "ssl" in arguments:
            arguments["server_hostname"] = host
        return {**arguments, "sock": self._socket}


@cache
def _racing(connection_class: type[Any]) -> type[Any]:
    """Return redis-py's class of connections with `_RacingConnection`; that of a Unix socket as it is."""
    if not issubclass(connection_class, Connection):
        return connection_class
    return type(connection_class.__name__, (_RacingConnection, connection_class), {})


def _race_addresses(client: Redis) -> Redis:
    pool: Any = client.connection_pool
    pool.connection_class = _racing(pool.connection_class)
    return client


def _race_addresses_of_nodes(cluster: Any) -> None:
    nodes = cluster.nodes_manager
    for node in nodes.startup_nodes.values():
        node.connection_class = _racing(node.connection_class)
        connection_class = node.connection_class
    for options in (cluster.connection_kwargs, nodes.connection_kwargs):
        options["connection_class"] = connection_class  # for nodes that are discovered later


class _SentinelClient(Redis):
    """A client of one sentinel. redis-py quotes its repr in messages; that of redis-py 6.4 has the password."""

    def __repr__(self) -> str:
        options = self.connection_pool.connection_kwargs
        return f"{options['host']}:{options['port']}"


@asynccontextmanager
async def subscriber(client: Redis) -> AsyncIterator[Any]:
    """Yield a redis-py `PubSub` and close it at the end.

    In a cluster every node receives every message (redis.io, "Redis cluster specification", "Publish/Subscribe"), so
    it is connected to a random master: the one chosen last time may be down. Raises RedisUnavailable if none responds.
    """
    node = None
    if isinstance(client, _Cluster):
        with translate_errors():
            await client.aclose()  # clears the list of nodes
            await client.initialize()
        master = random.choice(client.get_primaries())
        node = client.connect_node(master.host, int(master.port))
    pubsub: Any = (node or client).pubsub()
    try:
        yield pubsub
    finally:
        with suppress(Exception):  # the connection may be dead
            async with timeout(1.0):
                await pubsub.aclose()
            if node is not None:
                async with timeout(1.0):
                    await node.aclose()


def _sentinel_master(url: str, options: dict[str, Any]) -> Redis:
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("no service name")
    addresses = [urlsplit(f"//{address}") for address in hosts.split(",")]
    scheme = parts.scheme.partition("+")[0]
    # The rest of the URL is redis-py's: the login and the options behind the "?".
    plain_url = urlunsplit((scheme, f"{login}{at}host", f"/{database or 0}", parts.query, ""))
    parsed: dict[str, Any] = dict(parse_url(plain_url))
    sentinel_login, query = {}, parse_qs(parts.query)
    for name in ("username", "password"):
        parsed.pop(f"sentinel_{name}", None)  # decoded twice by redis-py 6 and 7
        sentinel_login[name] = query.get(f"sentinel_{name}", [None])[0]
    own = {name: value for name, value in parsed.items() if name not in ("host", "port", "connection_class")}
    make_sentinel: Any = Sentinel
    # An unavailable sentinel costs one attempt; the client goes on to the next one.
    sentinel_options: dict[str, Any] = {
        "socket_timeout": CONNECT_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "ssl": scheme == "rediss",
        **sentinel_login,
        **{name: value for name, value in own.items() if name.startswith("ssl_")},
    }
    sentinel = make_sentinel([], **options)
    sentinel.sentinels = [
        _race_addresses(
            _SentinelClient(host=address.hostname or "", port=address.port or SENTINEL_PORT, **sentinel_options)
        )
        for address in addresses
    ]
    return _race_addresses(sentinel.master_for(service, **own))


@asynccontextmanager
async def connected(url: str | Secret) -> AsyncIterator[Redis]:
    """Yield a client; close it at the end. Raises ConfigError, RedisUnavailable and RedisTooOld."""
    client = connect(url)
    try:
        await check_version(client)
        yield client
    finally:
        await client.aclose()


def eviction_problem(info: Mapping[str, Any]) -> str:
    """Return the problem in an INFO of a server that evicts keys when its memory is full (redis.io, "INFO"), or ""."""
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        return ""
    return f"Redis evicts queued keys when memory is short (maxmemory-policy {policy})"


async def warn_if_evicting(client: Redis) -> None:
    """Log a warning if a server evicts keys; without permission for INFO, log nothing."""
    try:
        nodes = await info(client, "memory")
    except RedisUnavailable as error:
        log.debug("cannot read maxmemory-policy: %s", error)
        return
    for node in nodes:
        if problem := eviction_problem(node):
            log.warning("%s; fix: redis-cli CONFIG SET maxmemory-policy noeviction", problem)
            return


async def check_version(client: Redis) -> str:
    """Return the server's version; "unknown" if INFO is forbidden or renamed.

    Raises RedisUnavailable, and RedisTooOld if it is older than `MIN_VERSION`.
    """
    nodes = await info(client, "server")
    if not nodes:
        return "unknown"
    version = str(nodes[0]["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < MIN_VERSION:
        raise RedisTooOld(f"Redis {version} is too old: s3s3 needs Redis 6.2 or Valkey, for XAUTOCLAIM")
    return version


async def info(client: Redis, section: str = "") -> list[Mapping[str, Any]]:
    """Return a section of each node's INFO, or all of it; [] if the user may not run INFO, or it is renamed.

    Raises RedisUnavailable.
    """
    with translate_errors():
        try:
            found: Any = await client.info(*filter(None, [section]))
        except ResponseError as error:
            if not re.search(r"(?i)unknown command|NOPERM|no permissions", str(error)):
                raise
            return []
    is_by_node = all(isinstance(value, Mapping) for value in found.values())  # from a cluster client
    return list(found.values()) if is_by_node else [found]
