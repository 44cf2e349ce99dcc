"""What is wrong with a Redis that is to keep the queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis

from ..queue.connection import check_version
from ..queue.redis_errors import translate_errors
from .selection import listeners


@dataclass
class RedisFindings:
    """What was found out of Redis. None is what it does not tell.

    Attributes:
        subscribers: by channel, connections that are subscribed to it; each listener has one for each route.
        maxmemory_bytes: 0 is no limit.
        wrong: what has to be cured, with the command that cures it.
        notes: what is worth knowing.
    """

    address: str
    channels: Sequence[str]
    reachable: bool = False
    version: str | None = None
    append_only_file: bool | None = None
    maxmemory_bytes: int | None = None
    maxmemory_policy: str | None = None
    subscribers: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


async def probe_redis(client: Redis, findings: RedisFindings) -> None:
    """Ask Redis.

    Raises:
        RedisUnavailable: it cannot be reached.
        RedisTooOld: it is older than 6.2.
    """
    findings.version = await check_version(client)
    findings.reachable = True
    with translate_errors():
        about: dict[str, Any] = await client.info()
    for node in [about] if "redis_version" in about else about.values():
        _look_at(node, findings)
    for channel in findings.channels:
        findings.subscribers[channel] = await listeners(client, channel)
        if not findings.subscribers[channel]:
            findings.notes.append(f"Redis: nobody is subscribed to channel {channel!r}: no `s3s3 listen` runs")


def _look_at(node: dict[str, Any], findings: RedisFindings) -> None:
    """Take what one server says of itself (redis.io, "INFO")."""
    if "aof_enabled" in node:
        findings.append_only_file = bool(node["aof_enabled"]) and findings.append_only_file is not False
    if findings.append_only_file is False:
        _tell(findings.notes, "Redis has no append-only file, so its crash loses what is queued", "appendonly yes")
    findings.maxmemory_policy = node.get("maxmemory_policy")
    findings.maxmemory_bytes = node.get("maxmemory")
    if findings.maxmemory_policy not in (None, "noeviction"):
        what = f"Redis throws queued keys away when memory is short (maxmemory-policy {findings.maxmemory_policy})"
        _tell(findings.wrong if findings.maxmemory_bytes else findings.notes, what, "maxmemory-policy noeviction")


def _tell(lines: list[str], what: str, setting: str) -> None:
    line = f"{what}; to cure it: redis-cli CONFIG SET {setting}, then redis-cli CONFIG REWRITE"
    if line not in lines:  # several nodes of a cluster have the same to say
        lines.append(line)
