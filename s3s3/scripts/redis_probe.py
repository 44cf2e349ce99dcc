"""Check the Redis server, for `s3s3 check`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis

from ..queue.connection import check_version
from ..queue.redis_calls import translate_errors
from .selection import count_subscribers


@dataclass
class RedisFindings:
    """Properties of the Redis server; None is unknown.

    Attributes:
        subscribers: connections that subscribe to each channel; each listener has one for each route.
        maxmemory_bytes: 0 is no limit.
        errors: problems, with the command that fixes each.
        notes: what an operator should know.
    """

    address: str
    channels: Sequence[str]
    reachable: bool = False
    version: str | None = None
    append_only_file: bool | None = None
    maxmemory_bytes: int | None = None
    maxmemory_policy: str | None = None
    subscribers: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


async def probe_redis(client: Redis, findings: RedisFindings) -> None:
    """Fill in the findings.

    Raises:
        RedisUnavailable: it cannot be reached.
        RedisTooOld: it is older than 6.2.
    """
    findings.version = await check_version(client)
    findings.reachable = True
    with translate_errors():
        info: dict[str, Any] = await client.info()
    for node in [info] if "redis_version" in info else info.values():
        _check_node(node, findings)
    for channel in findings.channels:
        findings.subscribers[channel] = await count_subscribers(client, channel)
        if not findings.subscribers[channel]:
            findings.notes.append(f"Redis: no subscriber on channel {channel!r}: s3s3 listen is not running")


def _check_node(info: dict[str, Any], findings: RedisFindings) -> None:
    """Check the INFO of one node (redis.io, "INFO")."""
    if "aof_enabled" in info:
        findings.append_only_file = bool(info["aof_enabled"]) and findings.append_only_file is not False
    if findings.append_only_file is False:
        _add(findings.notes, "Redis has no append-only file: if it crashes, queued keys are lost", "appendonly yes")
    findings.maxmemory_policy = info.get("maxmemory_policy")
    findings.maxmemory_bytes = info.get("maxmemory")
    if findings.maxmemory_policy not in (None, "noeviction"):
        problem = f"Redis evicts queued keys when memory is short (maxmemory-policy {findings.maxmemory_policy})"
        _add(findings.errors if findings.maxmemory_bytes else findings.notes, problem, "maxmemory-policy noeviction")


def _add(lines: list[str], problem: str, setting: str) -> None:
    line = f"{problem}; fix: redis-cli CONFIG SET {setting}, then redis-cli CONFIG REWRITE"
    if line not in lines:  # the nodes of a cluster may share a problem
        lines.append(line)
