"""Register this process in Redis and publish its heartbeat and metric deltas.

Keys, under the route's prefix:

    processes       sorted set: the processes, by the time of their last heartbeat (ms); kept for an hour after it, or
                    until they deregister
    processes:info  hash: a JSON object for each process: {host, pid, version, command, started_ms, running, is_leader,
                    health_problem, fingerprint}
    fingerprint     hash: fingerprint, what the route means to its processes (JSON: source, channel, destinations by
                    name); token, which changes when a process replaces it with another meaning

A process to which the route means something else is refused at its start, so that two services do not share keys. One
that was superseded notices it at its next heartbeat; until then its claims, which carry the token, return nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

from redis.asyncio import Redis

from .. import __version__
from ..errors import RedisUnavailable, RouteConflict
from ..model import Outcome, Route
from ..queue.redis_calls import LuaScripts
from ..queue.redis_queue import RedisJobQueue
from .fingerprint import Fingerprint, conflict_from
from .history import History, MetricsDelta
from .metrics import Metrics

log = logging.getLogger(__name__)

HEARTBEAT_INTERVAL_S = 5.0

#: A process without a heartbeat for this time, in seconds, counts as silent.
SILENT_AFTER_S = 3 * HEARTBEAT_INTERVAL_S

#: How long Redis keeps a process after its last heartbeat, in seconds.
RETENTION_S = 3600


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process that works on a route, as its last heartbeat described it.

    Attributes:
        command: listen, mirror or bucket.
        running: the number of jobs that it is running.
        is_leader: whether it enqueues the messages of the route's channel.
        health_problem: why it does not work, or "" while it works.
        fingerprint: the fields of its `Fingerprint`; None: unknown.
        silent_s: the age of its last heartbeat, by Redis's clock.
    """

    id: str
    host: str
    pid: int
    version: str
    command: str
    started_ms: int
    running: int = 0
    is_leader: bool = False
    health_problem: str = ""
    fingerprint: Mapping[str, Any] | None = None
    silent_s: float = 0.0

    @property
    def is_silent(self) -> bool:
        """Whether its last heartbeat is older than `SILENT_AFTER_S`."""
        return self.silent_s > SILENT_AFTER_S


class ProcessRegistry:
    """The processes of the route with this prefix of Redis keys."""

    def __init__(self, client: Redis, prefix: str) -> None:
        self._scripts = LuaScripts(client, __package__, prefix)

    async def register(self, process: ProcessInfo, mode: str = "beat", source: str = "") -> Sequence[Any]:
        """Record a heartbeat, and the fingerprint; return the reply of heartbeat.lua. Raises RedisUnavailable.

        Args:
            process: its id "" checks and records the fingerprint only.
            mode: as in heartbeat.lua.
            source: name of the route's source.
        """
        info = {name: value for name, value in asdict(process).items() if name not in ("id", "silent_s")}
        reply: Sequence[Any] = await self._scripts.run(
            "heartbeat", "register", process.id, json.dumps(info), RETENTION_S, mode, secrets.token_hex(8),
            int(SILENT_AFTER_S * 1000), source,
        )  # fmt: skip
        return reply

    async def deregister(self, process_id: str) -> None:
        """Remove a process. Raises RedisUnavailable."""
        await self._scripts.run("heartbeat", "deregister", process_id)

    async def processes(self) -> Sequence[ProcessInfo]:
        """Return the processes of the last hour that have not deregistered. Raises RedisUnavailable."""
        found = await self._scripts.run("heartbeat", "list")
        known = {field.name for field in fields(ProcessInfo)}
        processes = []
        for process_id, text, silent_ms in zip(found[::3], found[1::3], found[2::3], strict=True):
            info = {name: value for name, value in json.loads(text).items() if name in known}  # others are newer
            processes.append(ProcessInfo(id=process_id, silent_s=int(silent_ms) / 1000, **info))
        return sorted(processes, key=lambda process: (process.host, process.pid))


def _this_process(process_id: str, command: str, fingerprint: Fingerprint) -> ProcessInfo:
    return ProcessInfo(
        process_id, socket.gethostname(), os.getpid(), __version__, command, int(time.time() * 1000),
        fingerprint=fingerprint._asdict(),
    )  # fmt: skip


async def claim_route(
    route: Route, jobs: RedisJobQueue, command: str, *, take_over: bool = False, verify: bool = False
) -> None:
    """Check, for a process without a heartbeat, that its route means to others what it means here; record that.

    The channel is not compared: such a process does not listen.

    Args:
        take_over: replace another meaning.
        verify: record nothing.

    Raises:
        RouteConflict: a running process, or what is in Redis, has another meaning of the route.
        RedisUnavailable: Redis did not respond.
    """
    fingerprint = Fingerprint.of(route, command)
    mode = "verify" if verify else "take-over" if take_over else "start"
    process = _this_process("", command, fingerprint)
    reply = await ProcessRegistry(jobs.client, jobs.prefix).register(process, mode, route.source.name)
    if conflict := conflict_from(reply, route.name, fingerprint, command):
        raise conflict
    _log_replaced(route.name, reply)


def _log_replaced(route: str, reply: Sequence[Any]) -> None:
    _, _, replaced, before = reply
    if replaced:
        advice = "everything is compared" if replaced == "channel" else "run `s3s3 bucket` once"
        log.warning("route %s: replaced another %s of this route in Redis, %s; it was %s",
                    route, replaced, advice, before)  # fmt: skip


class ProcessState(NamedTuple):
    """The part of a `ProcessInfo` that changes while the process runs."""

    running: int
    is_leader: bool
    health_problem: str


class Heartbeat:
    """The heartbeat of this process in one route.

    Args:
        state: returns the current state; called before each heartbeat.
        command: listen, mirror or bucket.

    Attributes:
        conflict: why this process may not work on the route any more; None while it may.
        superseded: set together with `conflict`.
    """

    def __init__(
        self,
        route: Route,
        jobs: RedisJobQueue,
        metrics: Metrics,
        state: Callable[[], ProcessState],
        command: str = "listen",
    ) -> None:
        self._route = route
        self._fingerprint = Fingerprint.of(route, command)
        self.conflict: RouteConflict | None = None
        self.superseded = asyncio.Event()
        self._jobs = jobs
        self._registry = ProcessRegistry(jobs.client, jobs.prefix)
        self._history = History(jobs.client, jobs.prefix)
        self._delta = MetricsDelta(route, metrics)
        self._state = state
        self._process = _this_process(jobs.consumer, command, self._fingerprint)

    def record_failures(self, outcomes: Sequence[Outcome]) -> None:
        """Publish the failures among these outcomes with the next heartbeat."""
        self._delta.record_failures(outcomes)

    async def run(self) -> None:
        """Send heartbeats until cancelled. While Redis is unavailable none is sent, and nothing is lost."""
        while True:
            try:
                await self.send()
            except RedisUnavailable as error:  # the worker logs that as a warning
                log.debug("no heartbeat: %s", error)
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)

    async def send(self) -> None:
        """Send one heartbeat and the metric deltas since the last one. Raises RedisUnavailable."""
        await self._register("beat")
        await self._delta.publish(self._history)

    async def start(self, take_over: bool = False) -> None:
        """Register this process, unless the route means something else to others.

        Args:
            take_over: replace another meaning. The processes that have it stop working on the route.

        Raises:
            RouteConflict: a running process, or what is in Redis, has another meaning of the route.
            RedisUnavailable: Redis did not respond.
        """
        await self._register("take-over" if take_over else "start")
        if self.conflict is not None:
            raise self.conflict

    async def _register(self, mode: str) -> None:
        process = replace(self._process, **self._state()._asdict())
        reply = await self._registry.register(process, mode, self._route.source.name)
        conflict = conflict_from(reply, self._route.name, self._fingerprint, process.command)
        if conflict is not None:
            if self.conflict is None and mode == "beat":
                log.error("%s", conflict)
            self.conflict = conflict
            self.superseded.set()
            return
        self._jobs.route_token = str(reply[1])
        _log_replaced(self._route.name, reply)

    async def deregister(self) -> None:
        """Remove this process's consumer, publish the last metric deltas, and deregister. Raises RedisUnavailable."""
        await self._jobs.remove_consumer()
        await self._delta.publish(self._history)
        await self._registry.deregister(self._process.id)
